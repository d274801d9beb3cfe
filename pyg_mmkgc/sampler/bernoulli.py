r"""Negatives that replace the end which is less likely to give a true triple."""
from typing import Any

import torch
from torch import Tensor

from pyg_mmkgc.data.share import rand_rows
from pyg_mmkgc.data.triples import check_ids
from pyg_mmkgc.sampler.base import TripleNegativeSampling


class Bernoulli(TripleNegativeSampling):
    r"""Bernoulli negative sampling from `"Knowledge Graph Embedding by Translating on Hyperplanes"
    <https://doi.org/10.1609/aaai.v28i1.8870>`_.

    With :math:`\mathrm{tph}` tails per head and :math:`\mathrm{hpt}` heads per tail of a relation
    in the training triples, the head is replaced with probability

    .. math::
        P(\text{head} \mid r) = \frac{\mathrm{tph}_r}{\mathrm{tph}_r + \mathrm{hpt}_r},
        \qquad P(\text{head} \mid r + R) = 1 - P(\text{head} \mid r)

    and the tail otherwise, since a random tail of a one-to-many relation is more often true.
    The entity itself is drawn uniformly. The choice acts through
    :meth:`~pyg_mmkgc.sampler.TripleNegativeSampling.side` and
    :meth:`~pyg_mmkgc.sampler.TripleNegativeSampling.corrupt_triples`;
    :meth:`~pyg_mmkgc.sampler.TripleNegativeSampling.corrupt` replaces the end that its caller
    names. A loop that asks inverse queries turns a triple round where :obj:`side` is True.

    Args:
        num_entities (int): The number of entities.
        head_probability (torch.Tensor): For each relation the probability that the head is
            replaced, :math:`(R)` in :math:`[0, 1]`; see :meth:`from_triples`.
        num_negatives (int, optional): Negatives per triple. (default: :obj:`64`)
        **kwargs (optional): Further arguments of
            :class:`~pyg_mmkgc.sampler.TripleNegativeSampling`.

    Raises:
        ValueError: If :obj:`head_probability` is no vector of probabilities.
    """
    _state = ('head_probability', )

    def __init__(self, num_entities: int, head_probability: Tensor, num_negatives: int = 64,
                 **kwargs: Any):
        super().__init__(num_entities, num_negatives, **kwargs)
        if head_probability.dim() != 1 or head_probability.numel() == 0:
            raise ValueError(f"'head_probability' needs one value per relation "
                             f'(got shape {list(head_probability.size())})')
        if not bool(((head_probability >= 0) & (head_probability <= 1)).all()):
            raise ValueError("'head_probability' has values outside [0, 1]")
        head_probability = head_probability.to(torch.double)
        self.head_probability = torch.cat([head_probability, 1 - head_probability])  # [2 * R]

    @classmethod
    def from_triples(cls, head_index: Tensor, rel_type: Tensor, tail_index: Tensor,
                     num_entities: int, num_relations: int, num_negatives: int = 64,
                     **kwargs: Any) -> 'Bernoulli':
        r"""Count tails per head and heads per tail in training triples (repeats count once).

        A relation without triples gets one half.

        Args:
            head_index (torch.Tensor): Heads :math:`(T)`.
            rel_type (torch.Tensor): Relations :math:`(T)` below :obj:`num_relations`.
            tail_index (torch.Tensor): Tails :math:`(T)`.
            num_entities (int): The number of entities.
            num_relations (int): The number of original relations :math:`R`.
            num_negatives (int, optional): Negatives per triple. (default: :obj:`64`)
            **kwargs (optional): Further arguments of the constructor.
        """
        check_ids('head_index', head_index, num_entities)
        check_ids('rel_type', rel_type, num_relations)
        check_ids('tail_index', tail_index, num_entities)
        head, rel, tail = torch.stack([head_index, rel_type, tail_index]).long().unique(dim=1)
        triples = torch.bincount(rel, minlength=num_relations)
        heads = (rel * num_entities + head).unique() // num_entities
        tails = (rel * num_entities + tail).unique() // num_entities
        tph = triples / torch.bincount(heads, minlength=num_relations)  # 0 / 0 without triples.
        hpt = triples / torch.bincount(tails, minlength=num_relations)
        probability = torch.nan_to_num(tph.double() / (tph.double() + hpt.double()), nan=0.5)
        return cls(num_entities, probability, num_negatives, **kwargs)

    def side(self, rel_type: Tensor) -> Tensor:
        r"""Draw the end to replace by the relation's probability: True is the head."""
        u = rand_rows(rel_type.size(), dtype=torch.double, generator=self._rng(rel_type.device),
                      device=rel_type.device)
        return u < self.head_probability[rel_type]

    def _extra_repr(self) -> str:
        return f', num_relations={self.head_probability.numel() // 2}'
