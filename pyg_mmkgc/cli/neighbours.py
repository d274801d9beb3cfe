import json
from typing import Optional

import click

from pyg_mmkgc.cli.base import run_options

EXAMPLE = 'pyg-mmkgc neighbours runs/my-run France --modality image --top 5'


@click.command(epilog=f'\b\nExample:\n  {EXAMPLE}')
@click.argument('run', metavar='RUN')
@click.argument('label', metavar='LABEL')
@click.option('--modality', default='joint', metavar='NAME',
              help='Compare by one modality alone, or by structure.')
@click.option('--top', default=10, type=click.IntRange(min=1), help='The number of neighbours.')
@click.option('--json', 'as_json', is_flag=True, help='Print JSON and nothing else.')
@run_options
def neighbours(run: str, label: str, modality: str, top: int, as_json: bool, root: Optional[str],
               mirror: Optional[str], device: str) -> None:
    r"""List the entities that the model of the run folder RUN finds most similar to the entity
    LABEL, by the cosine of their vectors."""
    from pyg_mmkgc.cli.tables import print_neighbours
    from pyg_mmkgc.export import neighbours as find_neighbours
    from pyg_mmkgc.training import load_run

    loaded = load_run(run, root=root, mirror=mirror, device=device)
    found = find_neighbours(loaded.model, loaded.data, label, modality, top)
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print_neighbours(label, modality, found)
