r"""A page on this machine that asks the model of a run: answers with pictures, and modalities that
are switched off. It only reads, and sends nothing anywhere."""
from pyg_mmkgc.serve.app import create_app, open_socket, serve
from pyg_mmkgc.serve.served_run import ServedRun, UnknownError

__all__ = classes = [
    'ServedRun',
    'UnknownError',
    'create_app',
    'open_socket',
    'serve',
]
