from typing import Optional

import torch
from torch import Tensor

from pyg_mmkgc.nn.decoders.base import MetricDecoder


class TransEDecoder(MetricDecoder):
    r"""The score function of `"Translating Embeddings for Modeling Multi-Relational Data"
    <https://papers.nips.cc/paper/5071-translating-embeddings-for-modeling-multi-relational-data>`_:

    .. math::
        s(h, r, t) = \gamma - \| \mathbf{h} + \mathbf{r} - \mathbf{t} \|_p

    Vectors of entities are taken as they come: nothing is normalised in here.
    :meth:`score_all` takes exact distances in :math:`O(B N)` memory; the faster expansion into
    a matrix product loses half of the digits where query and candidate are close.

    Args:
        num_relations (int): The number of original relations :math:`R`.
        channels (int): Size of the vectors :math:`C`.
        margin (float, optional): The score :math:`\gamma` at distance zero
            (default: :obj:`9.0`).
        p_norm (float, optional): The norm :math:`p` of the distance (default: :obj:`1.0`).

    Raises:
        ValueError: If :obj:`p_norm` is below one or a size is not positive.
    """
    def __init__(self, num_relations: int, channels: int, margin: float = 9.0,
                 p_norm: float = 1.0):
        super().__init__(num_relations, channels)
        if not p_norm >= 1:
            raise ValueError(f"'p_norm' needs to be at least 1 in 'TransEDecoder' (got {p_norm})")
        self.margin = margin
        self.p_norm = p_norm
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 6 / self.channels**0.5
        torch.nn.init.uniform_(self.rel_emb.weight, -bound, bound)

    def query(self, head: Tensor, rel_type: Tensor, distinct: Optional[Tensor] = None) -> Tensor:
        return head + self.relation(rel_type)

    def score(self, query: Tensor, tail: Tensor) -> Tensor:
        return self.margin - torch.linalg.vector_norm(query - tail, ord=self.p_norm, dim=-1)

    def score_all(self, query: Tensor, candidates: Tensor) -> Tensor:
        return self.margin - torch.cdist(query, candidates, p=self.p_norm,
                                         compute_mode='donot_use_mm_for_euclid_dist')
