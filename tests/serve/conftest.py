r"""Runs to ask, trained once."""
import threading

import pytest

from pyg_mmkgc.serve import ServedRun, create_app, open_socket
from pyg_mmkgc.training import load_run, train_run


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
