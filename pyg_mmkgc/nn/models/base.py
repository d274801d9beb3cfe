from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.nn.kge.loader import KGTripletLoader

from pyg_mmkgc.data import EDGE, TripleIndex, build_index, seen_entities
from pyg_mmkgc.evaluation import Ranks, compute_metrics, rank
from pyg_mmkgc.nn.decoders import Decoder

OBJECTIVES = ('softmax', 'bce', 'sampled')


class KGModel(torch.nn.Module):
    r"""The base class of all models: turns entity ids into views and lets a decoder score them.

    It has the verbs of :class:`torch_geometric.nn.kge.KGEModel` (:meth:`forward`, :meth:`loss`,
    :meth:`test`, :meth:`loader`) and :meth:`score_all`. Relation :math:`r + R` is the inverse of
    :math:`r`, so that heads are asked for by :math:`(t, r + R, ?)`.

    A subclass says where the vectors come from, by :meth:`encode` (all that can be computed once,
    whatever is asked), :meth:`heads` (an entity under the relation of a query) and
    :meth:`candidates` (an entity as an answer).

    The loss of a batch of triples is one or the sum of two parts. Over all entities seen in
    training it is

    * ``'softmax'``: :math:`-\log \mathrm{softmax}_{t'} \, s(h, r, t')_t`, or
    * ``'bce'``: the mean of :math:`\mathrm{softplus}(s(h, r, t'))` over :math:`t'`, minus
      :math:`s(h, r, t)` for the known answers among them,

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
        label_smoothing (float, optional): Smoothing of the loss over all entities.
            (default: :obj:`0.0`)
        regularization (float, optional): Weight of the decoder's N3 norm.
            (default: :obj:`0.0`)
        neg_sampling (TripleNegativeSampling, optional): Draws and weighs negatives.
            (default: :obj:`None`)
        neg_weight (float, optional): The weight of the sampled part beside a loss over all
            entities. (default: :obj:`1.0`)

    Raises:
        ValueError: If an argument is unknown or out of range, or a sampled loss has no sampler.
    """
    def __init__(self, num_entities: int, num_relations: int, hidden_channels: int,
                 decoder: Decoder, objective: str = 'softmax', label_smoothing: float = 0.0,
                 regularization: float = 0.0, neg_sampling: Optional[Any] = None,
                 neg_weight: float = 1.0):
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
        self.regularization = regularization
        self.neg_sampling = neg_sampling
        self.neg_weight = neg_weight
        # What is known of the graph; not part of the saved model, `attach` brings it:
        self.register_buffer('seen', torch.ones(num_entities, dtype=torch.bool), persistent=False)
        self.known: Optional[TripleIndex] = None

    @classmethod
    def from_data(cls, data: HeteroData, **kwargs) -> 'KGModel':
        r"""Build a model for a graph, in one call.

        Args:
            data (HeteroData): The graph.
            **kwargs: Arguments of the model other than those that the graph determines.
        """
        model = cls(num_entities=data['entity'].num_nodes, num_relations=data[EDGE].num_relations,
                    **kwargs)
        return model.attach(data)

    def attach(self, data: HeteroData) -> 'KGModel':
        r"""Give the model what it reads of a graph but does not learn."""
        if data['entity'].num_nodes != self.num_entities:
            raise ValueError(f"'data' has {data['entity'].num_nodes} entities (expected "
                             f'{self.num_entities})')
        self.seen = seen_entities(data).to(self.seen.device)
        self.known = build_index(data)
        return self

    def reset_parameters(self):
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

    def heads(self, encoded: Any, row: Tensor, rel_type: Tensor) -> Tensor:
        r"""The heads of queries, seen under their relations, :math:`(B, F)`."""
        raise NotImplementedError

    def candidates(self, encoded: Any) -> Tensor:
        r"""All encoded entities as answers, :math:`(n, F)`."""
        raise NotImplementedError

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
        query = self.decoder.query(self.heads(encoded, head_row, rel_type), rel_type)
        return self.decoder.score(query, self.candidates(encoded)[tail_row])

    def score_all(self, head_index: Tensor, rel_type: Tensor) -> Tensor:
        r"""Returns the scores of all entities as tails, :math:`(B, N)`.

        Heads are asked for through the inverse relation.

        Args:
            head_index (torch.Tensor): The head indices.
            rel_type (torch.Tensor): The relation types, inverse ones included.
        """
        encoded = self.encode()
        query = self.decoder.query(self.heads(encoded, head_index, rel_type), rel_type)
        return self.decoder.score_all(query, self.candidates(encoded))

    def scorer(self) -> Callable[[Tensor, Tensor, int, int], Tensor]:
        r"""A function ``(head_index, rel_type, start, stop)`` that scores a range of candidates,
        with everything that does not depend on the query computed once."""
        encoded = self.encode()
        table = self.candidates(encoded)

        def score(head_index: Tensor, rel_type: Tensor, start: int, stop: int) -> Tensor:
            query = self.decoder.query(self.heads(encoded, head_index, rel_type), rel_type)
            return self.decoder.score_all(query, table[start:stop])

        return score

    # Training ###################################################################################

    def loss(self, head_index: Tensor, rel_type: Tensor, tail_index: Tensor,
             log: Optional[Dict[str, Tensor]] = None) -> Tensor:
        r"""Returns the loss of a batch of triples; both ends are learned if the batch holds inverse
        triples :math:`(t, r + R, h)` as well.

        Args:
            head_index (torch.Tensor): The head indices.
            rel_type (torch.Tensor): The relation types.
            tail_index (torch.Tensor): The tail indices.
            log (Dict[str, torch.Tensor], optional): Filled with the parts of the loss, detached.
        """
        encoded = self.encode()
        head = self.heads(encoded, head_index, rel_type)
        table = self.candidates(encoded)
        query = self.decoder.query(head, rel_type)

        parts = {}
        if self.objective != 'sampled':
            parts[self.objective] = self._full_loss(query, table, head_index, rel_type, tail_index)
        if self.neg_sampling is not None:
            weight = 1.0 if self.objective == 'sampled' else self.neg_weight
            parts['sampled'] = weight * self._sampled_loss(query, table, head_index, rel_type,
                                                           tail_index)
        if self.regularization > 0:
            parts['regularization'] = self.regularization * self.decoder.regularization(
                head, rel_type, table[tail_index])
        parts.update(self.auxiliary_losses(encoded))
        if log is not None:
            log.update({name: value.detach() for name, value in parts.items()})
        return sum(parts.values())

    def auxiliary_losses(self, encoded: Any) -> Dict[str, Tensor]:
        r"""Further named parts of the loss, from what has been encoded anyway."""
        return {}

    def alternating_parameters(self) -> List[torch.nn.Parameter]:
        r"""Parameters that are trained on :meth:`alternating_loss` instead of :meth:`loss`, in
        alternation with all others."""
        return []

    def alternating_loss(self) -> Tensor:
        r"""The loss of :meth:`alternating_parameters`."""
        raise NotImplementedError(f"'{self.__class__.__name__}' alternates nothing")

    def _full_loss(self, query: Tensor, table: Tensor, head_index: Tensor, rel_type: Tensor,
                   tail_index: Tensor) -> Tensor:
        score = self.decoder.score_all(query, table)  # [B, N]
        # Entities that training never names are no negatives: nothing is known of them.
        score = score.masked_fill(~self.seen, float('-inf'))
        if self.objective == 'softmax':
            return _softmax_loss(score, tail_index, self.label_smoothing, self.seen)
        target = torch.zeros_like(score).scatter_(1, tail_index.unsqueeze(1), 1.0)
        target = target * (1 - self.label_smoothing) + self.label_smoothing / self.seen.sum()
        loss = torch.nn.functional.softplus(score) - target * score.clamp(min=-1e4)
        return (loss * self.seen).sum() / (score.size(0) * self.seen.sum())

    def _sampled_loss(self, query: Tensor, table: Tensor, head_index: Tensor, rel_type: Tensor,
                      tail_index: Tensor) -> Tensor:
        neg_index, mask = self.neg_sampling.corrupt(head_index, rel_type, tail_index)
        pos_score = self.decoder.score(query, table[tail_index])  # [B]
        neg_score = self.decoder.score(query.unsqueeze(1), table[neg_index])  # [B, n]
        weight = self.neg_sampling.weight(neg_score.detach(), mask) * mask
        self.neg_sampling.update(neg_index, neg_score.detach(), mask)
        pos_loss = torch.nn.functional.softplus(-pos_score).mean()
        neg_loss = (weight * torch.nn.functional.softplus(neg_score)).sum() / mask.sum().clamp(min=1)
        return pos_loss + neg_loss

    def loader(self, head_index: Tensor, rel_type: Tensor, tail_index: Tensor,
               **kwargs) -> KGTripletLoader:
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
        over *both sides*, and with *one-based* ranks in which ties count half.

        Args:
            head_index (torch.Tensor): The head indices.
            rel_type (torch.Tensor): The relation types.
            tail_index (torch.Tensor): The tail indices.
            batch_size (int): The number of queries scored at a time.
            k (int, optional): The :math:`k` in Hits@:math:`k`. (default: :obj:`10`)
            log (bool, optional): If set to :obj:`False`, shows no progress bar.
                (default: :obj:`True`)
        """
        if self.known is None:
            raise ValueError('the model knows no graph to filter by; build it by `from_data` or '
                             'call `attach(data)`')
        mode = self.training
        self.eval()
        try:
            scorer = self.scorer()
            known = self.known.to(head_index.device)
            sides = [(head_index, rel_type, tail_index),
                     (tail_index, rel_type + self.num_relations, head_index)]
            ranks = Ranks.cat([
                rank(scorer, *side, known, num_entities=self.num_entities, batch_size=batch_size,
                     log=log) for side in sides
            ])
        finally:
            self.train(mode)
        metrics = compute_metrics(ranks, ks=(k, ))
        return metrics['mr'], metrics['mrr'], metrics[f'hits@{k}']

    def tables(self) -> List[torch.nn.Parameter]:
        r"""The parameters that are looked up by row; an optimiser may treat them on their own."""
        return [module.weight for module in self.modules()
                if isinstance(module, torch.nn.Embedding)]

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.num_entities}, '
                f'num_relations={self.num_relations}, hidden_channels={self.hidden_channels})')


def _softmax_loss(score: Tensor, target: Tensor, label_smoothing: float, seen: Tensor) -> Tensor:
    log_prob = score.log_softmax(dim=-1)
    loss = -log_prob.gather(1, target.unsqueeze(1)).mean()
    if label_smoothing == 0:
        return loss
    uniform = -log_prob.masked_fill(~seen, 0.0).sum(dim=-1).mean() / seen.sum()
    return (1 - label_smoothing) * loss + label_smoothing * uniform
