import json
from typing import Any, Dict, Optional

import click

from pyg_mmkgc.cli.base import data_options

EXAMPLE = 'pyg-mmkgc audit DB15K --plot audit.png'


@click.command(epilog=f'\b\nExample:\n  {EXAMPLE}')
@click.argument('dataset', metavar='NAME|FOLDER')
@data_options
@click.option('--json', 'as_json', is_flag=True, help='Print JSON, and nothing else.')
@click.option('--plot', metavar='FILE', help='Draw a PNG picture, too.')
@click.option('--strict', is_flag=True, help='Exit with 1 if there is a finding of severity error.')
@click.pass_context
def audit(ctx: click.Context, dataset: str, root: Optional[str], mirror: Optional[str],
          dataset_options: Dict[str, Any], as_json: bool, plot: Optional[str],
          strict: bool) -> None:
    r"""Look for what makes figures on a dataset say less than they seem to.

    NAME is a dataset, FOLDER holds one of your own. Repeats, overlap between splits, inverse and
    duplicate relations, what training never mentions, degrees and relation classes, coverage and
    equal rows of features, equal labels.
    """
    from pyg_mmkgc.data.audit import audit as audit_data
    from pyg_mmkgc.datasets import get_dataset

    loaded = get_dataset(dataset, root=root, mirror=mirror, **dataset_options)
    found = audit_data(loaded[0], name=dataset)
    if plot is not None:
        found.plot(plot)
    click.echo(json.dumps(found.to_dict(), indent=2, ensure_ascii=False) if as_json else found)
    if strict and found.worst() == 'error':
        ctx.exit(1)
