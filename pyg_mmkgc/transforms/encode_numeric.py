r"""Numbers about the entities as a modality."""
import hashlib
import math
from typing import Optional, Tuple

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from pyg_mmkgc.data.hetero import seen_entities, set_modality

SCALINGS = ('log', 'quantile', 'standard')


class EncodeNumeric(BaseTransform):
    r"""Encodes columns of numbers, most of which may be missing, into one modality.

    Each column :math:`a` is scaled on its own, by statistics of the training entities only:

    - ``'quantile'``: :math:`2 \hat F_a(x) - 1`, with :math:`\hat F_a` the mid-rank empirical
      distribution, linear between known values and constant outside;
    - ``'log'``: :math:`\mathrm{sign}(x) \log(1 + |x|)`, then standardised;
    - ``'standard'``: mean zero and variance one.

    The result is the scaled columns (zero where missing), followed by one indicator column each
    (one where present). An entity with no number at all lacks the modality.

    Args:
        source (str, optional): The attribute of ``data['entity']`` that holds the numbers
            ``[N, A]``, NaN where missing. (default: :obj:`'numeric_value'`)
        modality (str, optional): The name of the modality. (default: :obj:`'numeric'`)
        scaling (str, optional): ``'quantile'``, ``'log'`` or ``'standard'``.
            (default: :obj:`'quantile'`)
        num_frequencies (int, optional): If positive, each scaled value :math:`v` is followed by
            :math:`\sin(2^k \pi v / 2)` and :math:`\cos(2^k \pi v / 2)` for
            :math:`k` below this number. (default: :obj:`0`)
        min_count (int, optional): Columns that fewer training entities have are left out.
            (default: :obj:`1`)
        fit_mask (torch.Tensor, optional): The entities that statistics are taken from, ``[N]``.
            (default: those that occur in a training triple)

    Raises:
        ValueError: If an argument is out of range, the source is missing or not of shape
            ``[N, A]``, or holds an infinite number.
    """
    def __init__(self, source: str = 'numeric_value', modality: str = 'numeric',
                 scaling: str = 'quantile', num_frequencies: int = 0, min_count: int = 1,
                 fit_mask: Optional[Tensor] = None):
        if scaling not in SCALINGS:
            raise ValueError(f'Unknown scaling {scaling!r} (expected one of {list(SCALINGS)})')
        if num_frequencies < 0:
            raise ValueError(f"'num_frequencies' needs to be at least 0 (got {num_frequencies})")
        if min_count < 1:
            raise ValueError(f"'min_count' needs to be at least 1 (got {min_count})")
        self.source = source
        self.modality = modality
        self.scaling = scaling
        self.num_frequencies = num_frequencies
        self.min_count = min_count
        self.fit_mask = fit_mask

    def forward(self, data: HeteroData) -> HeteroData:
        store = data['entity']
        value = store[self.source] if self.source in store else None
        if not isinstance(value, Tensor) or value.dim() != 2 or len(value) != store.num_nodes:
            found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"data['entity'].{self.source} needs to be a tensor of shape "
                             f'[{store.num_nodes}, columns] (got {found})')
        fit_mask = seen_entities(data) if self.fit_mask is None else self.fit_mask
        x, mask = self.encode(value, fit_mask)[:2]
        set_modality(data, self.modality, x, mask)
        return data

    def encode(self, value: Tensor, fit_mask: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        r"""Encode a matrix of numbers.

        Args:
            value (torch.Tensor): Numbers ``[N, A]``, NaN where missing.
            fit_mask (torch.Tensor): The entities that statistics are taken from, ``[N]``.

        Returns:
            (torch.Tensor, torch.Tensor, torch.Tensor): Features, the mask ``[N]`` and the
            indices of the columns that were kept.

        Raises:
            ValueError: If the mask does not fit or a number is infinite.
        """
        if fit_mask.dtype != torch.bool or fit_mask.shape != value.shape[:1]:
            raise ValueError(f"'fit_mask' needs to be boolean of shape [{len(value)}] "
                             f'(got {fit_mask.dtype}, {list(fit_mask.shape)})')
        value = value.detach().cpu().double()
        if bool(torch.isinf(value).any()):
            row, column = torch.isinf(value).nonzero()[0].tolist()
            raise ValueError(f'{self.source!r} holds an infinite number in row {row}, '
                             f'column {column}')
        present = ~torch.isnan(value)
        kept = ((present & fit_mask.cpu().unsqueeze(-1)).sum(dim=0) >= self.min_count).nonzero()
        kept = kept.view(-1)  # [num_kept]
        value, present = value[:, kept], present[:, kept]

        scaled = torch.zeros_like(value)
        for i in range(kept.numel()):  # Columns have different entities; there are few.
            rows = present[:, i]
            scaled[rows, i] = self._scale(value[rows, i], value[rows & fit_mask.cpu(), i])
        parts = [scaled.unsqueeze(-1)]
        for k in range(self.num_frequencies):
            angle = scaled.unsqueeze(-1) * (2**k * math.pi / 2)
            parts += [angle.sin(), angle.cos()]
        # Also the cosine, one at zero, is zero where there is no number.
        x = torch.cat(parts, dim=-1) * present.unsqueeze(-1)  # [N, num_kept, 1 + 2 * frequencies]
        x = torch.cat([x.flatten(1), present.double()], dim=1)
        return x.float(), present.any(dim=1), kept

    def encode_new(self, value: Tensor, fit_mask: Tensor, new: Tensor) -> Tensor:
        r"""The features of an entity that the matrix does not hold, by the same statistics.

        Args:
            value (torch.Tensor): Numbers ``[N, A]`` of the others, NaN where missing.
            fit_mask (torch.Tensor): The entities that statistics are taken from, ``[N]``.
            new (torch.Tensor): The numbers of the new one, ``[A]``.

        Returns:
            torch.Tensor: Features :math:`(1, C)`.
        """
        value = torch.cat([value, new.to(value.dtype).unsqueeze(0)])
        fit_mask = torch.cat([fit_mask, fit_mask.new_zeros(1)])
        return self.encode(value, fit_mask)[0][-1:]

    def _scale(self, value: Tensor, known: Tensor) -> Tensor:
        if self.scaling == 'quantile':
            distinct, count = torch.unique(known, return_counts=True)
            mid_rank = count.cumsum(0) - count / 2.0  # [num_distinct]
            level = 2 * mid_rank / known.numel() - 1
            return torch.from_numpy(np.interp(value.numpy(), distinct.numpy(), level.numpy()))
        if self.scaling == 'log':
            value = value.sign() * value.abs().log1p()
            known = known.sign() * known.abs().log1p()
        std = known.std(correction=0)
        # A constant column says nothing beyond its indicator.
        return (value - known.mean()) / std if float(std) > 0 else torch.zeros_like(value)

    def __repr__(self) -> str:
        # Caches of datasets are named by this, so it tells one mask from another.
        fit_mask = None if self.fit_mask is None else hashlib.sha256(
            self.fit_mask.cpu().numpy().tobytes()).hexdigest()[:12]
        return (f'{self.__class__.__name__}({self.source!r}, modality={self.modality!r}, '
                f'scaling={self.scaling!r}, num_frequencies={self.num_frequencies}, '
                f'min_count={self.min_count}, fit_mask={fit_mask})')
