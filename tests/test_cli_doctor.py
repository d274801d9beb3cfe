import importlib.util
import re

import torch
from click.testing import CliRunner

import pyg_mmkgc
from pyg_mmkgc.cli import main
from pyg_mmkgc.data.io import atomic_write

SETUP_EXTRAS = {'audio', 'image', 'pykeen', 'rdf', 'scatter', 'text', 'video'}


def lines(monkeypatch, **environment):
    for name in ('ROOT', 'MIRROR', 'CACHE'):
        monkeypatch.delenv(f'PYG_MMKGC_{name}', raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(f'PYG_MMKGC_{name}', str(value))
    result = CliRunner().invoke(main, ['doctor'])
    assert result.exit_code == 0, result.output
    return dict(re.split(r'\s{2,}', line.strip(), maxsplit=1)
                for line in result.stdout.splitlines() if line.startswith('  '))


def test_versions_and_devices(monkeypatch):
    found = lines(monkeypatch)
    assert found['torch'] == torch.__version__
    assert found['pyg-mmkgc'] == pyg_mmkgc.__version__
    assert found['cpu'].endswith(f'{torch.get_num_threads()} threads')


def test_extras(monkeypatch):
    spec = importlib.util.find_spec

    def find_spec(name, *args):
        if name in ('av', 'pyoxigraph'):
            return None if name == 'av' else spec('json')
        return spec(name, *args)

    monkeypatch.setattr(importlib.util, 'find_spec', find_spec)
    found = lines(monkeypatch)
    assert set(found) >= SETUP_EXTRAS
    assert found['video'].endswith('pip install "pyg-mmkgc[video]"')
    assert found['rdf'] == 'ready'


def test_folders(monkeypatch, tmp_path):
    with atomic_write(tmp_path / 'mkgw' / 'processed' / 'v2.safetensors') as f:
        f.write('x')
    found = lines(monkeypatch, ROOT=tmp_path, MIRROR=tmp_path / 'nowhere')
    assert found['datasets'] == f'{tmp_path} (mkgw)'
    assert found['mirror'] == f'{tmp_path / "nowhere"} (no such folder)'
    assert found['feature cache'] == 'none ($PYG_MMKGC_CACHE is not set)'
