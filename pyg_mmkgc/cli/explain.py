import json
from typing import Optional

import click

from pyg_mmkgc.cli.base import run_options

EXAMPLE = 'pyg-mmkgc explain runs/my-run --head France --relation borders --tail Spain'


@click.command(epilog=f'\b\nExample:\n  {EXAMPLE}')
@click.argument('run', metavar='RUN')
@click.option('--head', required=True, metavar='LABEL', help='The head.')
@click.option('--relation', required=True, metavar='LABEL', help='The relation.')
@click.option('--tail', required=True, metavar='LABEL', help='The answer to (head, relation, ?).')
@click.option('--top', default=5, type=click.IntRange(min=0),
              help='The number of similar training facts.')
@click.option('--json', 'as_json', is_flag=True, help='Print JSON and nothing else.')
@click.option('--html', metavar='FILE', help='Write a page with pictures, too.')
@run_options
def explain(run: str, head: str, relation: str, tail: str, top: int, as_json: bool,
            html: Optional[str], root: Optional[str], mirror: Optional[str], device: str) -> None:
    r"""Say why the model of the run folder RUN gives one answer its score.

    The share of each head and modality, how redundant modalities are, score and rank without each
    modality, and the training facts that are most similar.
    """
    from pyg_mmkgc.cli.tables import print_explanation
    from pyg_mmkgc.training import load_run

    explanation = load_run(run, root=root, mirror=mirror, device=device).explain(
        head, relation, tail, top)
    if html is not None:
        from pyg_mmkgc.report import explanation_page, write_page

        write_page(explanation_page(explanation), html)
    if as_json:
        click.echo(json.dumps(explanation.to_dict(), indent=2, ensure_ascii=False))
    else:
        print_explanation(explanation)
        if html is not None:
            click.echo(f'\nPage: {html}')
