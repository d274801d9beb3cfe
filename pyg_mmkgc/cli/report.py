from pathlib import Path
from typing import Optional

import click

from pyg_mmkgc.cli.base import run_options

EXAMPLE = 'pyg-mmkgc report runs/my-run --out my-run.html'


@click.command(epilog=f'\b\nExample:\n  {EXAMPLE}')
@click.argument('run', metavar='RUN')
@click.option('--out', metavar='FILE', show_default='RUN/report.html',
              help='The page to write. Another page is replaced, no other file is.')
@click.option('--split', default='test', metavar='test|inductive_test',
              help='The split whose groups and answers are shown.')
@run_options
def report(run: str, out: Optional[str], split: str, root: Optional[str], mirror: Optional[str],
           device: str) -> None:
    r"""Write a page about the run folder RUN: one HTML file that needs no network.

    Metrics beside the baseline, learning curves, modality weights, MRR by group, best and worst
    answers, what the audit of the graph says, options, and how to train it again.
    """
    from pyg_mmkgc.report import report_page, write_page
    from pyg_mmkgc.training import load_run

    path = Path(run, 'report.html') if out is None else Path(out)
    write_page(report_page(load_run(run, root=root, mirror=mirror, device=device), split), path)
    click.echo(f'Page: {path}')
