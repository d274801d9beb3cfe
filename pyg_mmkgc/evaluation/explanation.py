r"""Why a model gives one answer the score that it does."""
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_mmkgc.data import (
    EDGE,
    EntityContents,
    build_index,
    entity_contents,
    get_triples,
    seen_entities,
    split_names,
)
from pyg_mmkgc.evaluation.calibration import _check_temperature
from pyg_mmkgc.evaluation.evaluator import _device, _evaluating
from pyg_mmkgc.evaluation.prediction import _named, filtered_softmax, find_label, known_by
from pyg_mmkgc.evaluation.ranking import Ranks, Scorer, rank

#: Facts whose vectors are compared at a time.
CHUNK = 8192


@dataclass(frozen=True)
class ExplainedEntity:
    r"""What counted in one end of an answer: the head under the relation, or the tail as a
    candidate.

    Args:
        entity (int): Its id.
        label (str): Its label.
        modalities (List[str]): The modalities that it has, structure included.
        modality_weights (Dict[str, float], optional): The share of each modality in the decision.
        expert_weights (Dict[str, List[float]], optional): For each modality that it has, the
            weight of each expert.
        modality_redundancy (Dict[str, float], optional): :math:`R_m`: how much (in nats) the other
            modalities say already of what each modality says; the less, the more complementary.
        view_redundancy (Dict[str, List[float]], optional): The same within each modality,
            :math:`R_{m,k}` of each expert's view.
        contents (EntityContents): Its texts, numbers and pictures.
    """
    entity: int
    label: str
    modalities: List[str] = field(default_factory=list)
    modality_weights: Optional[Dict[str, float]] = None
    expert_weights: Optional[Dict[str, List[float]]] = None
    modality_redundancy: Optional[Dict[str, float]] = None
    view_redundancy: Optional[Dict[str, List[float]]] = None
    contents: EntityContents = field(default_factory=EntityContents)

    @property
    def has_experts(self) -> bool:
        r"""Whether any of its modalities is seen by more than one expert."""
        return any(len(weights) > 1 for weights in (self.expert_weights or {}).values())


@dataclass(frozen=True)
class Removal:
    r"""What is left of an answer where a modality is masked out, without retraining.

    Args:
        modality (str): The modality.
        of (str): Whose: ``'head'``, ``'tail'`` or ``'both'``.
        score (float): The score then.
        rank (float): The rank then.
    """
    modality: str
    of: str
    score: float
    rank: float


@dataclass(frozen=True)
class SimilarFact:
    r"""A training fact under the same relation.

    Args:
        head_index (int): The id of its head.
        tail_index (int): The id of its tail.
        head (str): The label of its head.
        tail (str): The label of its tail.
        similarity (float): The mean of the next two.
        head_similarity (float): The cosine of the joint views of both heads.
        tail_similarity (float): That of both tails.
        head_contents (EntityContents): Texts, numbers and pictures of its head.
        tail_contents (EntityContents): Those of its tail.
    """
    head_index: int
    tail_index: int
    head: str
    tail: str
    similarity: float
    head_similarity: float
    tail_similarity: float
    head_contents: EntityContents = field(default_factory=EntityContents)
    tail_contents: EntityContents = field(default_factory=EntityContents)


@dataclass(frozen=True)
class Explanation:
    r"""Why a model gives the answer :math:`t` to :math:`(h, r, ?)` its score.

    Args:
        model (str): The class of the model.
        relation (str): The label of the relation.
        head (ExplainedEntity): The head.
        tail (ExplainedEntity): The tail.
        known (str, optional): The first split that holds the fact, else ``'new'``; :obj:`None` of
            a graph that came without its triples.
        score (float): The score.
        rank (float): The filtered rank of the tail.
        head_rank (float): That of the head as the answer to :math:`(?, r, t)`.
        num_candidates (int): The number of candidates for the tail that the filter leaves.
        candidates (str): ``'seen'`` or ``'all'``.
        probability (float): The probability of the tail, see
            :func:`~pyg_mmkgc.evaluation.predict`.
        calibrated (bool): Whether it is.
        modalities (List[str], optional): The modalities that the model sees, structure included;
            :obj:`None` for a model that knows of none.
        contributions (Dict[str, float], optional): What each head of the joint decision adds to
            the score; they sum to it.
        removals (List[Removal]): What is left without each modality.
        similar (List[SimilarFact]): The most similar training facts, best first.
    """
    model: str
    relation: str
    head: ExplainedEntity
    tail: ExplainedEntity
    known: Optional[str]
    score: float
    rank: float
    head_rank: float
    num_candidates: int
    candidates: str
    probability: float
    calibrated: bool
    modalities: Optional[List[str]] = None
    contributions: Optional[Dict[str, float]] = None
    removals: List[Removal] = field(default_factory=list)
    similar: List[SimilarFact] = field(default_factory=list)

    def notes(self) -> List[str]:
        r"""What cannot be said of the answer, and why, in sentences."""
        if self.modalities is None:
            return [f'{self.model} knows entities by structure alone: it weighs no modality, and '
                    f'none can be removed.']
        out = []
        if self.head.modality_weights is None:
            out.append(f'{self.model} does not weigh modalities.')
        if self.contributions is None:
            out.append(f'{self.model} has one score function, so no head has a share.')
        if self.head.modality_redundancy is None:
            out.append(f'{self.model} does not estimate how complementary modalities are.')
        return out

    def with_contents(self, contents: Callable[[int], EntityContents]) -> 'Explanation':
        r"""The same with what there is to see of all its entities.

        Args:
            contents (Callable): Gives that of an entity by its id, such as
                :meth:`GraphDataset.contents`.
        """
        return replace(
            self, head=replace(self.head, contents=contents(self.head.entity)),
            tail=replace(self.tail, contents=contents(self.tail.entity)),
            similar=[replace(fact, head_contents=contents(fact.head_index),
                             tail_contents=contents(fact.tail_index)) for fact in self.similar])

    def to_dict(self) -> Dict[str, Any]:
        r"""All of it, ready for JSON."""
        out = asdict(self)
        for name, end in (('head', self.head), ('tail', self.tail)):
            out[name]['contents'] = end.contents.to_dict()
        for values, fact in zip(out['similar'], self.similar, strict=True):
            values.update(head_contents=fact.head_contents.to_dict(),
                          tail_contents=fact.tail_contents.to_dict())
        return {**out, 'notes': self.notes()}


