import json
from typing import Optional, Tuple

import click

from pyg_mmkgc.cli.base import run_options

EXAMPLE = 'pyg-mmkgc compare runs/mocme runs/complex --html compare.html'


@click.command(epilog=f'\b\nExample:\n  {EXAMPLE}')
@click.argument('runs', metavar='RUN RUN...', nargs=-1, required=True)
@click.option('--split', default='test', metavar='test|inductive_test', help='The split to rank.')
@click.option('--json', 'as_json', is_flag=True, help='Print JSON and nothing else.')
@click.option('--html', metavar='FILE', help='Write a page with curves, too.')
@run_options
def compare(runs: Tuple[str, ...], split: str, as_json: bool, html: Optional[str],
            root: Optional[str], mirror: Optional[str], device: str) -> None:
    r"""Compare run folders on the same queries.

    Ranks a split by each model, and tests each difference by a paired bootstrap. Runs on other
    data, splits or protocols are refused.
    """
    from pyg_mmkgc.cli.tables import print_comparison
    from pyg_mmkgc.report import compare_runs, comparison_page, write_page

    comparison = compare_runs(runs, split, root=root, mirror=mirror, device=device, log=True)
    if html is not None:
        write_page(comparison_page(comparison), html)
    if as_json:
        click.echo(json.dumps(comparison.to_dict(), indent=2, ensure_ascii=False))
    else:
        print_comparison(comparison)
        if html is not None:
            click.echo(f'Page: {html}')
