from typing import Optional, Tuple, Union

import torch
from torch import Tensor
from torch.nn import Embedding
from torch_geometric.nn.inits import glorot, zeros

from pyg_mmkgc.nn.dropout import dropout


class ModalityExperts(torch.nn.Module):
    r"""A mixture of :math:`K` experts that look at one modality in :math:`K` ways, and the gate
    that says which of the views matters under which relation.

    Expert :math:`k` is an affine map of the raw feature :math:`x(e)`, as in MoMoK (`"Multiple
    Heads are Better than One: Mixture of Modality Knowledge Experts for Entity Representation
    Learning" <https://arxiv.org/abs/2405.16869>`_)

    .. math::
        v_k(e) = W_k \, (\mathrm{drop}(x(e)) - b_k),

    and the gate is

    .. math::
        g_k(e, r) = \mathrm{softmax}_k \left(
        \frac{x(e)^{\top} u_k + a_{r,k} + \epsilon_k}{\sigma(\rho_r)} \right)

    with Gaussian noise :math:`\epsilon` in training only. The term :math:`a_{r,k}` lets a relation
    choose its experts; MoMoK's gate has the temperature :math:`\sigma(\rho_r)` alone
    (:obj:`relation_bias=False`), and noise whose standard deviation is learned
    (:obj:`learned_noise=True`), :math:`\mathrm{softplus}(x(e)^{\top} n_k)` more than
    :obj:`noise`. All experts are one matrix product, in which :math:`-W_k b_k` is
    kept as one vector of :obj:`out_channels`: the same maps with fewer numbers. Without a
    relation, :math:`a = 0` and the temperature is one.

    Args:
        in_channels (int): Size of the raw feature.
        out_channels (int): Size of each view.
        num_experts (int, optional): The number of experts :math:`K`. (default: :obj:`3`)
        num_relations (int, optional): The number of original relations :math:`R`; the gate knows
            their inverses :math:`r + R` as well. (default: :obj:`1`)
        dropout (float, optional): Dropout on the raw feature. (default: :obj:`0.0`)
        noise (float, optional): Standard deviation of :math:`\epsilon`. (default: :obj:`0.0`)
        relation_bias (bool, optional): If set to :obj:`False`, :math:`a_{r,k} = 0`.
            (default: :obj:`True`)
        learned_noise (bool, optional): If set to :obj:`True`, the standard deviation of
            :math:`\epsilon` depends on the entity. (default: :obj:`False`)
        project (bool, optional): If set to :obj:`False`, the one expert sees the feature as it is,
            :math:`v(e) = \mathrm{drop}(x(e))`, as befits a learned table.
            (default: :obj:`True`)

    Shapes:
        - **input:** raw features :math:`(N, F_{in})`
        - **output:** views :math:`(N, K, F_{out})`, gate logits without relation :math:`(N, K)`,
          or :math:`(N, 2K)` with what :obj:`learned_noise` is made of behind them

    Raises:
        ValueError: If a size is below one, dropout is outside :math:`[0, 1)`, or nothing is
            projected though there are several experts or sizes differ.
    """
    def __init__(self, in_channels: int, out_channels: int, num_experts: int = 3,
                 num_relations: int = 1, dropout: float = 0.0, noise: float = 0.0,
                 relation_bias: bool = True, learned_noise: bool = False, project: bool = True):
        super().__init__()
        for name, value in [('in_channels', in_channels), ('out_channels', out_channels),
                            ('num_experts', num_experts), ('num_relations', num_relations)]:
            if value < 1:
                raise ValueError(f'{name!r} needs to be at least 1 (got {value})')
        if not 0 <= dropout < 1:
            raise ValueError(f"'dropout' needs to be in [0, 1) (got {dropout})")
        if not project and (num_experts > 1 or in_channels != out_channels):
            raise ValueError(f"'project' may be False for one expert whose view has the size of "
                             f'its input (got {num_experts} experts, {in_channels} and '
                             f'{out_channels} channels)')
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.num_experts = num_experts
        self.num_relations = num_relations
        self.dropout = dropout
        self.noise = noise
        self.relation_bias = relation_bias
        self.learned_noise = learned_noise

        self.project = project
        if project:
            self.weight = torch.nn.Parameter(torch.empty(in_channels, num_experts * out_channels))
            self.bias = torch.nn.Parameter(torch.empty(num_experts * out_channels))
        if num_experts > 1:  # One expert has nothing to choose from.
            self.gate_weight = torch.nn.Parameter(torch.empty(in_channels, num_experts))
            self.temperature_logit = Embedding(2 * num_relations, 1)
            if relation_bias:
                self.gate_bias = Embedding(2 * num_relations, num_experts)
            if learned_noise:
                self.noise_weight = torch.nn.Parameter(torch.empty(in_channels, num_experts))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module."""
        if self.project:
            # Each expert is a map of its own, so that its scale must not depend on their number:
            for weight in self.weight.view(self.in_channels, self.num_experts, -1).unbind(1):
                glorot(weight)
            zeros(self.bias)
        if self.num_experts > 1:
            glorot(self.gate_weight)
            # sigma(2) = .88: nearly the plain softmax, with room to sharpen.
            torch.nn.init.constant_(self.temperature_logit.weight, 2.0)
            if self.relation_bias:
                zeros(self.gate_bias.weight)
            if self.learned_noise:
                zeros(self.noise_weight)

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        r"""The views of each entity and the part of the gate logits that no relation changes.

        Args:
            x (torch.Tensor): Raw features :math:`(N, F_{in})`.
        """
        x = dropout(x, self.dropout, self.training)
        views = torch.addmm(self.bias, x, self.weight) if self.project else x
        views = views.view(-1, self.num_experts, self.out_channels)  # [N, K, C]
        if self.num_experts == 1:
            return views, views.new_zeros(x.size(0), 1)
        weight = (torch.cat([self.gate_weight, self.noise_weight], dim=1) if self.learned_noise
                  else self.gate_weight)
        return views, x @ weight  # [N, K] or [N, 2K]

    def gate_logits(self, logits: Tensor, rel_type: Optional[Tensor] = None) -> Tensor:
        r"""Gate logits under a relation; their softmax over the experts is :math:`g`.

        Args:
            logits (torch.Tensor): Relation-free logits from :meth:`forward`, one row for each
                question.
            rel_type (torch.Tensor, optional): Relations :math:`(B)`, inverse ones included.
                :obj:`None` means the gate without its relation terms. (default: :obj:`None`)
        """
        if self.num_experts == 1:
            return logits
        noise: Union[float, Tensor] = self.noise
        if self.learned_noise:
            logits, spread = logits.split(self.num_experts, dim=-1)
            noise = noise + torch.nn.functional.softplus(spread)
        if rel_type is not None and self.relation_bias:
            logits = logits + self.gate_bias(rel_type)
        if self.training and (self.learned_noise or self.noise > 0):
            logits = logits + noise * torch.randn_like(logits)
        if rel_type is not None:
            logits = logits / self.temperature_logit(rel_type).sigmoid()
        return logits

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.in_channels}, {self.out_channels}, '
                f'num_experts={self.num_experts}, num_relations={self.num_relations})')
