from typing import Optional

import torch
from torch import Tensor

from pyg_mmkgc.nn.decoders.base import Decoder


class DistMultDecoder(Decoder):
    r"""The score function of `"Embedding Entities and Relations for Learning and Inference in
    Knowledge Bases" <https://arxiv.org/abs/1412.6575>`_:

    .. math::
        s(h, r, t) = \sum_i h_i \, r_i \, t_i

    Args:
        num_relations (int): The number of original relations :math:`R`.
        channels (int): Size of the vectors :math:`C`.
        init_scale (float, optional): Standard deviation of the initial relation vectors
            (default: :obj:`1e-3`).
    """
    def __init__(self, num_relations: int, channels: int, init_scale: float = 1e-3):
        super().__init__(num_relations, channels)
        self.init_scale = init_scale
        self.reset_parameters()

    def reset_parameters(self) -> None:
        torch.nn.init.normal_(self.rel_emb.weight, std=self.init_scale)

    def query(self, head: Tensor, rel_type: Tensor, distinct: Optional[Tensor] = None) -> Tensor:
        return head * self.relation(rel_type)
