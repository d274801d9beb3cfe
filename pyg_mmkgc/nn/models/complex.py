from typing import Any

from pyg_mmkgc.nn.decoders import ComplExDecoder
from pyg_mmkgc.nn.models.structure_model import StructureModel


class ComplEx(StructureModel):
    r"""Structure-only ComplEx (`"Complex Embeddings for Simple Link Prediction"
    <https://arxiv.org/abs/1606.06357>`_) as it should be trained (`"Canonical Tensor Decomposition
    for Knowledge Base Completion" <https://arxiv.org/abs/1806.07297>`_): inverse relations, softmax
    over all entities, N3. The baseline that any use of modalities has to beat.

    Args:
        num_entities (int): The number of entities.
        num_relations (int): The number of original relations :math:`R`.
        hidden_channels (int, optional): Twice the rank: real and imaginary parts.
            (default: :obj:`400`)
        init_scale (float, optional): Standard deviation of the initial vectors.
            (default: :obj:`1e-3`)
        **kwargs (optional): Further arguments of :class:`StructureModel`.
    """
    def __init__(self, num_entities: int, num_relations: int, hidden_channels: int = 400,
                 init_scale: float = 1e-3, **kwargs: Any):
        super().__init__(num_entities, num_relations, hidden_channels,
                         ComplExDecoder(num_relations, hidden_channels, init_scale), init_scale,
                         **kwargs)
