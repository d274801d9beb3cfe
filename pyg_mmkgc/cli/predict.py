import json
from typing import Optional

import click

EXAMPLE = 'pyg-mmkgc predict runs/my-run --head France --relation borders --top 5'


@click.command(epilog=f'\b\nExample:\n  {EXAMPLE}')
@click.argument('run', metavar='RUN')
@click.option('--head', metavar='LABEL', help='The head, to ask for tails.')
@click.option('--relation', metavar='LABEL', required=True, help='The relation.')
@click.option('--tail', metavar='LABEL', help='The tail, to ask for heads.')
@click.option('--top', default=10, type=click.IntRange(min=1), help='The number of answers.')
@click.option('--json', 'as_json', is_flag=True, help='Print JSON and nothing else.')
@click.option('--root', metavar='DIR', show_default='as in training',
              help='The folder of all datasets.')
@click.option('--mirror', metavar='DIR', show_default='as in training',
              help='A folder or an address of the published files.')
@click.option('--device', default='auto', metavar='cpu|cuda|auto', help='Where to compute.')
def predict(run: str, head: Optional[str], relation: str, tail: Optional[str], top: int,
            as_json: bool, root: Optional[str], mirror: Optional[str], device: str) -> None:
    r"""Answer (head, relation, ?) or (?, relation, tail) by the model of the run folder RUN.

    Each answer has a probability-like score (it is not calibrated), the split that holds the fact
    or "new", and how much each modality counted, in the entity asked about and in the answer.
    """
    from pyg_mmkgc.cli.tables import print_answers
    from pyg_mmkgc.training import load_run

    if (head is None) == (tail is None):
        raise click.UsageError('expected exactly one of --head and --tail')
    loaded = load_run(run, root=root, mirror=mirror, device=device)
    answers = loaded.predict(head=head, relation=relation, tail=tail, top=top)
    if as_json:
        click.echo(json.dumps(answers, indent=2, ensure_ascii=False))
    else:
        print_answers('?' if head is None else head, relation, '?' if tail is None else tail,
                      answers)
