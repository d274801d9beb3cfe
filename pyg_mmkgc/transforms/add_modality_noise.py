from typing import Optional, Sequence

import torch
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from pyg_mmkgc.transforms.drop_modality import check_share, draw_rows, modality_generator
from pyg_mmkgc.transforms.select_modalities import chosen_modalities

KINDS = ('gaussian', 'swap')


class AddModalityNoise(BaseTransform):
    r"""Puts noise in place of the features of some of the entities that have a modality.

    Of the :math:`n` entities that have it, :math:`\mathrm{round}(n \cdot ratio)` are chosen at
    random. Their rows become

    - ``'gaussian'``: independent draws from :math:`\mathcal{N}(\mu_c, \sigma_c^2)`, with mean and
      (population) standard deviation of column :math:`c` over all entities that have the modality;
    - ``'swap'``: each the row of another chosen entity, in one random cycle, so that all
      statistics stay as they are (a single chosen one keeps its own).

    Masks stay as they are. Under one seed, a larger ratio chooses all that a smaller one does and
    more. Which entities are chosen does not depend on the other modalities.

    Args:
        ratio (float): The share that is chosen, from 0 to 1.
        modalities (Sequence[str], optional): The modalities. (default: all there are)
        seed (int, optional): The seed. (default: :obj:`0`)
        kind (str, optional): ``'gaussian'`` or ``'swap'``. (default: :obj:`'gaussian'`)

    Raises:
        ValueError: If the ratio is not in :math:`[0, 1]`, the kind is unknown or the graph lacks
            a modality.
    """
    def __init__(self, ratio: float, modalities: Optional[Sequence[str]] = None, seed: int = 0,
                 kind: str = 'gaussian'):
        check_share('ratio', ratio)
        if kind not in KINDS:
            raise ValueError(f'Unknown kind {kind!r} (expected one of {list(KINDS)})')
        self.ratio = ratio
        self.modalities = None if modalities is None else list(modalities)
        self.seed = seed
        self.kind = kind

    def forward(self, data: HeteroData) -> HeteroData:
        for m in chosen_modalities(data, self.modalities):
            x, mask = data['entity'][m], data['entity'][f'{m}_mask']
            generator = modality_generator(self.seed, m)
            index = draw_rows(mask, self.ratio, generator)
            out = x.clone()
            if self.kind == 'swap':
                out[index] = x[index.roll(1)]
            elif index.numel() > 0:
                known = x[mask]
                # For all, so that the noise of an entity is the same at any ratio.
                noise = torch.randn(known.shape, generator=generator)[:index.numel()].to(x)
                out[index] = known.mean(dim=0) + known.std(dim=0, correction=0) * noise
            data['entity'][m] = out
        return data

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.ratio}, modalities={self.modalities}, '
                f'seed={self.seed}, kind={self.kind!r})')
