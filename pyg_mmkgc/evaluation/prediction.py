r"""Answers to one question in words."""
import difflib
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_mmkgc.data import EDGE, add_entities, build_index, seen_entities, split_names
from pyg_mmkgc.evaluation.calibration import _check_temperature, known_splits
from pyg_mmkgc.evaluation.evaluator import CANDIDATES, _device, _evaluating


@torch.no_grad()
def predict(
    model: Any,
    data: HeteroData,
    *,
    head: Optional[Union[str, int]] = None,
    relation: Union[str, int],
    tail: Optional[Union[str, int]] = None,
    top: int = 10,
    candidates: Optional[str] = None,
    exclude: Sequence[str] = (),
    features: Optional[Mapping[str, Tensor]] = None,
    masks: Optional[Mapping[str, Tensor]] = None,
    temperature: Optional[float] = None,
    min_probability: float = 0.0,
) -> List[Dict[str, Any]]:
    r"""The best answers to :math:`(h, r, ?)` or :math:`(?, r, t)`, best first.

    With a :obj:`temperature` (:func:`fit_temperature`), the probability of an answer is that of
    its being the missing one, among all candidates that train and validation do not know to be
    true: each known answer competes with these alone. Without, it is *probability-like*: the
    softmax over all candidates for a model that was trained by one, else the sigmoid of the score.

    An entity that the graph does not hold is asked about by its :obj:`features`, without
    training: it is no candidate itself. To ask for it as an answer, put it into the graph by
    :func:`~pyg_mmkgc.data.add_entities` and :meth:`~pyg_mmkgc.nn.KGModel.extend`.

    Args:
        model (KGModel): A model that was built for :obj:`data`.
        data (HeteroData): The graph with labels.
        head (str or int, optional): The label of the head, or its id. A label has to match
            exactly, or but for its case if only one does.
        relation (str or int): The label or id of the relation.
        tail (str or int, optional): The label or id of the tail, in place of the head.
        top (int, optional): The number of answers. (default: :obj:`10`)
        candidates (str, optional): ``'all'`` entities, or those ``'seen'`` in training (default:
            ``'all'`` if the entity asked about was not seen, else what ``data.candidates``
            says, else ``'all'``: the same as in :func:`evaluate`).
        exclude (Sequence[str], optional): Splits whose triples are no answers.
            (default: none)
        features (Mapping[str, torch.Tensor], optional): The entity asked about is a new one, whose
            name is given, and has these features: :math:`(C_m)` or :math:`(1, C_m)` for each
            modality at hand. (default: :obj:`None`, it is in the graph)
        masks (Mapping[str, torch.Tensor], optional): See :func:`~pyg_mmkgc.data.add_entities`.
            (default: :obj:`None`)
        temperature (float, optional): The temperature of calibrated probabilities.
            (default: :obj:`None`, not calibrated)
        min_probability (float, optional): The model abstains from answers below.
            (default: :obj:`0.0`)

    Returns:
        List[Dict[str, Any]]: For each answer ``'entity'``, ``'score'``, ``'probability'``;
        ``'known'``, the first split that holds the triple, else ``'new'`` (None for a model that
        was saved without triples); and
        ``'modality_weights'``, how much each modality counted in the entity asked about under
        the relation (``'query'``) and in the answer (``'answer'``), or :obj:`None` for a model
        without such weights.

    Raises:
        ValueError: If not exactly one of :obj:`head` and :obj:`tail` is given, a label is unknown
            (the message names similar ones) or another argument is invalid.
    """
    given = head if tail is None else tail
    if given is None or None not in (head, tail):
        raise ValueError(f"expected exactly one of 'head' and 'tail' (got {head!r} and {tail!r})")
    if top < 1:
        raise ValueError(f"'top' needs to be at least 1 (got {top})")
    if not 0 <= min_probability <= 1:
        raise ValueError(f"'min_probability' needs to be in [0, 1] (got {min_probability})")
    if temperature is not None:
        _check_temperature(temperature)
    if features is not None:
        model, data = _with_new(model, data, given, features, masks)
    num_entities, num_relations = data['entity'].num_nodes, data[EDGE].num_relations
    labels = data['entity'].label
    entity = find_label('entity', labels, given)
    relation_id = find_label('relation', data[EDGE].label, relation)
    if tail is not None:
        relation_id += num_relations
    device = _device(model)
    head_index = torch.tensor([entity], device=device)
    rel_type = torch.tensor([relation_id], device=device)

    with _evaluating(model):
        score = model.scorer()(head_index, rel_type, 0, num_entities)[0]  # [N]
        allowed = _allowed(data, entity, rel_type, candidates, exclude).to(score.device)
        if features is not None:
            allowed[entity] = False
        score = score.masked_fill(~allowed, float('-inf'))
        if temperature is not None:
            probability = filtered_softmax((score / temperature).unsqueeze(0), data, head_index,
                                           rel_type)[0]
        else:
            probability = score.softmax(0) if model.objective == 'softmax' else score.sigmoid()
        # A stable sort, so that ties come in the order of ids on every machine.
        answer = score.argsort(descending=True, stable=True)[:min(top, int(allowed.sum()))]
        answer = answer[probability[answer] >= min_probability]
        query_weights = model.modality_weights(head_index, rel_type)
        answer_weights = model.modality_weights(answer) if answer.numel() > 0 else None

    known = known_by(data, head_index, rel_type, answer)
    out = []
    for i, e in enumerate(answer.tolist()):
        weights = None
        if query_weights is not None and answer_weights is not None:
            weights = {'query': _named(model.modalities, query_weights[0]),
                       'answer': _named(model.modalities, answer_weights[i])}
        out.append({'entity': labels[e], 'score': float(score[e]),
                    'probability': float(probability[e]), 'known': known[i],
                    'modality_weights': weights})
    return out


