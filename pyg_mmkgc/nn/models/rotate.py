from typing import Any

from pyg_mmkgc.nn.decoders import RotatEDecoder
from pyg_mmkgc.nn.models.structure_model import StructureModel


class RotatE(StructureModel):
    r"""Structure-only RotatE (`"RotatE: Knowledge Graph Embedding by Relational Rotation in Complex
    Space" <https://arxiv.org/abs/1902.10197>`_): a relation turns the complex coordinates of a
    head. Published with sampled, self-adversarial negatives
    (:class:`~pyg_mmkgc.sampler.SelfAdversarial`); here it takes any objective.

    Args:
        num_entities (int): The number of entities.
        num_relations (int): The number of original relations :math:`R`.
        hidden_channels (int, optional): Twice the rank: real and imaginary parts.
            (default: :obj:`400`)
        margin (float, optional): See :class:`RotatEDecoder`. (default: :obj:`9.0`)
        init_scale (float, optional): Standard deviation of the initial vectors.
            (default: :obj:`0.05`)
        **kwargs (optional): Further arguments of :class:`StructureModel`.
    """
    def __init__(self, num_entities: int, num_relations: int, hidden_channels: int = 400,
                 margin: float = 9.0, init_scale: float = 0.05, **kwargs: Any):
        super().__init__(num_entities, num_relations, hidden_channels,
                         RotatEDecoder(num_relations, hidden_channels, margin), init_scale,
                         **kwargs)
