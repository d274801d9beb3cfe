import torch
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from pyg_mmkgc.data.hetero import get_triples, seen_entities, set_triples
from pyg_mmkgc.transforms.drop_modality import check_share, draw_rows


class SampleTriples(BaseTransform):
    r"""Keeps a random share of the training triples.

    Of :math:`T` triples :math:`\mathrm{round}(T \cdot share)` stay, in their order, and at least
    one does. Under one seed, a larger share keeps all that a smaller one does and more. Entities
    may lose their last triple: then :obj:`data.candidates` becomes ``'all'``, since answers need
    no longer be seen in training.

    Args:
        share (float): The share that is kept, from 0 to 1.
        seed (int, optional): The seed. (default: :obj:`0`)

    Raises:
        ValueError: If the share is not in :math:`[0, 1]`.
    """
    def __init__(self, share: float, seed: int = 0):
        check_share('share', share)
        self.share = share
        self.seed = seed

    def forward(self, data: HeteroData) -> HeteroData:
        seen = seen_entities(data)
        triples = torch.stack(get_triples(data, 'train'), dim=1).cpu()
        rows = torch.ones(len(triples), dtype=torch.bool)
        share = max(self.share, 1 / len(triples))
        kept = draw_rows(rows, share, torch.Generator().manual_seed(self.seed)).sort().values
        set_triples(data, 'train', triples[kept])
        if bool((seen & ~seen_entities(data)).any()):
            data.candidates = 'all'
        return data

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.share}, seed={self.seed})'