def find_label(kind: str, labels: Sequence[str], label: Union[str, int]) -> int:
    r"""The id of what has a label.

    Args:
        kind (str): What it is, for messages.
        labels (Sequence[str]): All labels in the order of ids.
        label (str or int): The label, exactly or but for its case if only one matches so; an
            integer is an id.

    Raises:
        ValueError: If there is none, or several; the message names similar ones.
    """
    if isinstance(label, int):
        if not 0 <= label < len(labels):
            raise ValueError(f'Unknown {kind} {label} (expected an id from 0 to '
                             f'{len(labels) - 1})')
        return label
    matches = [i for i, other in enumerate(labels) if other == label]
    folded = label.strip().casefold()
    if not matches:
        matches = [i for i, other in enumerate(labels) if other.strip().casefold() == folded]
    if len(matches) > 1:
        names = ', '.join(f'{labels[i]!r} (id {i})' for i in matches[:5])
        raise ValueError(f'{kind.capitalize()} {label!r} is ambiguous: {names}')
    if matches:
        return matches[0]
    by_folded = {other.casefold(): other for other in reversed(labels)}
    close = [by_folded[key] for key in difflib.get_close_matches(folded, by_folded, n=3)]
    # A part of a name is close, too, however long the name is:
    close += [other for key, other in by_folded.items() if folded and folded in key]
    close = list(dict.fromkeys(close))[:3]
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ''
    raise ValueError(f'Unknown {kind} {label!r} (expected the label of one of {len(labels)}{hint})')


def _with_new(model: Any, data: HeteroData, label: Union[str, int],
              features: Mapping[str, Tensor],
              masks: Optional[Mapping[str, Tensor]]) -> Tuple[Any, HeteroData]:
    if not isinstance(label, str):
        raise ValueError(f"a new entity needs a name (got {label!r}, and 'features')")
    features = {m: x.unsqueeze(0) if x.dim() == 1 else x for m, x in features.items()}
    data = add_entities(data, [label], features, masks)
    return model.extend(data), data


def filtered_softmax(score: Tensor, data: HeteroData, head_index: Tensor,
                     rel_type: Tensor) -> Tensor:
    r"""Probabilities in the setting that the temperature was fitted in: those of each answer among
    itself and all that train and validation do not know.

    Args:
        score (torch.Tensor): Scores :math:`(B, N)`, divided by the temperature.
        data (HeteroData): The graph.
        head_index (torch.Tensor): The heads of the queries, :math:`(B)`.
        rel_type (torch.Tensor): Their relations, :math:`(B)`.
    """
    known = build_index(data, known_splits(data, 'train'))
    row, entity = known.answers(head_index.cpu(), rel_type.cpu())
    own = torch.zeros_like(score, dtype=torch.bool)
    own[row.to(score.device), entity.to(score.device)] = True
    rest = score.masked_fill(own, float('-inf')).logsumexp(1, keepdim=True)
    return (score - torch.where(own, torch.logaddexp(score, rest), rest)).exp()


def _allowed(data: HeteroData, entity: int, rel_type: Tensor, candidates: Optional[str],
             exclude: Sequence[str]) -> Tensor:
    seen = seen_entities(data)
    if candidates is None:
        candidates = getattr(data, 'candidates', 'all') if bool(seen[entity]) else 'all'
    if candidates not in CANDIDATES:
        raise ValueError(f"'candidates' needs to be 'seen' or 'all' (got {candidates!r})")
    allowed = seen.clone() if candidates == 'seen' else torch.ones_like(seen)
    if exclude:
        _, known = build_index(data, exclude).answers(torch.tensor([entity]), rel_type.cpu())
        allowed[known] = False
    return allowed


def known_by(data: HeteroData, head_index: Tensor, rel_type: Tensor,
             answer: Tensor) -> List[Optional[str]]:
    r"""The first split that holds each triple, else ``'new'``; None of a graph that came without
    its triples.

    Args:
        data (HeteroData): The graph.
        head_index (torch.Tensor): The head indices.
        rel_type (torch.Tensor): The relation types, inverse ones included.
        answer (torch.Tensor): The tail indices.
    """
    if data[EDGE].edge_type.numel() == 0:
        return [None] * answer.numel()
    out: List[Optional[str]] = ['new'] * answer.numel()
    for split in reversed(split_names(data)):
        found = build_index(data, [split]).contains(head_index.cpu(), rel_type.cpu(), answer.cpu())
        out = [split if hit else name for hit, name in zip(found.tolist(), out, strict=True)]
    return out


def _named(names: Sequence[str], weights: Tensor) -> Dict[str, float]:
    return dict(zip(names, weights.tolist(), strict=True))
