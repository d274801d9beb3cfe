r"""Runs to look at, trained once."""
import pytest

from pyg_mmkgc.training import load_run, train_run

TINY = {'model.hidden_channels': 8, 'train.eval_every': 1}
#: Labels that would be markup, if nobody escaped them.
SCRIPT = '<script>alert(1)</script>'
ATTRIBUTE = '" onmouseover="alert(2)" x="'


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


@pytest.fixture(scope='session')
def evil(tmp_path_factory):
    r"""A run on a graph whose labels, texts and relations are markup."""
    folder = tmp_path_factory.mktemp('evil') / 'graph'
    folder.mkdir()
    names = [SCRIPT, ATTRIBUTE, "'; --x: url(javascript:alert(3))", '</style><img src=x onerror=1>',
             *(f'plain {i}' for i in range(8))]
    relations = ['<b>bold</b>', '{{ 7 * 7 }}']
    lines = [f'{names[i]}\t{relations[j]}\t{names[(i + j + 1) % 12]}'
             for i in range(12) for j in range(2)]
    for split, part in (('train', lines), ('val', lines[1::6]), ('test', lines[::3])):
        (folder / f'{split}.tsv').write_text('\n'.join(part) + '\n')
    (folder / 'texts.tsv').write_text('name\tstory\n' + ''.join(
        f'{name}\tA story of {name}\n' for name in names))
    (folder / 'dataset.yaml').write_text('modalities: {text: {encoder: hash}}\n')
    run = train_run(folder, 'mocme', epochs=1, device='cpu', out=folder.parent / 'run',
                    overrides=TINY)
    return load_run(run.path, device='cpu')
