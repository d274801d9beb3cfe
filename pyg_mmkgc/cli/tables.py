r"""What the commands print for people."""
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # Torch is not for what only prints.
    from pyg_mmkgc.evaluation import ExplainedEntity, Explanation
    from pyg_mmkgc.report import RunComparison

#: The width where the output is no terminal.
WIDTH = 100
METRICS = {'mrr': 'MRR', 'hits@1': 'Hits@1', 'hits@3': 'Hits@3', 'hits@10': 'Hits@10',
           'amri': 'AMRI', 'mr': 'MR'}


def print_metrics(splits: Sequence[Dict[str, Any]]) -> None:
    r"""A table for each split, the model beside its baseline, and the protocol below it.

    Args:
        splits (Sequence[Dict[str, Any]]): What `metrics.json` holds, for each split.
    """
    console = _console()
    for metrics in splits:
        rows = [metrics]
        baseline = metrics.get('baseline')
        if baseline is not None and baseline['model'] != metrics['model']:
            rows.append(baseline)
        table = Table('model', 'side', *(METRICS.values()), 'ranks',
                      title=Text(f'{metrics["dataset"]}, {metrics["split"]}'), title_justify='left')
        for column in table.columns[2:]:
            column.justify = 'right'
        for row in rows:
            name = row['model'] + ('' if row is metrics else ' (structure only)')
            for side in ('both', 'head', 'tail'):
                values = row[side]
                table.add_row(name if side == 'both' else '', side,
                              *(_number(key, values[key]) for key in METRICS),
                              str(values['count']), end_section=side == 'tail')
        console.print(table)
        console.print(Text(_protocol(metrics['protocol']), style='dim'))
        console.print()


def print_examples(examples: Sequence[Dict[str, Any]]) -> None:
    r"""A few questions with their best answers that training did not know, and with the answer of
    the test triple if it is not among them.

    Args:
        examples (Sequence[Dict[str, Any]]): From :meth:`Run.examples`.
    """
    console = _console()
    console.print(Text('Predictions (facts of training left out; * is true)', style='bold'))
    for example in examples:
        console.print(Text(f'  {example["head"]} --{example["relation"]}--> ?'))
        answers = [f'{answer["entity"]}{"" if answer["known"] == "new" else " *"} '
                   f'({answer["probability"]:.2f})' for answer in example['answers']]
        console.print(Text(f'      {", ".join(answers)}'))
        if example['tail'] not in [answer['entity'] for answer in example['answers']]:
            console.print(Text(f'      also true: {example["tail"]}'))
        weights = example['answers'][0]['modality_weights'] if answers else None
        if weights is not None:
            console.print(Text(f'      seen by {_weights(weights["query"])}', style='dim'))


def print_suspects(found: Sequence[Dict[str, Any]]) -> None:
    r"""A table of implausible triples.

    Args:
        found (Sequence[Dict[str, Any]]): From :func:`~pyg_mmkgc.training.suspects`.
    """
    table = Table('', 'head', 'relation', 'tail', 'probability', 'rank of head', 'rank of tail')
    for column in (table.columns[0], *table.columns[4:]):
        column.justify = 'right'
    for i, triple in enumerate(found, 1):
        table.add_row(str(i), Text(triple['head']), Text(triple['relation']), Text(triple['tail']),
                      f'{triple["probability"]:.1e}', f'{triple["head_rank"]:.0f}',
                      f'{triple["tail_rank"]:.0f}')
    _console().print(table)


def print_neighbours(label: str, view: str, found: Sequence[Dict[str, Any]]) -> None:
    r"""A table of similar entities.

    Args:
        label (str): The entity.
        view (str): ``'joint'`` or a modality.
        found (Sequence[Dict[str, Any]]): From :func:`~pyg_mmkgc.export.neighbours`.
    """
    table = Table('', 'entity', 'cosine', title=Text(f'{label}, by {view}'), title_justify='left')
    table.columns[0].justify = table.columns[2].justify = 'right'
    for i, neighbour in enumerate(found, 1):
        table.add_row(str(i), Text(neighbour['entity']), f'{neighbour["similarity"]:.4f}')
    _console().print(table)


def print_answers(head: str, relation: str, tail: str, answers: Sequence[Dict[str, Any]],
                  calibrated: bool = False, min_probability: float = 0.0) -> None:
    r"""A table of answers to one question.

    Args:
        head (str): The head, or ``'?'``.
        relation (str): The relation.
        tail (str): The tail, or ``'?'``.
        answers (Sequence[Dict[str, Any]]): From :func:`~pyg_mmkgc.evaluation.predict`.
        calibrated (bool, optional): Whether probabilities are. (default: :obj:`False`)
        min_probability (float, optional): What they were asked to be at least.
            (default: :obj:`0.0`)
    """
    console = _console()
    if not answers:
        console.print(Text(f'{head} --{relation}--> {tail}: the model abstains, no answer has a '
                           f'probability of at least {min_probability:g}'))
        return
    weighted = any(answer['modality_weights'] is not None for answer in answers)
    table = Table('', 'entity', 'probability', 'known', *(['modality weights'] if weighted else []),
                  title=Text(f'{head} --{relation}--> {tail}'), title_justify='left')
    table.columns[0].justify = table.columns[2].justify = 'right'
    for i, answer in enumerate(answers, 1):
        weights = [Text(_weights(answer['modality_weights']['answer']))] if weighted else []
        table.add_row(str(i), Text(answer['entity']), f'{answer["probability"]:.4f}',
                      Text(answer['known'], style='' if answer['known'] == 'new' else 'green'),
                      *weights)
    console.print(table)
    if weighted:
        query = answers[0]['modality_weights']['query']
        asked = tail if head == '?' else head
        console.print(Text(f'{asked} was seen by {_weights(query)}'))
    console.print(Text('Probabilities are calibrated on validation.' if calibrated else
                       'Probabilities are not calibrated.', style='dim'))


