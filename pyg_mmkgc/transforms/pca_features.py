from typing import Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from pyg_mmkgc.data.hetero import set_modality
from pyg_mmkgc.transforms.normalize_features import training_rows
from pyg_mmkgc.transforms.select_modalities import chosen_modalities


class PCAFeatures(BaseTransform):
    r"""Reduces the features of modalities to their principal components, each on its own:
    :math:`\mathbf{x} \mapsto \mathbf{V}^\top (\mathbf{x} - \boldsymbol{\mu})`.

    The mean :math:`\boldsymbol{\mu}` and the axes :math:`\mathbf{V}` (right singular vectors of
    the centred rows, those of the largest singular values first) come from the training entities
    that have the modality. The entry of an axis with the largest absolute value is positive, so
    that the result is unique where singular values differ. Components are not scaled: the variance
    of column :math:`i` over those entities is what axis :math:`i` explains; :meth:`fit` returns its
    share of the total. Rows of entities that lack the modality stay zero.

    Args:
        channels (int): The number of components. Where there are fewer columns, or fewer
            entities to learn from, there are fewer components.
        modalities (Sequence[str], optional): The modalities. (default: all there are)

    Raises:
        ValueError: If :obj:`channels` is not positive, the graph lacks a modality, or no training
            entity has it.
    """
    def __init__(self, channels: int, modalities: Optional[Sequence[str]] = None):
        if channels < 1:
            raise ValueError(f"'channels' needs to be positive (got {channels})")
        self.channels = channels
        self.modalities = None if modalities is None else list(modalities)

    def forward(self, data: HeteroData) -> HeteroData:
        for m in chosen_modalities(data, self.modalities):
            x, mask = data['entity'][m], data['entity'][f'{m}_mask']
            mean, axes, _ = self.fit(x[training_rows(data, m)])
            set_modality(data, m, ((x - mean) @ axes).to(x.dtype), mask)
        return data

    def fit(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        r"""Mean and axes of some rows.

        Args:
            x (torch.Tensor): The rows ``[n, C]``.

        Returns:
            (torch.Tensor, torch.Tensor, torch.Tensor): The mean ``[C]``, the axes ``[C, channels]``
            and the share of the total variance that each axis explains ``[channels]``, in
            double precision.
        """
        x = x.double()
        mean = x.mean(dim=0)
        _, value, axes = torch.linalg.svd(x - mean, full_matrices=False)  # Axes in rows.
        axes = axes * axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)).sign()
        share = value.square() / value.square().sum().clamp(min=torch.finfo(x.dtype).tiny)
        return mean, axes[:self.channels].t(), share[:self.channels]

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.channels}, modalities={self.modalities})'
