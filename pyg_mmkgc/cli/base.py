r"""How commands end where the user erred, or pressed Ctrl-C."""
import errno
import logging
import sys
from contextlib import redirect_stderr, suppress
from functools import wraps
from typing import Any, Callable, TextIO

import click

#: What a shell gives for a process that Ctrl-C ended.
INTERRUPTED = 130


class CommandError(click.ClickException):
    r"""What a user can do something about: one line and exit code 2."""
    exit_code = 2


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    r"""The options that say where the data of a run folder is, and where to compute."""
    for option in reversed([
            click.option('--root', metavar='DIR', show_default='as in training',
                         help='The folder of all datasets.'),
            click.option('--mirror', metavar='DIR', show_default='as in training',
                         help='A folder or an address of the published files.'),
            click.option('--device', default='auto', metavar='cpu|cuda|auto',
                         help='Where to compute.')]):
        command = option(command)
    return command


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    r"""The options that say where a dataset comes from and which of its forms is meant; a command
    has the latter as one argument :obj:`dataset_options`, of those that were given."""
    @wraps(command)
    def with_choices(*args: Any, **kwargs: Any) -> Any:
        from pyg_mmkgc.datasets.registry import CHOICES

        chosen = {name: kwargs.pop(name) for name in CHOICES}
        options = {name: None if value.lower() == 'none' else value
                   for name, value in chosen.items() if value is not None}
        return command(*args, dataset_options=options, **kwargs)

    for option in reversed([
            click.option('--root', metavar='DIR', show_default='$PYG_MMKGC_ROOT, else ./datasets',
                         help='The folder of all datasets; atlas needs none.'),
            click.option('--mirror', metavar='DIR', show_default='$PYG_MMKGC_MIRROR, else none',
                         help='A folder or an address that holds <NAME>/<file> of the published '
                         'files.'),
            click.option('--splits', metavar='official|clean|inductive', show_default='official',
                         help='The splits, where the dataset has a choice.'),
            click.option('--features', metavar='CHOICE', show_default="the dataset's own",
                         help='The features, where the dataset has a choice: auto, released, '
                         'labels, none.'),
            click.option('--encoder', metavar='hash|minilm|hf:NAME', show_default='hash',
                         help='What encodes labels and descriptions, where features are made '
                         'of them.')]):
        with_choices = option(with_choices)
    return with_choices


class _Handler(logging.Handler):
    # Finds the standard error anew each time, as `click.echo` does, and so works under a test.
    def emit(self, record: logging.LogRecord) -> None:
        click.echo(self.format(record), err=True)


class _Lossy:
    r"""A stream that loses what cannot be written.

    In `pyg-mmkgc train 2>&1 | tee log`, Ctrl-C ends `tee` as well, and a progress bar that nobody
    reads must not cost the weights.
    """
    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class CommandGroup(click.Group):
    r"""A group whose commands end in one line rather than a traceback where the user erred."""
    def invoke(self, ctx: click.Context) -> Any:
        logger, handler = logging.getLogger('pyg_mmkgc'), _Handler()
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            with redirect_stderr(_Lossy(sys.stderr)):
                return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo('Interrupted', err=True)
            ctx.exit(INTERRUPTED)
        except (ValueError, OSError, FloatingPointError, MemoryError) as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # Who read the output has gone; click ends quietly.
            raise CommandError(_one_line(error)) from error
        finally:
            logger.setLevel(level)
            logger.removeHandler(handler)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror is not None:
        # Some of ours have a text alone, those of the system a number and a path as well.
        where = '' if error.filename is None else f": '{error.filename}'"
        return f'{error.strerror}{where}'
    return ' '.join(str(error).split()) or error.__class__.__name__
