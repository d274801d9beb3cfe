r"""The page about one run."""
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import torch
import yaml

from pyg_mmkgc.data import (
    EDGE,
    EntityContents,
    audit,
    build_index,
    get_triples,
    seen_entities,
    split_names,
)
from pyg_mmkgc.evaluation import predict_triples
from pyg_mmkgc.evaluation.evaluator import DEGREE_BINS
from pyg_mmkgc.report.charts import LineChart, Points, line_chart
from pyg_mmkgc.report.page import render
from pyg_mmkgc.report.reproduce import train_command
from pyg_mmkgc.training import Run, relation_modality_weights
from pyg_mmkgc.training.recipe import SECTIONS

#: The partitions of the triples of a split, by their key in `metrics.json`: what a row is, and what
#: the table shows.
GROUPS = {
    'by_relation': ('relation', 'MRR by relation'),
    'by_relation_class': ('class', 'MRR by relation class: one or many heads per tail, and tails '
                                   'per head, in training'),
    'by_seen': ('entities', 'MRR by whether training saw both entities'),
    'by_degree': ('training facts', 'MRR by degree: training facts that name the rarer entity'),
    'by_modalities': ('modalities', 'MRR by coverage: modalities that both entities have'),
}
#: Rows of a table of relations; more are left out, the rarest first.
MAX_ROWS = 60
#: Facts shown as best and as worst, how many of one relation, and answers beside the worst.
NUM_FACTS, MAX_OF_RELATION, NUM_ANSWERS = 6, 2, 3


@dataclass(frozen=True)
class Judged:
    r"""A fact, and what a model says of it.

    Args:
        head (str): The label of the head.
        relation (str): The label of the relation.
        tail (str): The label of the tail.
        probability (float): See :class:`~pyg_mmkgc.evaluation.TriplePredictions`.
        head_rank (float): The filtered rank of the head as the answer to :math:`(?, r, t)`.
        tail_rank (float): That of the tail as the answer to :math:`(h, r, ?)`.
        head_contents (EntityContents): What there is to see of the head.
        tail_contents (EntityContents): The same of the tail.
        side (str): ``'head'`` or ``'tail'``: which has the worse rank.
        answers (List[Dict[str, Any]]): What the model answers to the question of that side in
            place of it, all known facts left out, see :func:`~pyg_mmkgc.evaluation.predict`.
    """
    head: str
    relation: str
    tail: str
    probability: float
    head_rank: float
    tail_rank: float
    head_contents: EntityContents
    tail_contents: EntityContents
    side: str
    answers: List[Dict[str, Any]]


def report_page(run: Run, split: str = 'test') -> str:
    r"""A run as a page of HTML: its metrics beside the baseline, with protocol and groups; learning
    curves; weights of modalities; its best and worst answers; what the audit of the graph found;
    configuration and versions, and the command that trains it again.

    Args:
        run (Run): The run. One that was interrupted has no figures on test, and the page says so.
        split (str, optional): The split whose answers and groups are shown.
            (default: :obj:`"test"`)

    Raises:
        ValueError: If a finished run has no metrics of the split.
    """
    metrics = run.metrics.get(split)
    if metrics is None and run.metrics:
        raise ValueError(f"'split' needs to be one of {sorted(run.metrics)} (got {split!r})")
    best, worst = ([], []) if metrics is None else judge(run, split)
    return render(
        'report.html', run=run, config=run.config, split=split, metrics=metrics,
        splits=[run.metrics[name] for name in sorted(run.metrics, key=lambda s: (s != split, s))],
        groups=[] if metrics is None else group_tables(metrics), charts=curves({'': run.history}),
        best_epoch=_best_epoch(run.history), heat=_heat_map(run), best=best, worst=worst,
        findings=audit(run.data, name=run.config['name']).findings,
        num_entities=run.data['entity'].num_nodes, num_relations=run.data[EDGE].num_relations,
        triples={name: get_triples(run.data, name)[1].numel() for name in split_names(run.data)},
        coverage=_coverage(run), calibration=_calibration(run.calibration),
        command=train_command(run.config),
        recipe=yaml.safe_dump({section: run.config[section] for section in SECTIONS},
                              sort_keys=False, allow_unicode=True))


def judge(run: Run, split: str = 'test',
          num: int = NUM_FACTS) -> Tuple[List[Judged], List[Judged]]:
    r"""The facts of a split with the highest and with the lowest probability, at most two of each
    relation.

    Args:
        run (Run): The run.
        split (str, optional): The split. (default: :obj:`"test"`)
        num (int, optional): How many of each. (default: :obj:`6`)

    Returns:
        (List[Judged], List[Judged]): The best, best first, and the worst, worst first.
    """
    data, device = run.data, next(run.model.parameters()).device
    head_index, rel_type, tail_index = (x.to(device) for x in get_triples(data, split))
    seen = not split.startswith('inductive') and getattr(data, 'candidates', 'all') == 'seen'
    found = predict_triples(
        run.model, head_index, rel_type, tail_index, build_index(data),
        candidates=seen_entities(data) if seen else None,
        temperature=run.calibration.get('temperature') or 1.0)
    triples = torch.stack([head_index, rel_type, tail_index]).cpu()
    order = found.probability.argsort(descending=True, stable=True)
    # Of facts that are there twice, one is enough.
    _, first = triples.unique(dim=1, return_inverse=True)

    def pick(order: Sequence[int]) -> List[Judged]:
        kept: List[int] = []
        for i in order:
            same = sum(int(triples[1, i] == triples[1, j]) for j in kept)
            if same < MAX_OF_RELATION and all(first[i] != first[j] for j in kept):
                kept.append(i)
            if len(kept) == num:
                break
        return [_judged(run, triples[:, i].tolist(), float(found.probability[i]),
                        float(found.head_rank[i]), float(found.tail_rank[i])) for i in kept]

    best = pick(order.tolist())
    return best, pick(order.flip(0).tolist())


