from typing import Any, Dict, Mapping, Optional, Union

from torch import Tensor

from pyg_mmkgc.data import STRUCTURE
from pyg_mmkgc.nn.decoders import ComplExDecoder
from pyg_mmkgc.nn.models.projected import ProjectedModel


class AdditiveComplEx(ProjectedModel):
    r"""The simple way to use modalities, which any fusion has to beat: ComplEx over the sum of a
    learned vector and linear projections of whatever features an entity has,

    .. math::
        h(e) = a_{s}(e) \, \mathbf{s}_e + \sum_m a_m(e) \, W_m \, \mathrm{drop}(x_m(e)) .

    Args:
        num_entities (int): The number of entities.
        num_relations (int): The number of original relations :math:`R`.
        in_channels (Dict[str, int]): Size of the raw feature of each modality.
        hidden_channels (int, optional): Twice the rank. (default: :obj:`400`)
        dropout (float, optional): Dropout on raw features. (default: :obj:`0.2`)
        modality_dropout (float or Dict[str, float], optional): See :class:`MultiModalModel`.
            (default: structure is dropped with probability :obj:`0.25`)
        init_scale (float, optional): Standard deviation of the initial vectors.
            (default: :obj:`1e-3`)
        **kwargs (optional): Further arguments of :class:`MultiModalModel`.
    """
    def __init__(self, num_entities: int, num_relations: int, in_channels: Mapping[str, int],
                 hidden_channels: int = 400, dropout: float = 0.2,
                 modality_dropout: Optional[Union[float, Dict[str, float]]] = None,
                 init_scale: float = 1e-3, **kwargs: Any):
        if modality_dropout is None:
            modality_dropout = {} if kwargs.get('structure_channels') == 0 else {STRUCTURE: 0.25}
        super().__init__(num_entities, num_relations, hidden_channels,
                         ComplExDecoder(num_relations, hidden_channels, init_scale), in_channels,
                         dropout, modality_dropout=modality_dropout, init_scale=init_scale,
                         **kwargs)

    def encode(self, index: Optional[Tensor] = None) -> Tensor:
        (first, *others), _ = self.views(index)
        return sum(others, start=first)
