r"""Runs to look at, trained once."""
import pytest

from pyg_mmkgc.training import load_run, train_run

TINY = {'model.hidden_channels': 8, 'train.eval_every': 1}


@pytest.fixture(scope='session')
def runs(tmp_path_factory):
    r"""The folder of two runs on Atlas, `mocme` and `complex`."""
    folder = tmp_path_factory.mktemp('runs')
    train_run('atlas', 'mocme', epochs=2, device='cpu', out=folder / 'mocme', overrides=TINY)
    train_run('atlas', 'complex', epochs=2, device='cpu', out=folder / 'complex', overrides=TINY)
    return folder


@pytest.fixture(scope='session')
def run(runs):
    return load_run(runs / 'mocme', device='cpu')
