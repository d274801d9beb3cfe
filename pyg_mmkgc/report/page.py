r"""How pages are made and written."""
import math
from pathlib import Path
from typing import Any

import jinja2

import pyg_mmkgc
from pyg_mmkgc.data import picture_address
from pyg_mmkgc.data.io import PathLike, atomic_write

FOLDER = Path(__file__).parent / 'templates'
#: Stands near the beginning of each page, and so tells a page from a file of somebody else.
GENERATOR = '<meta name="generator" content="pyg_mmkgc'
_HEAD_BYTES = 1024
METRICS = {'mrr': 'MRR', 'hits@1': 'Hits@1', 'hits@3': 'Hits@3', 'hits@10': 'Hits@10',
           'amri': 'AMRI', 'mr': 'MR'}


def render(template: str, *folders: Path, **context: Any) -> str:
    r"""Fill in a template of the package. Whatever is filled in is escaped.

    Args:
        template (str): The name of its file.
        *folders (Path): Where templates lie beside those of this sub-package.
        **context: What it names.
    """
    # In all files whatever their name, not by suffix: labels may hold any markup.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([FOLDER, *folders]), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters.update(metric=format_metric, percent=format_percent,
                               number=format_number, picture=picture_address)
    return environment.get_template(template).render(
        version=pyg_mmkgc.__version__, metric_names=METRICS, **context)


def write_page(page: str, path: PathLike) -> None:
    r"""Write a page, whole or not at all. A page of this package is replaced, nothing else is.

    Args:
        page (str): The page.
        path (str or os.PathLike): The file.

    Raises:
        FileExistsError: If another file has the name.
        OSError: If it cannot be written.
    """
    path = Path(path)
    if path.exists():
        with open(path, 'rb') as f:
            if GENERATOR.encode() not in f.read(_HEAD_BYTES):
                raise FileExistsError(f"The file '{path}' exists, is no page of pyg-mmkgc and is "
                                      f'not overwritten')
    with atomic_write(path) as f:
        f.write(page)


def format_metric(value: float, key: str) -> str:
    r"""A metric as a number: the mean rank with one digit, all others with three."""
    return f'{value:.1f}' if key == 'mr' else f'{value:.3f}'


def format_percent(value: float) -> str:
    r"""A share in percent."""
    return f'{100 * value:.1f} %'


def format_number(value: float, digits: int = 3) -> str:
    r"""A number with as many significant digits, without an exponent where it can be."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 10**digits:
        return f'{value:,.0f}' if abs(value) < 1e15 else f'{value:.{digits}g}'
    return f'{value:.{digits}g}'
