r"""The command line: thin, every command one Python call.

Torch is imported inside the commands, so that help and errors in the arguments come at once.
"""
import click

from pyg_mmkgc import __version__
from pyg_mmkgc.cli.audit import audit
from pyg_mmkgc.cli.base import CommandGroup
from pyg_mmkgc.cli.compare import compare
from pyg_mmkgc.cli.doctor import doctor
from pyg_mmkgc.cli.evaluate import evaluate
from pyg_mmkgc.cli.explain import explain
from pyg_mmkgc.cli.export import export
from pyg_mmkgc.cli.init import init
from pyg_mmkgc.cli.neighbours import neighbours
from pyg_mmkgc.cli.predict import predict
from pyg_mmkgc.cli.report import report
from pyg_mmkgc.cli.results import results
from pyg_mmkgc.cli.serve import serve
from pyg_mmkgc.cli.study import study
from pyg_mmkgc.cli.suspects import suspects
from pyg_mmkgc.cli.train import train
from pyg_mmkgc.cli.tune import tune


@click.group(cls=CommandGroup, context_settings={
    'help_option_names': ['-h', '--help'], 'show_default': True})
@click.version_option(__version__, prog_name='pyg-mmkgc')
def main() -> None:
    r"""Multi-modal knowledge graph completion: train a model on a graph whose entities have
    pictures, texts and numbers, and ask it for missing facts."""


for command in (train, evaluate, predict, explain, serve, report, compare, suspects, neighbours,
                export, study, tune, results, audit, init, doctor):
    main.add_command(command)
