import json
from typing import Any, Dict, Optional

import click

from pyg_mmkgc.cli.base import run_options

EXAMPLE = 'pyg-mmkgc predict runs/my-run --head France --relation borders --top 5'
NEW_EXAMPLE = ("pyg-mmkgc predict runs/my-run --new Ruritania --relation borders "
               "--text 'Ruritania (country)' --numeric 'latitude=49.8,longitude=15.5'")


@click.command(epilog=f'\b\nExample:\n  {EXAMPLE}')
@click.argument('run', metavar='RUN')
@click.option('--head', metavar='LABEL', help='The head, to ask for tails.')
@click.option('--relation', metavar='LABEL', required=True, help='The relation.')
@click.option('--tail', metavar='LABEL', help='The tail, to ask for heads.')
@click.option('--new', metavar='NAME', help='An entity that the graph does not hold, in place of '
              'head or tail, known by what follows.')
@click.option('--side', default='tail', type=click.Choice(['tail', 'head']),
              help='What to ask for about a new entity.')
@click.option('--features', metavar='FILE', help='Its features, a vector for each modality: .npz, '
              '.json or .csv.')
@click.option('--text', metavar='TEXT', help='Its text, in the form that the dataset encodes.')
@click.option('--image', metavar='FILE', help='Its picture.')
@click.option('--numeric', metavar='NAME=NUMBER,...', help='Its numbers.')
@click.option('--top', default=10, type=click.IntRange(min=1), help='The number of answers.')
@click.option('--min-probability', default=0.0, type=click.FloatRange(0, 1), metavar='P',
              help='Abstain from answers below this probability.')
@click.option('--json', 'as_json', is_flag=True, help='Print JSON and nothing else.')
@run_options
def predict(run: str, head: Optional[str], relation: str, tail: Optional[str], new: Optional[str],
            side: str, features: Optional[str], text: Optional[str], image: Optional[str],
            numeric: Optional[str], top: int, min_probability: float, as_json: bool,
            root: Optional[str], mirror: Optional[str], device: str) -> None:
    r"""Answer (head, relation, ?) or (?, relation, tail) by the model of the run folder RUN.

    Each answer has a probability, the split that holds the fact or "new", and how much each
    modality counted, in the entity asked about and in the answer. Probabilities are calibrated
    where validation triples were there to do it, and else probability-like scores.
    """
    from pyg_mmkgc.cli.tables import print_answers
    from pyg_mmkgc.data import read_features
    from pyg_mmkgc.training import load_run

    if [head, tail, new].count(None) != 2:
        raise click.UsageError('expected exactly one of --head, --tail and --new')
    contents: Dict[str, Any] = {key: value for key, value in [
        ('text', text), ('image', image), ('numeric', _numbers(numeric))] if value is not None}
    given = bool(contents) or features is not None
    if given != (new is not None):
        raise click.UsageError('expected --new together with --features, --text, --image or '
                               '--numeric')
    options: Dict[str, Any] = {}
    if new is not None:
        head, tail = (new, None) if side == 'tail' else (None, new)
        options['features'] = {} if features is None else read_features(features)
        twice = sorted(set(options['features']) & set(contents))
        if twice:
            raise click.UsageError(f'expected one source of {twice[0]} (got --{twice[0]}, and it '
                                   f"is in '{features}')")
    loaded = load_run(run, root=root, mirror=mirror, device=device)
    if contents:
        options['features'].update(loaded.encode_entity(contents))
    answers = loaded.predict(head=head, relation=relation, tail=tail, top=top,
                             min_probability=min_probability, **options)
    if as_json:
        click.echo(json.dumps(answers, indent=2, ensure_ascii=False))
    else:
        print_answers('?' if head is None else head, relation, '?' if tail is None else tail,
                      answers, loaded.calibration.get('temperature') is not None, min_probability)


def _numbers(text: Optional[str]) -> Optional[Dict[str, float]]:
    if text is None:
        return None
    out = {}
    for part in text.split(','):
        name, equals, value = part.partition('=')
        try:
            if not equals:
                raise ValueError
            out[name.strip()] = float(value)
        except ValueError as error:
            raise click.UsageError(f'--numeric: expected NAME=NUMBER (got {part!r})') from error
    return out
