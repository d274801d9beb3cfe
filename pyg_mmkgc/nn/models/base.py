from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.nn.kge.loader import KGTripletLoader

from pyg_mmkgc.data import EDGE, TripleIndex, build_index, seen_entities
from pyg_mmkgc.evaluation import Ranks, compute_metrics, rank
from pyg_mmkgc.nn.decoders.base import Decoder, Parts

OBJECTIVES = ('softmax', 'bce', 'sampled')


class KGModel(torch.nn.Module):
    r"""The base class of all models: turns entity ids into views and lets a decoder score them.

    It has the verbs of :class:`torch_geometric.nn.kge.KGEModel` (:meth:`forward`, :meth:`loss`,
    :meth:`test`, :meth:`loader`) and :meth:`score_all`. Relation :math:`r + R` is the inverse of
    :math:`r`, so that heads are asked for by :math:`(t, r + R, ?)`.

    A subclass says where the vectors come from, by :meth:`encode` (all that can be computed once,
    whatever is asked), :meth:`head_vectors` (an entity under the relation of a query) and
    :meth:`candidate_vectors` (an entity as an answer).

    The loss of a batch of triples is one or the sum of two parts. Over all entities seen in
    training it is

    * ``'softmax'``: :math:`-\log \mathrm{softmax}_{t'} \, s(h, r, t')_t`, or
    * ``'bce'``: the mean over :math:`t'` of the binary cross-entropy of
      :math:`\sigma(s(h, r, t'))`, where all training answers of :math:`(h, r)` are true
      (looking them up synchronises with the host),

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
        self.held_out_gates = False
        # What is known of the graph; not part of the saved model, `attach` brings it:
        self.register_buffer('seen', torch.ones(num_entities, dtype=torch.bool), persistent=False)
        self.register_buffer('seen_index', torch.arange(num_entities), persistent=False)
        self.known: Optional[TripleIndex] = None
        self._train_known: Optional[TripleIndex] = None
        self._test_candidates: Optional[Tensor] = None

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
        self.seen_index = self.seen.nonzero().view(-1)
        self.known = build_index(data)
        self._train_known = build_index(data, ['train']).to(self.seen.device)
        self._test_candidates = self.seen if data.get('candidates') == 'seen' else None
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

    def head_vectors(self, encoded: Any, row: Tensor, rel_type: Tensor) -> Tensor:
        r"""The heads of queries, seen under their relations, :math:`(B, F)`."""
        raise NotImplementedError

    def candidate_vectors(self, encoded: Any) -> Tensor:
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
        query = self.decoder.query(self.head_vectors(encoded, head_row, rel_type), rel_type)
        return self.decoder.score(query, self.candidate_vectors(encoded)[tail_row])

    def score_all(self, head_index: Tensor, rel_type: Tensor) -> Tensor:
        r"""Returns the scores of all entities as tails, :math:`(B, N)`.

        Heads are asked for through the inverse relation.

        Args:
            head_index (torch.Tensor): The head indices.
            rel_type (torch.Tensor): The relation types, inverse ones included.
        """
        return self.scorer()(head_index, rel_type, 0, self.num_entities)

    def scorer(self) -> Callable[[Tensor, Tensor, int, int], Tensor]:
        r"""A function ``(head_index, rel_type, start, stop)`` that scores a range of candidates,
        with everything that does not depend on the query computed once."""
        encoded = self.encode()
        table = self.candidate_vectors(encoded)

        def score(head_index: Tensor, rel_type: Tensor, start: int, stop: int) -> Tensor:
            query = self.decoder.query(self.head_vectors(encoded, head_index, rel_type), rel_type)
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
        head = self.head_vectors(encoded, head_index, rel_type)
        table = self.candidate_vectors(encoded)
        query = self.decoder.query(head, rel_type)

        parts = {}
        scores = None if self.objective == 'sampled' else self.decoder.parts(query, table)
        if self.neg_sampling is not None:
            weight = 1.0 if self.objective == 'sampled' else self.neg_weight
            parts['sampled'] = weight * self._sampled_loss(query, table, scores, head_index,
                                                           rel_type, tail_index)
        if scores is not None:
            if len(scores) > 1 and not self.held_out_gates:
                every = torch.ones_like(self.seen)
                decision = self.decoder.combine(query, table, scores)
                scores['decision'] = decision, every[tail_index], every
            for name, (score, *has) in scores.items():
                name = self.objective if len(scores) == 1 else f'{self.objective}_{name}'
                parts[name] = self._full_loss(score, head_index, rel_type, tail_index, *has)
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

    def gates(self) -> List[torch.nn.Parameter]:
        r"""The parameters that weigh modalities. They learn from :meth:`loss` like all others, or,
        with :attr:`held_out_gates` set, from :meth:`gate_loss` on triples held out of it."""
        return []

    def gate_loss(self, head_index: Tensor, rel_type: Tensor, tail_index: Tensor) -> Tensor:
        r"""The softmax loss of the decision as a function of :meth:`gates` alone, without dropout.

        What a modality is worth for entities and facts that it was not fitted to cannot be seen
        in the training loss: there, the modality that memorises best weighs most.

        Args:
            head_index (torch.Tensor): The head indices of held-out triples.
            rel_type (torch.Tensor): The relation types.
            tail_index (torch.Tensor): The tail indices.
        """
        mode = self.training
        self.eval()
        try:
            with torch.no_grad():
                encoded = self.encode()
            head = self.head_vectors(encoded, head_index, rel_type)
            query = self.decoder.query(head, rel_type)
            score = self.decoder.score_all(query, self.candidate_vectors(encoded))
            score = score.masked_fill(~self.seen, torch.finfo(score.dtype).min)
            return torch.nn.functional.cross_entropy(score, tail_index)
        finally:
            self.train(mode)

    def alternating_parameters(self) -> List[torch.nn.Parameter]:
        r"""Parameters that are trained on :meth:`alternating_loss` instead of :meth:`loss`, in
        alternation with all others."""
        return []

    def alternating_loss(self) -> Tensor:
        r"""The loss of :meth:`alternating_parameters`."""
        raise NotImplementedError(f"'{self.__class__.__name__}' alternates nothing")

    def _full_loss(self, score: Tensor, head_index: Tensor, rel_type: Tensor, tail_index: Tensor,
                   has_query: Tensor, has_candidate: Tensor) -> Tensor:
        # Entities that training never names are no negatives: nothing is known of them.
        allowed = self.seen & has_candidate
        valid = has_query & allowed[tail_index]
        smoothing = self.label_smoothing
        if self.objective == 'softmax':
            # An addition costs nothing in the backward pass, a masked fill a copy of all scores:
            bias = torch.zeros_like(score[0]).masked_fill_(~allowed, torch.finfo(score.dtype).min)
            loss = torch.nn.functional.cross_entropy(score + bias, tail_index, reduction='none')
            if smoothing > 0:
                mean = (score * allowed).sum(dim=-1) / allowed.sum().clamp(min=1)
                loss = loss + smoothing * (score.gather(1, tail_index.unsqueeze(1))[:, 0] - mean)
        else:
            if self._train_known is None:
                raise ValueError("the model knows no graph to look answers up in for 'bce'; build "
                                 'it by `from_data` or call `attach(data)`')
            self._train_known = self._train_known.to(score.device)  # No copy but the first.
            target = score.new_zeros(score.shape)
            target[self._train_known.answers(head_index, rel_type)] = 1.0
            target.scatter_(1, tail_index.unsqueeze(1), 1.0)
            target = target * (1 - smoothing) + smoothing / self.num_entities
            loss = torch.nn.functional.binary_cross_entropy_with_logits(score, target,
                                                                        reduction='none')
            loss = (loss * allowed).sum(dim=-1) / allowed.sum().clamp(min=1)
        return (loss * valid).sum() / valid.sum().clamp(min=1)

    def _sampled_loss(self, query: Tensor, table: Tensor, scores: Optional[Parts],
                      head_index: Tensor, rel_type: Tensor, tail_index: Tensor) -> Tensor:
        neg_index, mask = self.neg_sampling.corrupt(head_index, rel_type, tail_index)
        index = torch.cat([tail_index.unsqueeze(1), neg_index], dim=1)  # [B, 1 + n]
        if scores is None:
            score = self.decoder.score(query.unsqueeze(1), table[index])
        else:  # All scores are there already: looking them up is cheaper than vectors.
            score = self.decoder.combine(query, table, scores, index)
        pos_score, neg_score = score[:, 0], score[:, 1:]
        weight = self.neg_sampling.weight(neg_score, mask)
        self.neg_sampling.update(neg_index, neg_score, mask)
        loss = (weight * torch.nn.functional.softplus(neg_score)).sum() / mask.sum().clamp(min=1)
        return torch.nn.functional.softplus(-pos_score).mean() + loss

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
                rank(scorer, *side, known, num_entities=self.num_entities,
                     candidates=self._test_candidates, batch_size=batch_size, log=log)
                for side in sides
            ])
        finally:
            self.train(mode)
        metrics = compute_metrics(ranks, ks=(k, ))
        return metrics['mr'], metrics['mrr'], metrics[f'hits@{k}']

    def modality_weights(self, index: Tensor,
                         rel_type: Optional[Tensor] = None) -> Optional[Tensor]:
        r"""The share of each modality in the decision for entities, as heads under relations or, if
        :obj:`rel_type` is None, as candidates, :math:`(B, M)`; None for a model that knows no
        modalities."""
        return None

    def tables(self) -> List[torch.nn.Parameter]:
        r"""The parameters that are looked up by row; an optimiser may treat them on their own."""
        return [module.weight for module in self.modules()
                if isinstance(module, torch.nn.Embedding)]

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.num_entities}, '
                f'num_relations={self.num_relations}, hidden_channels={self.hidden_channels})')
