r"""Runs to ask, trained once."""
import threading

import pytest

from pyg_mmkgc.serve import ServedRun, create_app, open_socket
from pyg_mmkgc.training import load_run, train_run

#: Labels that would be markup, or the end of a script, if they were taken for it.
NAMES = ['<script>alert(1)</script>', '" onmouseover="alert(2)" x="',
         '</style><img src=x onerror=1>', "'); alert(3); ('", *(f'plain {i}' for i in range(6))]
RELATIONS = ['<b>bold</b>', '{{ 7 * 7 }}']


@pytest.fixture(scope='session')
def run_folder(tmp_path_factory):
    out = tmp_path_factory.mktemp('serve') / 'mocme'
    train_run('atlas', 'mocme', epochs=2, device='cpu', out=out,
              overrides={'model.hidden_channels': 8})
    return out


@pytest.fixture(scope='session')
def run(run_folder):
    return load_run(run_folder, device='cpu')


@pytest.fixture(scope='session')
def served(run):
    return ServedRun(run)


@pytest.fixture(scope='session')
def app(run):
    return create_app(run, ['testserver'])


@pytest.fixture(scope='session')
def structure(tmp_path_factory):
    r"""A run of a model that sees no modalities."""
    out = tmp_path_factory.mktemp('serve') / 'complex'
    train_run('atlas', 'complex', epochs=1, device='cpu', out=out,
              overrides={'model.hidden_channels': 4})
    return load_run(out, device='cpu')


@pytest.fixture(scope='session')
def markup(tmp_path_factory):
    r"""A run on a graph whose labels, texts and relations are markup."""
    folder = tmp_path_factory.mktemp('markup') / 'graph'
    folder.mkdir()
    lines = [f'{NAMES[i]}\t{RELATIONS[j]}\t{NAMES[(i + j + 1) % 10]}'
             for i in range(10) for j in range(2)]
    for split, part in (('train', lines), ('val', lines[1::6]), ('test', lines[::3])):
        (folder / f'{split}.tsv').write_text('\n'.join(part) + '\n')
    (folder / 'texts.tsv').write_text('name\tstory\n' + ''.join(
        f'{name}\tA story of {name}\n' for name in NAMES))
    (folder / 'dataset.yaml').write_text('modalities: {text: {encoder: hash}}\n')
    out = folder.parent / 'run'
    train_run(folder, 'mocme', epochs=1, device='cpu', out=out,
              overrides={'model.hidden_channels': 4})
    return load_run(out, device='cpu')


@pytest.fixture(scope='session')
def listen():
    r"""Serves applications until the tests are over; gives their addresses."""
    uvicorn = pytest.importorskip('uvicorn')
    running = []

    def start(app):
        listening = open_socket(port=0)
        server = uvicorn.Server(uvicorn.Config(app, log_level='warning', access_log=False))
        thread = threading.Thread(target=server.run, args=([listening], ))
        thread.start()
        running.append((server, thread))
        return f'http://127.0.0.1:{listening.getsockname()[1]}/'

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join()