@torch.no_grad()
def explain(model: Any, data: HeteroData, head: Union[str, int], relation: Union[str, int],
            tail: Union[str, int], *, top: int = 5,
            temperature: Optional[float] = None) -> Explanation:
    r"""Explain one answer: what counted in it, what is left of it without each modality, and the
    training facts that are most similar.

    Ranks are those of :func:`evaluate`: filtered by all splits, among the candidates of the graph
    (all, if training knows one of the two entities not). A modality is removed by its mask, of
    the head, of the tail, and of both, while all other entities keep theirs; the weights were
    trained with it, so this says what the model relies on, not what a model without it would do.
    Each removal scores all candidates anew.

    Facts are similar where heads are under the relation and tails are as candidates, by the cosine
    of joint views.

    Args:
        model (KGModel): A model that was built for :obj:`data`.
        data (HeteroData): The graph with labels.
        head (str or int): The label of the head, or its id, see :func:`find_label`.
        relation (str or int): The label or id of the relation.
        tail (str or int): The label or id of the tail.
        top (int, optional): The number of similar facts. (default: :obj:`5`)
        temperature (float, optional): The temperature of calibrated probabilities, see
            :func:`fit_temperature`. (default: :obj:`None`, not calibrated)

    Raises:
        ValueError: If a label is unknown (the message names similar ones), or :obj:`top` or the
            temperature is out of range.
    """
    if top < 0:
        raise ValueError(f"'top' needs to be at least 0 (got {top})")
    if temperature is not None:
        _check_temperature(temperature)
    labels = data['entity'].label
    h, t = find_label('entity', labels, head), find_label('entity', labels, tail)
    r = find_label('relation', data[EDGE].label, relation)
    device = _device(model)
    head_index, rel_type, tail_index = (torch.tensor([i], device=device) for i in (h, r, t))
    question = _Question(data, head_index, rel_type, tail_index)

    with _evaluating(model):
        row, ranks = question.ask(model)
        score = row.masked_fill(~question.allowed.to(row.device), float('-inf'))
        if temperature is not None:
            probability = filtered_softmax((score / temperature).unsqueeze(0), data, head_index,
                                           rel_type)[0]
        else:
            probability = score.softmax(0) if model.objective == 'softmax' else score.sigmoid()
        parts = model.contributions(head_index, rel_type, tail_index)
        out = Explanation(
            model=type(model).__name__,
            relation=data[EDGE].label[r],
            head=_entity(model, data, h, rel_type),
            tail=_entity(model, data, t),
            known=known_by(data, head_index, rel_type, tail_index)[0],
            score=float(row[t]),
            rank=float(ranks.rank[0]),
            head_rank=question.head_rank(model),
            num_candidates=int(ranks.num_candidates[0]),
            candidates=question.candidates,
            probability=float(probability[t]),
            calibrated=temperature is not None,
            modalities=list(model.modalities) if hasattr(model, 'modalities') else None,
            contributions=parts and {name: float(part[0]) for name, part in parts.items()},
            removals=_removals(model, question, h, t),
            similar=_similar(model, data, head_index, rel_type, tail_index, top),
        )
    return out.with_contents(lambda entity: entity_contents(data, entity))


