from typing import Any

from pyg_mmkgc.nn.decoders import TransEDecoder
from pyg_mmkgc.nn.models.structure_model import StructureModel


class TransE(StructureModel):
    r"""Structure-only TransE (`"Translating Embeddings for Modeling Multi-relational Data"
    <https://papers.nips.cc/paper/5071>`_): a relation is a translation.

    Args:
        num_entities (int): The number of entities.
        num_relations (int): The number of original relations :math:`R`.
        hidden_channels (int, optional): Size of the vectors. (default: :obj:`400`)
        margin (float, optional): See :class:`TransEDecoder`. (default: :obj:`9.0`)
        p_norm (float, optional): See :class:`TransEDecoder`. (default: :obj:`1.0`)
        init_scale (float, optional): Standard deviation of the initial vectors.
            (default: :obj:`0.05`)
        **kwargs (optional): Further arguments of :class:`StructureModel`.
    """
    def __init__(self, num_entities: int, num_relations: int, hidden_channels: int = 400,
                 margin: float = 9.0, p_norm: float = 1.0, init_scale: float = 0.05,
                 **kwargs: Any):
        super().__init__(num_entities, num_relations, hidden_channels,
                         TransEDecoder(num_relations, hidden_channels, margin, p_norm), init_scale,
                         **kwargs)