def print_explanation(explanation: 'Explanation') -> None:
    r"""Why an answer has its score.

    Args:
        explanation (Explanation): From :meth:`~pyg_mmkgc.training.Run.explain`.
    """
    e, console = explanation, _console()
    console.print(Text(f'{e.head.label} --{e.relation}--> {e.tail.label}', style='bold'))
    console.print(Text(
        f'score {e.score:.3f}; rank {e.rank:g} of {e.num_candidates} (the head: {e.head_rank:g}); '
        f'probability {e.probability:.4f}{"" if e.calibrated else ", not calibrated"}; known '
        f'from {e.known}'))
    for end in (e.head, e.tail):
        contents = [*(f'{name} {text}' for name, text in end.contents.texts.items()),
                    *(f'{name} {value:g}' for name, value in end.contents.numbers.items()),
                    *(f'a picture ({name})' for name in end.contents.pictures)]
        console.print(Text(f'{end.label}: {", ".join(contents) or "nothing to show"}', style='dim'))
    for note in e.notes():
        console.print(Text(note))
    if e.contributions is not None:
        _print_table('What each head of the joint decision adds to the score', ['head', 'adds'],
                     [[name, f'{part:+.3f}'] for name, part in e.contributions.items()])
    if e.head.modality_weights is not None:
        _print_modalities(e.head, 'under the relation')
        _print_modalities(e.tail, 'as a candidate')
    if e.removals:
        whose = {'head': e.head.label, 'tail': e.tail.label, 'both': 'both'}
        _print_table('Without a modality: masked out, not retrained',
                     ['without', 'score by', 'rank'],
                     [[f'{removal.modality} of {whose[removal.of]}',
                       f'{removal.score - e.score:+.3f}', f'{removal.rank:g}']
                      for removal in e.removals])
    if e.similar:
        _print_table('Similar training facts, by the cosine of joint views',
                     ['fact', 'similarity', 'of heads', 'of tails'],
                     [[f'{fact.head} --{e.relation}--> {fact.tail}', f'{fact.similarity:.3f}',
                       f'{fact.head_similarity:.3f}', f'{fact.tail_similarity:.3f}']
                      for fact in e.similar])


def print_comparison(comparison: 'RunComparison') -> None:
    r"""Runs beside each other, and the test of each pair.

    Args:
        comparison (RunComparison): From :func:`~pyg_mmkgc.report.compare_runs`.
    """
    console = _console()
    _print_table(f'{comparison.split}, both sides', ['run', *METRICS.values()],
                 [[name, *(_number(key, metrics['both'][key]) for key in METRICS)]
                  for name, metrics in comparison.metrics.items()])
    console.print(Text(_protocol(comparison.protocol), style='dim'))
    _print_table('Difference in MRR on the same queries, paired bootstrap',
                 ['pair', 'difference', '95 % interval', 'verdict'],
                 [[f'{test.first} over {test.second}', f'{test.gain.mean:+.4f}',
                   f'{test.gain.low:+.4f} to {test.gain.high:+.4f}', test.verdict()]
                  for test in comparison.tests])
    for note in comparison.notes:
        console.print(Text(note, style='dim'))


def _print_modalities(end: 'ExplainedEntity', how: str) -> None:
    columns = {'modality': end.modalities}
    if end.modality_weights is not None:
        columns['weight'] = [f'{end.modality_weights[name]:.2f}' for name in end.modalities]
    if end.modality_redundancy is not None:
        columns['redundancy (nats)'] = [f'{end.modality_redundancy[name]:.3f}'
                                        for name in end.modalities]
    if end.has_experts and end.expert_weights is not None:
        columns['experts'] = [_joined(end.expert_weights[name], 2) for name in end.modalities]
        if end.view_redundancy is not None:
            columns['their redundancy'] = [_joined(end.view_redundancy[name], 3)
                                           for name in end.modalities]
    _print_table(f'{end.label} {how}', list(columns), list(zip(*columns.values(), strict=True)))


def _joined(values: Sequence[float], digits: int) -> str:
    return ' '.join(f'{value:.{digits}f}' for value in values)


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    # The first column is a name, the others are numbers.
    table = Table(*columns)
    for column in table.columns[1:]:
        column.justify = 'right'
    for row in rows:
        table.add_row(*map(Text, row))
    console = _console()
    console.print(Text(title))
    console.print(table)


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH)


def _number(key: str, value: float) -> str:
    return f'{value:.1f}' if key == 'mr' else f'{value:.3f}'


def _protocol(protocol: Dict[str, Any]) -> str:
    filtered = (f'filtered by {", ".join(protocol["filter_splits"])}' if protocol['filtered'] else
                'unfiltered')
    number: Optional[int] = protocol.get('num_candidates')
    return (f'Protocol: {filtered}; {protocol["ties"]} ties; {" and ".join(protocol["sides"])} '
            f'ranked among {"" if number is None else f"{number} "}entities '
            f'({protocol["candidates"]})')


def _weights(weights: Dict[str, float]) -> str:
    shown: List[str] = [f'{name} {weight:.2f}' for name, weight in
                        sorted(weights.items(), key=lambda item: -item[1]) if weight > 0]
    return ', '.join(shown) or 'nothing'
