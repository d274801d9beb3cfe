from typing import Mapping, Sequence, Tuple

import torch
from torch import Tensor
from torch_geometric.nn.inits import glorot, zeros

from pyg_mmkgc.nn.dropout import dropout


class AdaptiveFusion(torch.nn.Module):
    r"""The adaptive fusion of MoMoK (`"Multiple Heads are Better than One: Mixture of Modality
    Knowledge Experts for Entity Representation Learning" <https://arxiv.org/abs/2405.16869>`_):
    attention over the views of an entity, in :math:`B` branches that add up,

    .. math::
        u_{m,b} &= \mathrm{ReLU}(P_{m,b} \, \mathrm{drop}(h_m) + p_{m,b}) \\
        \alpha_{m,b} &= \mathrm{softmax}_m(w^{\top} u_{m,b})
        \quad \text{over available } m \\
        h &= \textstyle\sum_b \sum_m \alpha_{m,b} \, u_{m,b} .

    A modality that an entity lacks has weight exactly zero; an entity without any has a joint view
    of zeros. The vector :math:`w` is shared by modalities and branches.

    Args:
        modalities (Sequence[str]): The modalities.
        channels (int): Size of each view and of the joint one :math:`C`.
        num_branches (int, optional): The number of branches :math:`B`. (default: :obj:`2`)
        dropout (float, optional): Dropout of the views. (default: :obj:`0.2`)

    Shapes:
        - **input:** for each modality views :math:`(N, C)` and mask :math:`(N)`
        - **output:** joint views :math:`(N, C)`, weights :math:`(N, M)` in the order of
          :obj:`modalities`, mean over branches

    Raises:
        ValueError: If there is no modality, a size is below one, or dropout is outside
            :math:`[0, 1)`.
    """
    def __init__(self, modalities: Sequence[str], channels: int, num_branches: int = 2,
                 dropout: float = 0.2):
        super().__init__()
        if not modalities:
            raise ValueError("'modalities' is empty (expected at least one)")
        for name, value in [('channels', channels), ('num_branches', num_branches)]:
            if value < 1:
                raise ValueError(f'{name!r} needs to be at least 1 (got {value})')
        if not 0 <= dropout < 1:
            raise ValueError(f"'dropout' needs to be in [0, 1) (got {dropout})")
        self.modalities = list(modalities)
        self.channels = channels
        self.num_branches = num_branches
        self.dropout = dropout
        size = num_branches * channels
        self.weight = torch.nn.ParameterDict({
            m: torch.nn.Parameter(torch.empty(channels, size)) for m in self.modalities})
        self.bias = torch.nn.ParameterDict({
            m: torch.nn.Parameter(torch.empty(size)) for m in self.modalities})
        self.attention = torch.nn.Parameter(torch.empty(channels, 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module."""
        for m in self.modalities:
            for weight in self.weight[m].view(self.channels, self.num_branches, -1).unbind(1):
                glorot(weight)
            zeros(self.bias[m])
        glorot(self.attention)

    def forward(self, views: Mapping[str, Tensor],
                mask: Mapping[str, Tensor]) -> Tuple[Tensor, Tensor]:
        r"""Runs the module.

        Args:
            views (Mapping[str, torch.Tensor]): For each modality, :math:`h_m`.
            mask (Mapping[str, torch.Tensor]): For each modality, whether an entity has it.
        """
        mapped = []
        for m in self.modalities:
            x = dropout(views[m], self.dropout, self.training)
            x = torch.addmm(self.bias[m], x, self.weight[m]).relu()
            mapped.append(x.view(-1, self.num_branches, self.channels))  # [N, B, C]
        available = torch.stack([mask[m] for m in self.modalities], dim=1).unsqueeze(-1)
        logits = torch.stack([(x @ self.attention).squeeze(-1) for x in mapped], dim=1)  # [N, M, B]
        logits = logits.masked_fill(~available, torch.finfo(logits.dtype).min)
        # The product makes the weight of a missing modality exactly zero, also if all are missing:
        weight = logits.softmax(dim=1) * available
        first, *others = (torch.einsum('nb,nbc->nc', weight[:, i], x) for i, x in enumerate(mapped))
        return sum(others, start=first), weight.mean(dim=-1)

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.modalities}, channels={self.channels}, '
                f'num_branches={self.num_branches})')
