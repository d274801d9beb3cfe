from typing import Any

from pyg_mmkgc.nn.decoders import DistMultDecoder
from pyg_mmkgc.nn.models.structure_model import StructureModel


class DistMult(StructureModel):
    r"""Structure-only DistMult (`"Embedding Entities and Relations for Learning and Inference in
    Knowledge Bases" <https://arxiv.org/abs/1412.6575>`_), trained as :class:`ComplEx` is. With
    inverse relations that have vectors of their own it is not bound to symmetric answers.

    Args:
        num_entities (int): The number of entities.
        num_relations (int): The number of original relations :math:`R`.
        hidden_channels (int, optional): The rank. (default: :obj:`400`)
        init_scale (float, optional): Standard deviation of the initial vectors.
            (default: :obj:`1e-3`)
        **kwargs (optional): Further arguments of :class:`StructureModel`.
    """
    def __init__(self, num_entities: int, num_relations: int, hidden_channels: int = 400,
                 init_scale: float = 1e-3, **kwargs: Any):
        super().__init__(num_entities, num_relations, hidden_channels,
                         DistMultDecoder(num_relations, hidden_channels, init_scale), init_scale,
                         **kwargs)
