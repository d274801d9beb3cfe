from typing import Any, List, Optional

import torch
from torch import Tensor
from torch.nn import Embedding

from pyg_mmkgc.nn.decoders import Decoder
from pyg_mmkgc.nn.models.base import KGModel, entity_table, look_up


class StructureModel(KGModel):
    r"""The base class of models that know the triples alone: a learned vector for each entity, and
    a decoder.

    Args:
        num_entities (int): The number of entities.
        num_relations (int): The number of original relations :math:`R`.
        hidden_channels (int): Size of the vectors.
        decoder (Decoder): The score function.
        init_scale (float, optional): Standard deviation of the initial vectors.
            (default: :obj:`1e-3`)
        table_dtype (str, optional): See :class:`MultiModalModel`. (default: :obj:`"float32"`)
        **kwargs (optional): Further arguments of :class:`KGModel`.
    """
    def __init__(self, num_entities: int, num_relations: int, hidden_channels: int,
                 decoder: Decoder, init_scale: float = 1e-3, table_dtype: str = 'float32',
                 **kwargs: Any):
        super().__init__(num_entities, num_relations, hidden_channels, decoder, **kwargs)
        self.init_scale = init_scale
        self.structure = entity_table(num_entities, hidden_channels, table_dtype, self.objective)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        torch.nn.init.normal_(self.structure.weight, std=self.init_scale)

    def encode(self, index: Optional[Tensor] = None) -> Tensor:
        return look_up(self.structure, index)

    def entity_tables(self) -> List[Embedding]:
        return [self.structure]
