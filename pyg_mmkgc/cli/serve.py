from typing import Optional

import click

from pyg_mmkgc.cli.base import CommandError, run_options

EXAMPLE = 'pyg-mmkgc serve runs/my-run'


@click.command(epilog=f'\b\nExample:\n  {EXAMPLE}')
@click.argument('run', metavar='RUN')
@click.option('--host', default='127.0.0.1', metavar='ADDRESS',
              help='Where to listen. Any other address lets others ask, too.')
@click.option('--port', default=8000, type=click.IntRange(0, 65535),
              help='The port, 0 for any that is free.')
@run_options
def serve(run: str, host: str, port: int, root: Optional[str], mirror: Optional[str],
          device: str) -> None:
    r"""Show a page on this machine that asks the model of the run folder RUN.

    Needs the extra "serve" (FastAPI, uvicorn). Answers come with pictures and with the weights of
    modalities, each of which can be switched off. The page only reads; Ctrl-C ends it.
    """
    from pyg_mmkgc.serve import create_app, open_socket
    from pyg_mmkgc.serve import serve as serve_app
    from pyg_mmkgc.training import load_run

    with open_socket(host, port) as listening:
        try:
            app = create_app(load_run(run, root=root, mirror=mirror, device=device), [host])
            name = f'[{host}]' if ':' in host else host
            click.echo(f'http://{name}:{listening.getsockname()[1]}/ (Ctrl-C ends it)')
            serve_app(app, listening)
        except ImportError as error:
            raise CommandError(str(error)) from error
