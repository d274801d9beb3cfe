r"""The application, and the server that it runs in."""
import ipaddress
import logging
import socket
from typing import TYPE_CHECKING, Any, Iterable

from pyg_mmkgc.serve.served_run import ServedRun
from pyg_mmkgc.training import Run

if TYPE_CHECKING:  # An extra.
    from fastapi import FastAPI

#: Requests that are answered at once, further ones are told to come back, and seconds after which
#: an idle connection is closed.
MAX_REQUESTS, KEEP_ALIVE = 64, 5

logger = logging.getLogger(__name__)


def create_app(run: Run, names: Iterable[str] = ()) -> 'FastAPI':
    r"""The page and its JSON API as an ASGI application.

    It reads only (``GET`` and ``HEAD``), keeps no cookies, fetches nothing from elsewhere and
    reports nothing to anybody. Requests are answered if they name this machine by an address or by
    a known name. The API is described at ``/openapi.json``:

    =========================== ==================================================================
    ``/api/run``                dataset, model, metrics, modalities, versions
    ``/api/entities?query=``    completion of a label; ``/api/relations?query=``, too
    ``/api/entities/{id}``      what there is to look at of an entity
    ``/api/predict``            ranked answers to ``entity`` and ``relation``, with ``without``
                                and ``without_query`` those modalities switched off
    =========================== ==================================================================

    Args:
        run (Run): The run.
        names (Iterable[str], optional): Names of this machine beside ``localhost`` that a request
            may come by. (default: none)

    Raises:
        ImportError: If FastAPI is missing.
    """
    try:
        from pyg_mmkgc.serve.api import build_app
    except ImportError as error:
        raise ImportError('the page of a run needs FastAPI: pip install "pyg-mmkgc[serve]"'
                          ) from error
    return build_app(ServedRun(run), names)


def open_socket(host: str = '127.0.0.1', port: int = 8000) -> socket.socket:
    r"""A socket that listens, before anything slow is loaded.

    Args:
        host (str, optional): An address of this machine, or its name.
            (default: :obj:`"127.0.0.1"`)
        port (int, optional): The port, 0 for any that is free. (default: :obj:`8000`)

    Raises:
        OSError: If the address is not of this machine, or the port is taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise OSError(f"cannot listen on port {port} of '{host}' ({error.strerror or error}); "
                      f'name another by --port or --host') from error


def serve(app: Any, listening: socket.socket) -> None:
    r"""Serve an application until Ctrl-C.

    Args:
        app (FastAPI): From :func:`create_app`.
        listening (socket.socket): From :func:`open_socket`.

    Raises:
        ImportError: If uvicorn is missing.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise ImportError('the page of a run needs uvicorn: pip install "pyg-mmkgc[serve]"'
                          ) from error
    address = listening.getsockname()[0]
    if not ipaddress.ip_address(address).is_loopback:
        logger.warning('Anybody who reaches %s can ask the model and look at its data', address)
    config = uvicorn.Config(app, log_level='warning', access_log=False, server_header=False,
                            limit_concurrency=MAX_REQUESTS, timeout_keep_alive=KEEP_ALIVE)
    uvicorn.Server(config).run([listening])
