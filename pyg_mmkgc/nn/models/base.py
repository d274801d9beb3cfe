import copy
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union

import torch
from torch import Tensor
from torch.nn import Embedding
from torch_geometric.data import HeteroData
from torch_geometric.nn.kge.loader import KGTripletLoader
from typing_extensions import Self

from pyg_mmkgc.data import EDGE, TripleIndex, build_index, get_triples, seen_entities
from pyg_mmkgc.data.hetero import HAS_LOOPS, triples_of
from pyg_mmkgc.data.share import batch_mean, bounds
from pyg_mmkgc.evaluation import (
    Ranks,
    TriplePredictions,
    compute_metrics,
    predict_triples,
    rank,
)
from pyg_mmkgc.evaluation.ranking import Scorer
from pyg_mmkgc.nn.decoders import Decoder, JointDecision
from pyg_mmkgc.nn.decoders.base import Part
from pyg_mmkgc.nn.models.pretrained import Pretrained
from pyg_mmkgc.nn.reduction import Answers, Pairs
from pyg_mmkgc.nn.rows import select_rows
from pyg_mmkgc.nn.sharded_embedding import ShardedEmbedding

OBJECTIVES = ('softmax', 'bce', 'sampled')
#: Types of the numbers of a table of entities; None is torch's default.
TABLE_DTYPES = {'float32': None, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
#: Entities that are encoded at once where all are scored and nothing is trained.
ENCODE_CHUNK = 2**15


class Prepared(NamedTuple):
    r"""What a loss needs to know of a batch beyond the batch; see :meth:`KGModel.prepare`.

    Args:
        relations (torch.Tensor, optional): The distinct relations, see :meth:`Decoder.distinct`.
        answers (Answers, optional): What training knows to be true.
        positives (Tuple[torch.Tensor, torch.Tensor], optional): Row and entity of the triples that
            are true beside these.
        neg_index (torch.Tensor, optional): Negatives :math:`(B, n)`.
        neg_mask (torch.Tensor, optional): Which of them count, :math:`(B, n)`.
        entities (torch.Tensor, optional): The distinct entities of the batch and its negatives.
        row (torch.Tensor, optional): Where heads, tails and negatives are among these,
            :math:`(B, 2 + n)`.
    """
    relations: Optional[Tensor] = None
    answers: Optional[Answers] = None
    positives: Optional[Pairs] = None
    neg_index: Optional[Tensor] = None
    neg_mask: Optional[Tensor] = None
    entities: Optional[Tensor] = None
    row: Optional[Tensor] = None


def entity_table(num_entities: int, channels: int, dtype: str, objective: str) -> Embedding:
    r"""A learned table with a row for each entity.

    Args:
        num_entities (int): The number of entities.
        channels (int): Size of a row.
        dtype (str): The type of its numbers, one of :obj:`TABLE_DTYPES`.
        objective (str): The objective that it is trained for.

    Raises:
        ValueError: If the type is unknown, or narrower than single precision without the optimiser
            that ``'sampled'`` has for it.
    """
    if dtype not in TABLE_DTYPES:
        raise ValueError(f"Unknown 'table_dtype' {dtype!r} (expected one of {list(TABLE_DTYPES)})")
    if dtype != 'float32' and objective != 'sampled':
        raise ValueError(f"'table_dtype' {dtype!r} needs 'objective' to be 'sampled' "
                         f'(got {objective!r})')
    return Embedding(num_entities, channels, dtype=TABLE_DTYPES[dtype])


def look_up(table: Embedding, index: Optional[Tensor] = None) -> Tensor:
    r"""Rows of a table, all if none are named, in single precision at least."""
    if index is not None:
        x = table(index)
    else:
        x = table.whole() if isinstance(table, ShardedEmbedding) else table.weight
    return x.to(torch.promote_types(x.dtype, torch.float))


class KGModel(Pretrained, torch.nn.Module):
    r"""The base class of all models: turns entity ids into views and lets a decoder score them.

    It has the verbs of :class:`torch_geometric.nn.kge.KGEModel` (:meth:`forward`, :meth:`loss`,
    :meth:`test`, :meth:`loader`) and :meth:`score_all`. Relation :math:`r + R` is the inverse of
    :math:`r`, so that heads are asked for by :math:`(t, r + R, ?)`.

    A subclass says where the vectors come from, by :meth:`encode` (all that can be computed once,
    whatever is asked) and, if these are not the vectors themselves, :meth:`head_vectors` (an
    entity under the relation of a query) and :meth:`candidate_vectors` (an entity as an answer).

    The loss of a batch of triples is one or the sum of two parts. Over all entities seen in
    training it is

    * ``'softmax'``: :math:`-\log \mathrm{softmax}_{t'} \, s(h, r, t')_t`, or
    * ``'bce'``: the mean over :math:`t'` of the binary cross-entropy of
      :math:`\sigma(s(h, r, t'))`, where all training answers of :math:`(h, r)` are true,

    and ``'sampled'`` with :obj:`neg_sampling` is, for negatives :math:`t'_i` with weights
    :math:`w_i`,

    .. math::
        \mathrm{softplus}(-s(h, r, t)) +
        \frac{\sum_i w_i \, \mathrm{softplus}(s(h, r, t'_i))}{\sum_i 1} .

    Args:
        num_entities (int): The number of entities.
        num_relations (int): The number of original relations :math:`R`.
        hidden_channels (int): Size of the vectors that are compared.
        decoder (Decoder): The score function.
        objective (str, optional): ``'softmax'``, ``'bce'`` or ``'sampled'``.
            (default: :obj:`"softmax"`)
        label_smoothing (float, optional): Smoothing :math:`\varepsilon` of the loss over all
            entities: truth weighs :math:`1 - \varepsilon`, and :math:`\varepsilon` is spread over
            the candidates of ``'softmax'``, or over all entities for ``'bce'``.
            (default: :obj:`0.0`)
        smoothing_mass (float, optional): What is spread for ``'bce'``, if it is not
            :math:`\varepsilon`. (default: :obj:`label_smoothing`)
        regularization (float, optional): Weight of the decoder's N3 norm.
            (default: :obj:`0.0`)
        neg_sampling (TripleNegativeSampling, optional): Draws and weighs negatives.
            (default: :obj:`None`)
        neg_weight (float, optional): The weight of the sampled part beside a loss over all
            entities. (default: :obj:`1.0`)
        exclude_loops (bool, optional): If set to :obj:`True`, an entity is the last answer to a
            question about itself wherever training has no triple :math:`(e, r, e)` of the relation.
            (default: :obj:`False`)

    Raises:
        ValueError: If an argument is unknown or out of range, or a sampled loss has no sampler.
    """
    decoder: Union[Decoder, JointDecision]
    seen: Tensor
    seen_index: Tensor
    has_loops: Tensor

    def __init__(self, num_entities: int, num_relations: int, hidden_channels: int,
                 decoder: Union[Decoder, JointDecision], objective: str = 'softmax',
                 label_smoothing: float = 0.0, smoothing_mass: Optional[float] = None,
                 regularization: float = 0.0,
                 neg_sampling: Optional[Any] = None, neg_weight: float = 1.0,
                 exclude_loops: bool = False):
        super().__init__()
        if objective not in OBJECTIVES:
            raise ValueError(f"Unknown 'objective' {objective!r} (expected one of "
                             f'{list(OBJECTIVES)})')
        if objective == 'sampled' and neg_sampling is None:
            raise ValueError("'objective' is 'sampled', but 'neg_sampling' is missing")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"'label_smoothing' needs to be in [0, 1) (got {label_smoothing})")
        self.num_entities = num_entities
        self.num_relations = num_relations
        self.hidden_channels = hidden_channels
        self.decoder = decoder
        self.objective = objective
        self.label_smoothing = label_smoothing
        self.smoothing_mass = label_smoothing if smoothing_mass is None else smoothing_mass
        self.regularization = regularization
        self.neg_sampling = neg_sampling
        self.neg_weight = neg_weight
        self.exclude_loops = exclude_loops
        self.held_out_gates = False
        # What is known of the graph; not part of the saved model, `attach` brings it:
        self.register_buffer('seen', torch.ones(num_entities, dtype=torch.bool), persistent=False)
        self.register_buffer('seen_index', torch.arange(num_entities), persistent=False)
        self.register_buffer('has_loops', torch.ones(2 * num_relations, dtype=torch.bool),
                             persistent=False)
        self._triples: Optional[HeteroData] = None
        self._known: Optional[TripleIndex] = None
        self._train_known: Optional[TripleIndex] = None
        self._test_candidates: Optional[Tensor] = None

    @classmethod
    def from_data(cls, data: HeteroData, **kwargs: Any) -> Self:
        r"""Build a model for a graph, in one call.

        Args:
            data (HeteroData): The graph.
            **kwargs: Arguments of the model other than those that the graph determines.
        """
        model = cls(num_entities=data['entity'].num_nodes, num_relations=data[EDGE].num_relations,
                    **kwargs)
        return model.attach(data)

    def attach(self, data: HeteroData) -> Self:
        r"""Give the model what it reads of a graph but does not learn."""
        if data['entity'].num_nodes != self.num_entities:
            raise ValueError(f"'data' has {data['entity'].num_nodes} entities (expected "
                             f'{self.num_entities})')
        self._check_labels(data)
        self.seen = seen_entities(data).to(self.seen.device)
        self.seen_index = self.seen.nonzero().view(-1)
        head_index, rel_type, tail_index = get_triples(data, 'train')
        loops = rel_type[head_index == tail_index].bincount(minlength=self.num_relations) > 0
        if HAS_LOOPS in data[EDGE]:
            loops = data[EDGE][HAS_LOOPS]
        self.has_loops = loops.repeat(2).to(self.seen.device)
        # Its triples, not copied, of which the indices are made that are asked for.
        self._triples, self._known, self._train_known = triples_of(data), None, None
        self._test_candidates = self.seen if data.get('candidates') == 'seen' else None
        return self

    @property
    def known(self) -> Optional[TripleIndex]:
        r"""The triples of all splits of the attached graph, or None without one."""
        if self._known is None and self._triples is not None:
            self._known = build_index(self._triples)
        return self._known

    @property
    def train_known(self) -> Optional[TripleIndex]:
        r"""The training triples of the attached graph, where the model is, or None without one."""
        if self._train_known is None and self._triples is not None:
            self._train_known = build_index(self._triples, ['train'])
        if self._train_known is not None:  # Copies but once.
            self._train_known = self._train_known.to(self.seen.device)
        return self._train_known

    def extend(self, data: HeteroData) -> Self:
        r"""This model for a graph with further entities behind those that it knows, without
        training: they lack structure, as entities do that training never named. The weights are
        shared; the result is for asking, not for training.

        Args:
            data (HeteroData): The graph, see :func:`~pyg_mmkgc.data.add_entities`.

        Raises:
            ValueError: If the model knows entities by structure only, or the graph has fewer.
        """
        raise ValueError(f'{self.__class__.__name__!r} knows entities by structure only, and so '
                         f'nothing of new ones (expected a model that sees modalities)')

    def _resized(self, num_entities: int, num_kept: int) -> Self:
        # Shares all weights but the tables of entities, of which the first rows are kept.
        shared = [*self.parameters(), *self.buffers(), self.neg_sampling,
                  self._triples, self._known, self._train_known, self._labels]
        out = copy.deepcopy(self, {id(x): x for x in shared}).eval()
        out.num_entities = num_entities
        for table in out.entity_tables():
            kept = table.weight.detach()[:num_kept]
            new = kept.new_zeros(num_entities - num_kept, kept.size(1))
            table.weight = torch.nn.Parameter(torch.cat([kept, new]), requires_grad=False)
            table.num_embeddings = num_entities
        return out

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module."""
        self.decoder.reset_parameters()

    # Vectors ####################################################################################

    def encode(self, index: Optional[Tensor] = None) -> Any:
        r"""All that can be computed of entities whatever is asked of them.

        Args:
            index (torch.Tensor, optional): Entity ids :math:`(n)`; the rows of the result.
                (default: all entities)
        """
        raise NotImplementedError

    def head_vectors(self, encoded: Any, row: Tensor, rel_type: Tensor) -> Tensor:
        r"""The heads of queries, seen under their relations, :math:`(B, F)`."""
        return select_rows(encoded, row)

    def candidate_vectors(self, encoded: Any) -> Tensor:
        r"""All encoded entities as answers, :math:`(n, F)`."""
        return encoded

    def candidate_views(self, encoded: Any) -> Dict[str, Tensor]:
        r"""All encoded entities as answers, each :math:`(n, F)`: the vector that is compared as
        ``'joint'``, and that of each modality that has one of its own."""
        return {'joint': self.candidate_vectors(encoded)}

    # Scores #####################################################################################

    def forward(self, head_index: Tensor, rel_type: Tensor, tail_index: Tensor) -> Tensor:
        r"""Returns the score of each triple; higher is better.

        Args:
            head_index (torch.Tensor): The head indices.
            rel_type (torch.Tensor): The relation types, inverse ones included.
            tail_index (torch.Tensor): The tail indices.
        """
        index, row = torch.cat([head_index, tail_index]).unique(return_inverse=True)
        head_row, tail_row = row.split(head_index.numel())
        encoded = self.encode(index)
        query = self.decoder.query(self.head_vectors(encoded, head_row, rel_type), rel_type)
        tail = select_rows(self.candidate_vectors(encoded), tail_row)
        score = self.decoder.score(query, tail)
        loop = self._excluded(head_index, rel_type) & (head_index == tail_index)
        return score.masked_fill(loop, torch.finfo(score.dtype).min)

    def score_all(self, head_index: Tensor, rel_type: Tensor) -> Tensor:
        r"""Returns the scores of all entities as tails, :math:`(B, N)`.

        Heads are asked for through the inverse relation.

        Args:
            head_index (torch.Tensor): The head indices.
            rel_type (torch.Tensor): The relation types, inverse ones included.
        """
        return self.scorer()(head_index, rel_type, 0, self.num_entities)

    def scorer(self, part: int = 0, num_parts: int = 1) -> Scorer:
        r"""A function ``(head_index, rel_type, start, stop)`` that scores a range of candidates,
        with everything that does not depend on the query computed once.

        Args:
            part (int, optional): The part of the candidates that will be asked for, if several
                processes share them (:func:`~pyg_mmkgc.data.share.bounds`). (default: :obj:`0`)
            num_parts (int, optional): The number of parts. (default: :obj:`1`)
        """
        encoded, table, first = None, None, 0
        if torch.is_grad_enabled() or self.num_entities <= ENCODE_CHUNK:
            encoded = self.encode()
            table = self.candidate_vectors(encoded)
        else:  # Then heads are encoded when they are asked for.
            parts = bounds(0, self.num_entities, num_parts)
            first, end = parts[part]
            # As many steps in each process, since a table may be sharded.
            num_chunks = -(-max(stop - start for start, stop in parts) // ENCODE_CHUNK)
            for start, stop in bounds(first, end, num_chunks):
                rows = self.candidate_vectors(self.encode(
                    torch.arange(start, stop, device=self.seen.device)))
                if table is None:
                    table = rows.new_empty(end - first, rows.size(1))
                table[start - first:stop - first] = rows
            assert table is not None  # There is an entity.

        scores = self.decoder.scorer(table)

        def score(head_index: Tensor, rel_type: Tensor, start: int, stop: int) -> Tensor:
            rows, row = encoded, head_index
            if rows is None:
                rows, row = self.encode(head_index), torch.arange(head_index.numel(),
                                                                  device=head_index.device)
            out = scores(self.head_vectors(rows, row, rel_type), rel_type, start - first,
                         stop - first)
            if not self.exclude_loops:
                return out
            # One number of each row, whichever there is if its own entity is none of these.
            column = (head_index - start).clamp(0, stop - start - 1).unsqueeze(1)
            loop = self._excluded(head_index, rel_type) & (head_index >= start)
            loop = (loop & (head_index < stop)).unsqueeze(1)
            value = out.gather(1, column).masked_fill(loop, torch.finfo(out.dtype).min)
            return out.scatter(1, column, value)

        return score

    def _excluded(self, head_index: Tensor, rel_type: Tensor) -> Tensor:
        # The queries that their own entity is no answer to.
        if not self.exclude_loops:
            return torch.zeros_like(head_index, dtype=torch.bool)
        return ~self.has_loops[rel_type]

    # Training ###################################################################################

    def prepare(self, head_index: Tensor, rel_type: Tensor, tail_index: Tensor) -> Prepared:
        r"""What :meth:`loss` needs to know of a batch and cannot find out without waiting for the
        host: the training loop asks for it outside the step. Draws the negatives.

        Args:
            head_index (torch.Tensor): The head indices.
            rel_type (torch.Tensor): The relation types.
            tail_index (torch.Tensor): The tail indices.
        """
        if self.objective == 'sampled' and self.neg_sampling is None:
            raise ValueError("the model was loaded without 'neg_sampling', which it is trained by; "
                             'hand one over to `from_pretrained`')
        out = Prepared(self.decoder.distinct(rel_type))
        if self.neg_sampling is not None:
            neg_index, mask = self.neg_sampling.corrupt(head_index, rel_type, tail_index)
            out = out._replace(neg_index=neg_index, neg_mask=mask)
        if self.objective == 'sampled':
            index = torch.cat([head_index.unsqueeze(1), tail_index.unsqueeze(1), neg_index], dim=1)
            entities, row = index.unique(return_inverse=True)
            out = out._replace(entities=entities, row=row)
        if self.objective == 'bce':
            answers, positives = self._answers(head_index, rel_type, tail_index)
            out = out._replace(answers=answers, positives=positives)
        return out

    def _answers(self, head_index: Tensor, rel_type: Tensor,
                 tail_index: Tensor) -> Tuple[Answers, Pairs]:
        known = self.train_known
        if known is None:
            raise ValueError("the model knows no graph to look answers up in for 'bce'; build it "
                             'by `from_data` or call `attach(data)`')
        query, group = (rel_type * self.num_entities + head_index).unique(return_inverse=True)
        answers = known.answers(query % self.num_entities, query // self.num_entities)
        # The triples themselves are true even if training does not hold them.
        new = (~known.contains(head_index, rel_type, tail_index)).nonzero().view(-1)
        return Answers(group, query.numel(), *answers), (new, tail_index[new])

    def loss(self, head_index: Tensor, rel_type: Tensor, tail_index: Tensor,
             log: Optional[Dict[str, Tensor]] = None,
             prepared: Optional[Prepared] = None) -> Tensor:
        r"""Returns the loss of a batch of triples; both ends are learned if the batch holds inverse
        triples :math:`(t, r + R, h)` as well.

        Args:
            head_index (torch.Tensor): The head indices.
            rel_type (torch.Tensor): The relation types.
            tail_index (torch.Tensor): The tail indices.
            log (Dict[str, torch.Tensor], optional): Filled with the parts of the loss, detached.
            prepared (Prepared, optional): What :meth:`prepare` returned for this batch.
                (default: asked for here)
        """
        if prepared is None:
            prepared = self.prepare(head_index, rel_type, tail_index)
        head_row, tail_row, neg_row = head_index, tail_index, prepared.neg_index
        if prepared.row is not None:  # All that is looked at is the batch.
            head_row, tail_row = prepared.row[:, 0], prepared.row[:, 1]
            neg_row = prepared.row[:, 2:]
        encoded = self.encode(prepared.entities)
        head = self.head_vectors(encoded, head_row, rel_type)
        table = self.candidate_vectors(encoded)
        query = self.decoder.query(head, rel_type, prepared.relations)

        parts: Dict[str, Tensor] = {}
        scores: Optional[Tensor]
        index = None
        if neg_row is not None:
            index = torch.cat([tail_row.unsqueeze(1), neg_row], dim=1)  # [B, 1 + n]
        if self.objective == 'sampled':
            assert index is not None  # There are negatives, or `prepare` fails.
            scores = self.decoder.score(query.unsqueeze(1), select_rows(table, index))
        else:
            parts, scores = self._full_losses(query, table, tail_index, prepared, index)
        if scores is not None:
            weight = 1.0 if self.objective == 'sampled' else self.neg_weight
            parts['sampled'] = weight * self._sampled_loss(scores, prepared)
        if self.regularization > 0:
            parts['regularization'] = self.regularization * self.decoder.regularization(
                head, rel_type, select_rows(table, tail_row))
        parts.update(self.auxiliary_losses(encoded, head_row))
        if log is not None:
            log.update({name: value.detach() for name, value in parts.items()})
        first, *others = parts.values()
        return sum(others, start=first)

    def auxiliary_losses(self, encoded: Any, head_row: Tensor) -> Dict[str, Tensor]:
        r"""Further named parts of the loss, from what has been encoded anyway.

        Args:
            encoded (Any): What :meth:`encode` returned.
            head_row (torch.Tensor): The rows of the heads in it, :math:`(B)`.
        """
        return {}

    def gates(self) -> List[torch.nn.Parameter]:
        r"""The parameters that weigh modalities. They learn from :meth:`loss` like all others, or,
        with :attr:`held_out_gates` set, from :meth:`gate_loss` on triples held out of it."""
        return []

    def gate_loss(self, head_index: Tensor, rel_type: Tensor, tail_index: Tensor) -> Tensor:
        r"""The softmax loss of the decision as a function of :meth:`gates` alone, without dropout,
        asked as evaluation asks: over the candidates of the graph's protocol, without the answers
        that training knows. With the objective ``'sampled'`` and more than :obj:`ENCODE_CHUNK`
        entities, candidates are those of the batch and as many random ones as that.

        What a modality is worth for entities and facts that it was not fitted to cannot be seen
        in the training loss: there, the modality that memorises best weighs most. For the same
        reason known answers are left out: they are what it has memorised.

        Args:
            head_index (torch.Tensor): The head indices of held-out triples.
            rel_type (torch.Tensor): The relation types.
            tail_index (torch.Tensor): The tail indices.
        """
        mode = self.training
        self.eval()
        try:
            index, head_row, tail_row = None, head_index, tail_index
            if self.objective == 'sampled' and self.num_entities > ENCODE_CHUNK:
                drawn = torch.randint(self.num_entities, (ENCODE_CHUNK, ),
                                      device=head_index.device)
                index, row = torch.cat([head_index, tail_index, drawn]).unique(return_inverse=True)
                head_row, tail_row, _ = row.split([head_index.numel(), tail_index.numel(),
                                                   ENCODE_CHUNK])
            with torch.no_grad():
                encoded = self.encode_for_gates(index)
            head = self.head_vectors(encoded, head_row, rel_type)
            score = self.decoder.score_all(self.decoder.query(head, rel_type),
                                           self.candidate_vectors(encoded))
            bias = self._gate_bias(head_index, rel_type, tail_row, index, score)
            valid = bias.gather(1, tail_row.unsqueeze(1)).squeeze(1) == 0
            loss = torch.nn.functional.cross_entropy(score + bias, tail_row, reduction='none')
            return batch_mean((loss * valid).sum(), valid.sum())
        finally:
            self.train(mode)

    def encode_for_gates(self, index: Optional[Tensor] = None) -> Any:
        r"""What :meth:`gate_loss` looks at: what :meth:`encode` returns, unless gates are to learn
        from less.

        Args:
            index (torch.Tensor, optional): Entity ids :math:`(n)`. (default: all entities)
        """
        return self.encode(index)

    def _gate_bias(self, head_index: Tensor, rel_type: Tensor, tail_row: Tensor,
                   index: Optional[Tensor], score: Tensor) -> Tensor:
        # What keeps entities (all, or those of `index`) from being an answer to held-out triples.
        lowest = torch.finfo(score.dtype).min
        bias = torch.zeros_like(score)
        allowed = self._test_candidates
        if allowed is not None:
            bias.masked_fill_(~(allowed if index is None else allowed[index]), lowest)
        known = self.train_known
        if known is not None:
            row, entity = known.answers(head_index, rel_type)
            if index is not None:
                place = torch.searchsorted(index, entity).clamp(max=index.numel() - 1)
                here = index[place] == entity
                row, entity = row[here], place[here]
            other = entity != tail_row[row]
            bias[row[other], entity[other]] = lowest
        return bias

    def alternating_parameters(self) -> List[torch.nn.Parameter]:
        r"""Parameters that are trained on :meth:`alternating_loss` instead of :meth:`loss`, in
        alternation with all others."""
        return []

    def alternating_loss(self) -> Tensor:
        r"""The loss of :meth:`alternating_parameters`."""
        raise NotImplementedError(f"'{self.__class__.__name__}' alternates nothing")

    def _full_losses(self, query: Tensor, table: Tensor, tail_index: Tensor,
                     prepared: Prepared, index: Optional[Tensor],
                     ) -> Tuple[Dict[str, Tensor], Optional[Tensor]]:
        # The losses over all entities, and the scores [B, n] of `index`.
        batch = torch.arange(tail_index.numel(), device=tail_index.device)
        row, column = prepared.positives or (batch, tail_index)
        pairs = row, column
        if index is not None:
            pairs = (torch.cat([row, batch.repeat_interleave(index.size(1))]),
                     torch.cat([column, index.flatten()]))
        parts = self.decoder.parts(query, table)
        decides = len(parts) > 1 and len(self.gates()) > 0 and not self.held_out_gates
        if decides:
            every = torch.ones_like(self.seen)
            parts['decision'] = Part(self.decoder, query, table, every[tail_index], every)
        losses: Dict[str, Tensor] = {}
        picked: Dict[str, Tensor] = {}
        for name, part in parts.items():
            # Entities that training never names are no negatives: nothing is known of them.
            allowed = self.seen & part.has_candidate
            valid = part.has_query & allowed[tail_index]
            loss, scores = self._full_loss(part, allowed, valid, pairs, row.numel(),
                                           prepared.answers)
            key = self.objective if len(parts) == 1 else f'{self.objective}_{name}'
            losses[key] = batch_mean(loss, valid.sum())
            if index is not None:
                picked[name] = scores.view_as(index)
        if index is None:
            return losses, None
        return losses, (picked['decision'] if decides else
                        self.decoder.combine(query, table, picked, index))

    def _full_loss(self, part: Part, allowed: Tensor, valid: Tensor, pairs: Pairs,
                   num_positives: int, answers: Optional[Answers]) -> Tuple[Tensor, Tensor]:
        # The loss, summed over valid queries, and the scores of all pairs but the positives.
        # Not as an integer, by which a quotient would be in single precision.
        dtype = torch.promote_types(part.query.dtype, torch.float)
        num_allowed, smoothing = allowed.sum().clamp(min=1).to(dtype), self.label_smoothing
        softmax = self.objective == 'softmax'
        mass: Union[float, Tensor] = 0.0
        if smoothing > 0 or self.smoothing_mass > 0:
            mass = smoothing / num_allowed if softmax else self.smoothing_mass / self.num_entities
        total, scores = part.decoder.reduce(
            part.query, part.candidates, 'logsumexp' if softmax else 'softplus', allowed, pairs,
            mass, answers, 1 - smoothing, valid)
        assert scores is not None  # Of the pairs.
        row, column = (x[:num_positives] for x in pairs)
        true = scores[:num_positives].to(total.dtype) * (allowed[column] & valid[row])
        loss = total - (1 - smoothing) * true.sum()
        return loss if softmax else loss / num_allowed, scores[num_positives:]

    def _sampled_loss(self, scores: Tensor, prepared: Prepared) -> Tensor:
        assert self.neg_sampling is not None  # Who has drawn them.
        assert prepared.neg_mask is not None
        mask, pos_score, neg_score = prepared.neg_mask, scores[:, 0], scores[:, 1:]
        weight = self.neg_sampling.weight(neg_score, mask)
        self.neg_sampling.update(prepared.neg_index, neg_score, mask)
        loss = (weight * torch.nn.functional.softplus(neg_score)).sum()
        return torch.nn.functional.softplus(-pos_score).mean() + batch_mean(loss, mask.sum())

    def loader(self, head_index: Tensor, rel_type: Tensor, tail_index: Tensor,
               **kwargs: Any) -> KGTripletLoader:
        r"""Returns a mini-batch loader over triples.

        Args:
            head_index (torch.Tensor): The head indices.
            rel_type (torch.Tensor): The relation types.
            tail_index (torch.Tensor): The tail indices.
            **kwargs (optional): Arguments of :class:`torch.utils.data.DataLoader`, such as
                :obj:`batch_size` or :obj:`shuffle`.
        """
        return KGTripletLoader(head_index, rel_type, tail_index, **kwargs)

    # Evaluation #################################################################################

    @torch.no_grad()
    def test(self, head_index: Tensor, rel_type: Tensor, tail_index: Tensor, batch_size: int,
             k: int = 10, log: bool = True) -> Tuple[float, float, float]:
        r"""Mean rank, MRR and Hits@:math:`k`, the tuple of PyG's
        :meth:`~torch_geometric.nn.kge.KGEModel.test`, but *filtered* by all splits of the graph,
        over *both sides*, and with *one-based* ranks in which ties count half. Candidates are those
        of the graph's protocol (:obj:`data.candidates`).

        Args:
            head_index (torch.Tensor): The head indices.
            rel_type (torch.Tensor): The relation types.
            tail_index (torch.Tensor): The tail indices.
            batch_size (int): The number of queries scored at a time.
            k (int, optional): The :math:`k` in Hits@:math:`k`. (default: :obj:`10`)
            log (bool, optional): If set to :obj:`False`, shows no progress bar.
                (default: :obj:`True`)
        """
        known = self._check_known().to(head_index.device)
        mode = self.training
        self.eval()
        try:
            scorer = self.scorer()
            sides = [(head_index, rel_type, tail_index),
                     (tail_index, rel_type + self.num_relations, head_index)]
            ranks = Ranks.cat([
                rank(scorer, *side, known, num_entities=self.num_entities,
                     candidates=self._test_candidates, batch_size=batch_size, log=log)
                for side in sides
            ])
        finally:
            self.train(mode)
        metrics = compute_metrics(ranks, ks=(k, ))
        return metrics['mr'], metrics['mrr'], metrics[f'hits@{k}']

    def predict_triples(self, head_index: Tensor, rel_type: Tensor, tail_index: Tensor,
                        temperature: float = 1.0) -> TriplePredictions:
        r"""Score, rank on both sides and probability of triples, filtered by all splits of the
        graph, among all entities; see :func:`~pyg_mmkgc.evaluation.predict_triples`.

        Args:
            head_index (torch.Tensor): The head indices.
            rel_type (torch.Tensor): The relation types, without inverse ones.
            tail_index (torch.Tensor): The tail indices.
            temperature (float, optional): The temperature of the probability, see
                :func:`~pyg_mmkgc.evaluation.fit_temperature`. (default: :obj:`1.0`)

        Raises:
            ValueError: If the model knows no graph, or ids are out of range.
        """
        return predict_triples(self, head_index, rel_type, tail_index, self._check_known(),
                               temperature=temperature)

    def _check_known(self) -> TripleIndex:
        known = self.known
        if known is None:
            raise ValueError('the model knows no graph to filter by; build it by `from_data` or '
                             'call `attach(data)`')
        return known

    def modality_weights(self, index: Tensor,
                         rel_type: Optional[Tensor] = None) -> Optional[Tensor]:
        r"""The share of each modality in the decision for entities, as heads under relations or, if
        :obj:`rel_type` is None, as candidates, :math:`(B, M)`; None for a model that knows no
        modalities."""
        return None

    def expert_weights(self, index: Tensor,
                       rel_type: Optional[Tensor] = None) -> Optional[Dict[str, Tensor]]:
        r"""For each modality the weight of each of its experts, :math:`(B, K_m)`, of entities as in
        :meth:`modality_weights`; None for a model without experts."""
        return None

    def redundancy(self, index: Tensor) -> Optional[Tuple[Dict[str, Tensor], Tensor]]:
        r"""How much of each view of an entity its other views say already, in nats: for each
        modality :math:`R_{m,k}`, :math:`(B, K_m)`, and :math:`R_m`, :math:`(B, M)`, see
        :class:`~pyg_mmkgc.nn.CMKF`; None for a model that does not ask."""
        return None

    @torch.no_grad()
    def joint_view(self, index: Tensor, rel_type: Optional[Tensor] = None) -> Tensor:
        r"""All that is known of entities as one vector, :math:`(B, F)`: as heads under relations
        or, if :obj:`rel_type` is None, as candidates."""
        encoded = self.encode(index)
        if rel_type is None:
            return self.candidate_vectors(encoded)
        return self.head_vectors(encoded, torch.arange(index.numel(), device=index.device),
                                 rel_type)

    @torch.no_grad()
    def contributions(self, head_index: Tensor, rel_type: Tensor,
                      tail_index: Tensor) -> Optional[Dict[str, Tensor]]:
        r"""What each head of a joint decision adds to the score of each triple, :math:`(B)`,
        without regard to :obj:`exclude_loops`; None for a model with one score function. The
        arguments are those of :meth:`forward`."""
        if not isinstance(self.decoder, JointDecision):
            return None
        query = self.decoder.query(
            self.head_vectors(self.encode(head_index),
                              torch.arange(head_index.numel(), device=head_index.device),
                              rel_type), rel_type)
        return self.decoder.contributions(query, self.candidate_vectors(self.encode(tail_index)))

    def entity_tables(self) -> List[Embedding]:
        r"""The tables with a row for each entity of which ``'sampled'`` training looks up the rows
        of a batch, each once and through the module itself, so that their gradients may be
        sparse."""
        return []

    def tables(self) -> List[torch.nn.Parameter]:
        r"""The parameters that are looked up by row; an optimiser may treat them on their own."""
        return [p for module in self.modules() if isinstance(module, Embedding)
                for p in module.parameters()]

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.num_entities}, '
                f'num_relations={self.num_relations}, hidden_channels={self.hidden_channels})')
