from typing import Tuple

import click

EXAMPLE = 'pyg-mmkgc results runs > results.md'


@click.command(epilog=f'\b\nExample:\n  {EXAMPLE}')
@click.argument('runs', metavar='RUN...', nargs=-1, required=True)
def results(runs: Tuple[str, ...]) -> None:
    r"""Print tables of run folders, or of folders of them, as Markdown.

    For each dataset and split mean and standard deviation over seeds: all metrics of each model,
    and the MRR by relation class, by seen and unseen entities, by degree and by modalities. Only
    config.yaml and metrics*.json are read.
    """
    from pyg_mmkgc.studies import results_tables

    click.echo(results_tables(runs), nl=False)
