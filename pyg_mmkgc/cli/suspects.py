import json
from typing import Optional

import click

from pyg_mmkgc.cli.base import run_options

EXAMPLE = 'pyg-mmkgc suspects runs/my-run --top 50 --folds 5'


@click.command(epilog=f'\b\nExample:\n  {EXAMPLE}')
@click.argument('run', metavar='RUN')
@click.option('--top', default=20, type=click.IntRange(min=1), help='The number of triples.')
@click.option('--split', default='train', metavar='NAME', help='The split to look at.')
@click.option('--folds', type=click.IntRange(min=2), show_default='judge by the model of the run',
              help='Train as many models anew, each without a part of train, which it then judges.')
@click.option('--json', 'as_json', is_flag=True, help='Print JSON and nothing else.')
@run_options
def suspects(run: str, top: int, split: str, folds: Optional[int], as_json: bool,
             root: Optional[str], mirror: Optional[str], device: str) -> None:
    r"""List the known triples that the model of the run folder RUN finds least plausible.

    Those may be wrong, or right and unusual. A model remembers what it was trained on, wrong
    triples too: --folds takes longer, and asks models that did not see the triple.
    """
    from pyg_mmkgc.cli.tables import print_suspects
    from pyg_mmkgc.training import load_run

    found = load_run(run, root=root, mirror=mirror, device=device).suspects(
        split, top, folds, log=True)
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print_suspects(found)
