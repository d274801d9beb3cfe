from typing import Any, Optional

from pyg_mmkgc.nn.decoders import TuckERDecoder
from pyg_mmkgc.nn.models.structure_model import StructureModel


class TuckER(StructureModel):
    r"""Structure-only TuckER (`"TuckER: Tensor Factorization for Knowledge Graph Completion"
    <https://arxiv.org/abs/1901.09590>`_): the decoder of MoMoK over a learned table, so that what
    modalities add to it can be told. Without the batch normalisation of the published model, whose
    statistics would make scores depend on the batch.

    Args:
        num_entities (int): The number of entities.
        num_relations (int): The number of original relations :math:`R`.
        hidden_channels (int, optional): Size of the vectors. (default: :obj:`200`)
        relation_channels (int, optional): See :class:`TuckERDecoder`. (default: :obj:`None`)
        input_dropout (float, optional): See :class:`TuckERDecoder`. (default: :obj:`0.2`)
        hidden_dropout (float, optional): See :class:`TuckERDecoder`. (default: :obj:`0.3`)
        init_scale (float, optional): Standard deviation of the initial vectors.
            (default: :obj:`0.3`)
        **kwargs (optional): Further arguments of :class:`StructureModel`.
    """
    def __init__(self, num_entities: int, num_relations: int, hidden_channels: int = 200,
                 relation_channels: Optional[int] = None, input_dropout: float = 0.2,
                 hidden_dropout: float = 0.3, init_scale: float = 0.3, **kwargs: Any):
        super().__init__(num_entities, num_relations, hidden_channels,
                         TuckERDecoder(num_relations, hidden_channels, relation_channels,
                                       input_dropout, hidden_dropout), init_scale, **kwargs)