class _Question:
    r"""The question :math:`(h, r, ?)` with its answer :math:`t`, by the protocol of the graph."""
    def __init__(self, data: HeteroData, head_index: Tensor, rel_type: Tensor, tail_index: Tensor):
        self.triple = head_index, rel_type, tail_index
        self.num_entities, self.num_relations = data['entity'].num_nodes, data[EDGE].num_relations
        self.known, seen = build_index(data, split_names(data)), seen_entities(data)
        both = torch.cat([head_index, tail_index]).cpu()
        self.candidates = (getattr(data, 'candidates', 'all') if bool(seen[both].all()) else 'all')
        self.allowed = seen if self.candidates == 'seen' else torch.ones_like(seen)

    def ask(self, model: Any) -> Tuple[Tensor, Ranks]:
        r"""The scores of all entities :math:`(N)`, and the rank of the answer."""
        row = model.scorer()(*self.triple[:2], 0, self.num_entities)
        # They are ranked as they are, so that nothing is scored twice.
        return row[0], self._rank(lambda head_index, rel_type, start, stop: row[:, start:stop],
                                  *self.triple)

    def head_rank(self, model: Any) -> float:
        r"""The rank of the head as the answer to :math:`(?, r, t)`."""
        head_index, rel_type, tail_index = self.triple
        return float(self._rank(model.scorer(), tail_index, rel_type + self.num_relations,
                                head_index).rank[0])

    def _rank(self, scorer: Scorer, head_index: Tensor, rel_type: Tensor,
              tail_index: Tensor) -> Ranks:
        return rank(scorer, head_index, rel_type, tail_index, self.known,
                    num_entities=self.num_entities, candidates=self.allowed)


def _entity(model: Any, data: HeteroData, entity: int,
            rel_type: Optional[Tensor] = None) -> ExplainedEntity:
    label = data['entity'].label[entity]
    if not hasattr(model, 'modalities'):
        return ExplainedEntity(entity, label)
    index, names = torch.tensor([entity], device=_device(model)), list(model.modalities)
    _, mask_dict = model.inputs(index)
    there = [m for m in names if bool(mask_dict[m][0])]

    def those(weights: Optional[Dict[str, Tensor]]) -> Optional[Dict[str, List[float]]]:
        return None if weights is None else {m: weights[m][0].tolist() for m in there}

    weights, redundancy = model.modality_weights(index, rel_type), model.redundancy(index)
    by_view, by_modality = (None, None) if redundancy is None else redundancy
    if by_modality is not None:
        by_modality = _named(names, by_modality[0])
        by_modality = {m: by_modality[m] for m in there}
    return ExplainedEntity(
        entity, label, there, None if weights is None else _named(names, weights[0]),
        those(model.expert_weights(index, rel_type)), by_modality, those(by_view))


def _removals(model: Any, question: _Question, head: int, tail: int) -> List[Removal]:
    if not hasattr(model, 'modalities'):
        return []
    ends = {'head': [head], 'tail': [tail], 'both': [head, tail]}
    if head == tail:
        ends = {'both': [head]}
    device, out = _device(model), []
    for m in model.modalities:
        for of, entities in ends.items():
            index = torch.tensor(entities, device=device)
            _, mask_dict = model.inputs(index)
            if bool(mask_dict[m].all()):
                row, ranks = question.ask(model.without(m, index))
                out.append(Removal(m, of, float(row[tail]), float(ranks.rank[0])))
    return out


def _similar(model: Any, data: HeteroData, head_index: Tensor, rel_type: Tensor,
             tail_index: Tensor, top: int) -> List[SimilarFact]:
    heads, relations, tails = (x.cpu() for x in get_triples(data, 'train'))
    same = (heads == head_index.cpu()) & (tails == tail_index.cpu())
    kept = (relations == rel_type.cpu()) & ~same
    facts = torch.stack([heads[kept], tails[kept]]).unique(dim=1)
    if facts.size(1) == 0 or top == 0:
        return []
    of_heads = _cosine(model, head_index, facts[0], rel_type)
    of_tails = _cosine(model, tail_index, facts[1], None)
    mean = (of_heads + of_tails) / 2
    labels = data['entity'].label
    best = mean.argsort(descending=True, stable=True)[:top]
    return [SimilarFact(h, t, labels[h], labels[t], *values) for (h, t), *values in zip(
        facts[:, best].t().tolist(), mean[best].tolist(), of_heads[best].tolist(),
        of_tails[best].tolist(), strict=True)]


def _cosine(model: Any, entity: Tensor, others: Tensor, rel_type: Optional[Tensor]) -> Tensor:
    # Each entity is looked at once, however many facts name it.
    index, row = others.unique(return_inverse=True)
    view = model.joint_view(entity, rel_type).float()
    parts = []
    for part in index.to(entity.device).split(CHUNK):
        relations = None if rel_type is None else rel_type.expand(part.numel())
        parts.append(torch.cosine_similarity(model.joint_view(part, relations).float(), view))
    return torch.cat(parts).cpu()[row]
