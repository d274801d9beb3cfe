from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

import torch
from torch import Tensor
from torch.nn import Parameter
from torch_geometric.nn.inits import glorot

from pyg_mmkgc.data import STRUCTURE
from pyg_mmkgc.nn.decoders import Decoder, JointDecision
from pyg_mmkgc.nn.models.multi_modal import MultiModalModel


class ProjectedModel(MultiModalModel):
    r"""The base class of models that see a modality as one linear projection of its feature,
    :math:`W_m \, \mathrm{drop}(x_m(e))`, and structure as it is, whatever the relation.

    Args:
        num_entities (int): The number of entities.
        num_relations (int): The number of original relations :math:`R`.
        hidden_channels (int): Size of a projected view.
        decoder (Decoder): The score function.
        in_channels (Dict[str, int]): Size of the raw feature of each modality.
        dropout (float, optional): Dropout on raw features. (default: :obj:`0.2`)
        **kwargs (optional): Further arguments of :class:`MultiModalModel`.
    """
    def __init__(self, num_entities: int, num_relations: int, hidden_channels: int,
                 decoder: Union[Decoder, JointDecision], in_channels: Mapping[str, int],
                 dropout: float = 0.2, **kwargs: Any):
        super().__init__(num_entities, num_relations, hidden_channels, decoder, in_channels,
                         **kwargs)
        self.dropout = dropout
        self.projection = torch.nn.ParameterDict({
            m: Parameter(torch.empty(channels, hidden_channels))
            for m, channels in self.in_channels.items()
        })
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for weight in self.projection.values():
            glorot(weight)

    def views(self, index: Optional[Tensor] = None) -> Tuple[List[Tensor], Dict[str, Tensor]]:
        r"""The view of each of :attr:`modalities`, :math:`(n, F)`, zero for an entity that lacks
        it, and masks after modality dropout.

        Args:
            index (torch.Tensor, optional): Entity ids. (default: all entities)
        """
        x_dict, mask_dict = self.inputs(index)
        mask_dict = self.drop(mask_dict)
        views = []
        for m, x in x_dict.items():
            # What stands in a missing row must not matter, not even a NaN:
            x = torch.where(mask_dict[m].unsqueeze(-1), x, 0.0)
            if m != STRUCTURE:
                x = torch.nn.functional.dropout(x, self.dropout, self.training)
                x = x @ self.projection[m]
            views.append(x)
        return views, mask_dict