def _judged(run: Run, triple: Sequence[int], probability: float, head_rank: float,
            tail_rank: float) -> Judged:
    h, r, t = triple
    side = 'head' if head_rank > tail_rank else 'tail'
    question = {'tail': t} if side == 'head' else {'head': h}
    answers = run.predict(relation=r, top=NUM_ANSWERS, exclude=split_names(run.data), **question)
    label = run.data['entity'].label
    return Judged(label[h], run.data[EDGE].label[r], label[t], probability, head_rank, tail_rank,
                  run.contents(h), run.contents(t), side, answers)


# Parts of the page ##############################################################################


def group_tables(*metrics: Mapping[str, Any]) -> List[Dict[str, Any]]:
    r"""The MRR by group as tables.

    Args:
        *metrics (Mapping[str, Any]): What `metrics.json` holds, for each model. Alone, a model is
            shown beside its baseline.
    """
    models = list(metrics)
    if len(models) == 1 and _has_baseline(models[0]):
        models.append(models[0]['baseline'])
    out = []
    for key, (what, title) in GROUPS.items():
        parts = [model.get(key, {}) for model in models]
        counts = {name: values['count'] for name, values in parts[0].items()}
        names = sorted(counts, key=DEGREE_BINS.index if key == 'by_degree' else
                       lambda name, counts=counts: -counts[name])
        if counts:
            out.append({
                'key': key, 'what': what, 'title': title, 'left_out': len(names[MAX_ROWS:]),
                'rows': [{'name': name, 'count': counts[name],
                          'mrr': [part[name]['mrr'] if name in part else None for part in parts]}
                         for name in names[:MAX_ROWS]]})
    return out


def curves(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> List[LineChart]:
    r"""Loss and validation MRR of several trainings over their epochs, each in one chart.

    Args:
        histories (Mapping[str, Sequence[Mapping[str, Any]]]): What `history.jsonl` holds, by the
            name of the run.
    """
    out = []
    for key, title in (('val_mrr', 'Validation MRR'), ('loss', 'Training loss')):
        series: Dict[str, Points] = {}
        for name, history in histories.items():
            for choosing in (True, False):
                # Where a part of train was held out to choose the epoch by, there are two models.
                part = [entry for entry in history if entry.get('choosing', False) == choosing]
                label = f'{name} while choosing' if choosing else name
                series[label.strip() or title] = [(entry['epoch'], entry[key]) for entry in part
                                                  if key in entry]
        if any(series.values()):
            out.append(line_chart(title, 'epoch', title, series))
    return out


def _best_epoch(history: Sequence[Mapping[str, Any]]) -> Optional[Mapping[str, Any]]:
    looks = [entry for entry in history if 'val_mrr' in entry]
    return max(looks, key=lambda entry: entry['val_mrr']) if looks else None


def _heat_map(run: Run) -> Optional[Dict[str, Any]]:
    device = next(run.model.parameters()).device
    if run.model.modality_weights(torch.zeros(1, dtype=torch.long, device=device)) is None:
        return None
    weights, labels = relation_modality_weights(run.model, run.data), run.data[EDGE].label
    shown = [r for r in range(len(labels)) if not bool(weights[r].isnan().any())]
    return {'modalities': run.model.modalities, 'left_out': len(labels) - len(shown),
            'rows': [{'relation': labels[r], 'tail': weights[r].tolist(),
                      'head': weights[r + len(labels)].tolist()} for r in shown]}


def _coverage(run: Run) -> Dict[str, int]:
    store = run.data['entity']
    return {key[:-len('_mask')]: int(store[key].sum()) for key in sorted(store.keys())
            if key.endswith('_mask')}


def _calibration(calibration: Mapping[str, Any]) -> Optional[str]:
    if not calibration:
        return None
    if calibration.get('temperature') is None:
        return f'Probabilities are not calibrated: {calibration.get("reason")}.'
    split = list(calibration['reliability'])[-1]
    before, after = (calibration['reliability'][split][part]['ece'] for part in ('before', 'after'))
    return (f'Probabilities are calibrated on {calibration["split"]} (temperature '
            f'{calibration["temperature"]:.3f}); the expected calibration error on {split} is '
            f'{after:.3f}, {before:.3f} without.')


def _has_baseline(metrics: Mapping[str, Any]) -> bool:
    baseline = metrics.get('baseline')
    return baseline is not None and baseline['model'] != metrics['model']
