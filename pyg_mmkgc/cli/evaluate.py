import json
from typing import Optional

import click

from pyg_mmkgc.cli.base import run_options

EXAMPLE = 'pyg-mmkgc evaluate runs/my-run --split inductive_test --json'


@click.command(epilog=f'\b\nExample:\n  {EXAMPLE}')
@click.argument('run', metavar='RUN')
@click.option('--split', default='test', metavar='val|test|inductive_test',
              help='The split to rank.')
@click.option('--json', 'as_json', is_flag=True,
              help='Print JSON in the shape of metrics.json, and nothing else.')
@run_options
@click.option('--batch-size', type=click.IntRange(min=1), show_default='as memory allows',
              help='Questions scored at once; lower it where memory does not suffice.')
def evaluate(run: str, split: str, as_json: bool, root: Optional[str], mirror: Optional[str],
             device: str, batch_size: Optional[int]) -> None:
    r"""Rank a split by the model of the run folder RUN.

    Filtered by all splits, both sides, ties count half, one-based.
    """
    from pyg_mmkgc.cli.tables import print_metrics
    from pyg_mmkgc.training import load_run

    metrics = load_run(run, root=root, mirror=mirror, device=device).evaluate(
        split, log=True, batch_size=batch_size)
    if as_json:
        click.echo(json.dumps(metrics, indent=2, ensure_ascii=False))
    else:
        print_metrics([metrics])
