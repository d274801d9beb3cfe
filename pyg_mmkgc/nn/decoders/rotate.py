import math

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pyg_mmkgc.nn.decoders.base import ComplexSpaceDecoder, MetricDecoder

#: Elements of the largest intermediate tensor of :meth:`RotatEDecoder.score_all`: what fits the
#: cache of a CPU, and what keeps any other device busy (256 MB in float32).
CPU_NUMEL, DEVICE_NUMEL = 2**20, 2**26


class RotatEDecoder(MetricDecoder, ComplexSpaceDecoder):
    r"""The score function of `"RotatE: Knowledge Graph Embedding by Relational Rotation in
    Complex Space" <https://arxiv.org/abs/1902.10197>`_:

    .. math::
        s(h, r, t) = \gamma - \sum_i | h_i \, e^{\mathrm{i} \theta_{r, i}} - t_i |

    The distance is the sum of complex moduli, as in the authors' code;
    :class:`torch_geometric.nn.kge.RotatE` takes one Euclidean norm over all coordinates instead.
    Vectors hold :math:`C / 2` complex numbers, all real parts before all imaginary parts.

    :meth:`score_all` goes through the candidates in chunks and computes each chunk again in the
    backward pass, so that neither pass needs :math:`O(B N C)` memory.

    Args:
        num_relations (int): The number of original relations :math:`R`.
        channels (int): Size of the vectors :math:`C`, even.
        margin (float, optional): The score :math:`\gamma` at distance zero
            (default: :obj:`9.0`).

    Raises:
        ValueError: If :obj:`channels` is odd or a size is not positive.
    """
    def __init__(self, num_relations: int, channels: int, margin: float = 9.0):
        super().__init__(num_relations, channels, channels // 2)
        self.margin = margin
        self.reset_parameters()

    def reset_parameters(self) -> None:
        torch.nn.init.uniform_(self.rel_emb.weight, -math.pi, math.pi)

    def relation(self, rel_type: Tensor) -> Tensor:
        r"""The rotations of the given relations ``[B]`` as numbers of modulus one, ``[B, C]``."""
        phase = self.rel_emb(rel_type)  # [B, C / 2]
        return torch.cat([phase.cos(), phase.sin()], dim=-1)

    def score(self, query: Tensor, tail: Tensor) -> Tensor:
        re, im = (query - tail).chunk(2, dim=-1)  # [..., C / 2] each.
        # `clamp` stops the gradient at distance zero, where that of `sqrt` is infinite.
        square = (re**2 + im**2).clamp(min=torch.finfo(re.dtype).tiny)
        return self.margin - square.sqrt().sum(dim=-1)

    def score_all(self, query: Tensor, candidates: Tensor) -> Tensor:
        numel = CPU_NUMEL if query.device.type == 'cpu' else DEVICE_NUMEL
        size = max(1, numel // max(1, query.numel()))
        return torch.cat([
            checkpoint(self.score, query.unsqueeze(1), chunk, use_reentrant=False,
                       preserve_rng_state=False)  # [B, size]
            for chunk in candidates.split(size)
        ], dim=-1)

    def regularization(self, head: Tensor, rel_type: Tensor, tail: Tensor) -> Tensor:
        r"""N3 of head and tail, see :meth:`Decoder.regularization`; rotations have modulus one
        whatever the parameters are, and are left out."""
        return self.cubes(head).sum(dim=-1).mean() + self.cubes(tail).sum(dim=-1).mean()
