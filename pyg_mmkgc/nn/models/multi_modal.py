import copy
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor
from torch.nn import Embedding
from torch_geometric.data import HeteroData
from typing_extensions import Self

from pyg_mmkgc.data import STRUCTURE, complete_features, modality_dicts
from pyg_mmkgc.data.memmap import MemoryMapped
from pyg_mmkgc.nn.decoders import Decoder, JointDecision
from pyg_mmkgc.nn.dropout import drop_modalities
from pyg_mmkgc.nn.models.base import KGModel, Prepared, entity_table, look_up


class MultiModalModel(KGModel):
    r"""The base class of models that see an entity through several modalities, one of which may be
    ``'structure'``: a learned table, which entities never seen in training lack.

    Features are buffers, set once by :meth:`attach` and not part of the saved model. Those that are
    :class:`~pyg_mmkgc.data.memmap.MemoryMapped` stay where and what they are: rows that are asked
    for are gathered, then converted, and go through pinned memory to a GPU; those of a training
    batch do so in :meth:`prepare`, outside the step.

    In training a modality of an entity is dropped with probability :math:`p_m` (*modality
    dropout*), so that the others learn to stand alone; the last one of an entity is never dropped.

    Args:
        num_entities (int): The number of entities.
        num_relations (int): The number of original relations :math:`R`.
        hidden_channels (int): Size of the vectors that are compared.
        decoder (Decoder): The score function.
        in_channels (Dict[str, int]): Size of the raw feature of each modality.
        structure_channels (int, optional): Size of a row of the learned table, 0 for no table.
            (default: :obj:`hidden_channels`)
        modality_dropout (float or Dict[str, float], optional): The probability :math:`p_m`, for
            all modalities or for some of them by name. (default: :obj:`0.0`)
        init_scale (float, optional): Standard deviation of the initial table.
            (default: :obj:`1e-3`)
        table_dtype (str, optional): The type of the numbers of the learned table, ``'float32'``,
            ``'bfloat16'`` or ``'float16'``; the latter two for ``'sampled'`` training alone, where
            :class:`~pyg_mmkgc.training.Trainer` computes in single precision all the same.
            (default: :obj:`"float32"`)
        **kwargs (optional): Further arguments of :class:`KGModel`.

    Raises:
        ValueError: If a modality is unknown, a probability is out of range, or there is neither a
            modality nor structure.
    """
    def __init__(self, num_entities: int, num_relations: int, hidden_channels: int,
                 decoder: Union[Decoder, JointDecision], in_channels: Mapping[str, int],
                 structure_channels: Optional[int] = None,
                 modality_dropout: Union[float, Dict[str, float]] = 0.0,
                 init_scale: float = 1e-3, table_dtype: str = 'float32', **kwargs: Any):
        super().__init__(num_entities, num_relations, hidden_channels, decoder, **kwargs)
        if structure_channels is None:
            structure_channels = hidden_channels
        if STRUCTURE in in_channels:
            raise ValueError(f"'in_channels' must not name {STRUCTURE!r}, which is the learned "
                             f"table; use 'structure_channels'")
        self.in_channels = {m: in_channels[m] for m in sorted(in_channels)}
        self.structure_channels = structure_channels
        self.init_scale = init_scale
        if structure_channels > 0:
            self.structure = entity_table(num_entities, structure_channels, table_dtype,
                                          self.objective)
        self.channels = dict(self.in_channels)
        if structure_channels > 0:
            self.channels[STRUCTURE] = structure_channels
        if not self.channels:
            raise ValueError('the model has neither a modality nor structure')

        self.modality_dropout = self.per_modality('modality_dropout', modality_dropout, 0.0)
        for m, p in self.modality_dropout.items():
            if not 0 <= p < 1:
                raise ValueError(f"'modality_dropout' of {m!r} needs to be in [0, 1) (got {p})")
        for m, channels in self.in_channels.items():
            # One zero for all, until there is something to attach:
            self.register_buffer(f'x_{m}', torch.zeros(1, 1).expand(num_entities, channels),
                                 persistent=False)
            self.register_buffer(f'mask_{m}', torch.zeros(num_entities, dtype=torch.bool),
                                 persistent=False)
        self._mapped: Dict[str, MemoryMapped] = {}
        self._fetched: List[Tuple[Tensor, Dict[str, Tensor]]] = []

    def per_modality(self, name: str, value: Any, default: Any) -> Dict[str, Any]:
        r"""An argument given for all modalities, or for some of them by name, as a full
        dictionary."""
        if not isinstance(value, Mapping):
            return dict.fromkeys(self.channels, value)
        unknown = set(value) - set(self.channels)
        if unknown:
            raise ValueError(f'{name!r} names the unknown modality {sorted(unknown)[0]!r} '
                             f'(expected some of {list(self.channels)})')
        return {m: value.get(m, default) for m in self.channels}

    @classmethod
    def from_data(cls, data: HeteroData, modalities: Optional[Sequence[str]] = None,
                  **kwargs: Any) -> Self:
        r"""Build a model for a graph, in one call.

        Args:
            data (HeteroData): The graph.
            modalities (Sequence[str], optional): The modalities to use. (default: all there are)
            **kwargs: Arguments of the model other than those that the graph determines.
        """
        x_dict, _ = modality_dicts(data)
        if modalities is None:
            modalities = list(x_dict)
        for m in modalities:
            if m not in x_dict:
                raise ValueError(f'Unknown modality {m!r} (expected some of {list(x_dict)})')
        return super().from_data(data, in_channels={m: x_dict[m].size(1) for m in modalities},
                                 **kwargs)

    def attach(self, data: HeteroData) -> Self:
        x_dict, mask_dict = modality_dicts(data)
        for m, channels in self.in_channels.items():
            if m not in x_dict or x_dict[m].size(1) != channels:
                got = f'{x_dict[m].size(1)} channels' if m in x_dict else 'none'
                raise ValueError(f'modality {m!r} of the data has {got} (expected {channels} '
                                 f'channels)')
        super().attach(data)
        self._mapped, self._fetched = {}, []
        for m in self.in_channels:
            x, device = x_dict[m], self.seen.device
            if isinstance(x, MemoryMapped):
                self._mapped[m] = x
                setattr(self, f'x_{m}', None)
            else:
                setattr(self, f'x_{m}', x.to(device, torch.get_default_dtype()))
            setattr(self, f'mask_{m}', mask_dict[m].to(device))
        return self

    def extend(self, data: HeteroData) -> Self:
        if data['entity'].num_nodes < self.num_entities:
            raise ValueError(f"'data' has {data['entity'].num_nodes} entities (expected the "
                             f'{self.num_entities} that the model knows, and new ones)')
        return self._resized(data['entity'].num_nodes, self.num_entities).attach(data)

    @torch.no_grad()
    def embed(self, features: Mapping[str, Tensor],
              masks: Optional[Mapping[str, Tensor]] = None) -> Any:
        r"""The encoding (see :meth:`encode`) of entities that training never saw, from their
        features alone: the same as that of entities of the data that train lacks. To rank them,
        or facts about them, see :meth:`extend`.

        Args:
            features (Mapping[str, torch.Tensor]): For each modality at hand, features
                :math:`(n, C_m)`.
            masks (Mapping[str, torch.Tensor], optional): For some of these, which of the entities
                have the modality, boolean :math:`(n)`. (default: all of them)

        Raises:
            ValueError: If there are no features, a modality is unknown, or shapes do not fit.
        """
        x_dict, mask_dict = complete_features(features, masks, self.in_channels)
        num_new, device = next(iter(x_dict.values())).size(0), self.seen.device
        out = self._resized(num_new, 0)
        out.seen = torch.zeros(num_new, dtype=torch.bool, device=device)
        out._mapped, out._fetched = {}, []
        for m in self.in_channels:
            setattr(out, f'x_{m}', x_dict[m].to(device, torch.get_default_dtype()))
            setattr(out, f'mask_{m}', mask_dict[m].to(device))
        return out.encode()

    def without(self, modality: str, index: Tensor) -> Self:
        r"""This model as if some entities lacked a modality: a mask says so, nothing is trained.
        The weights are shared; the result is for asking.

        Args:
            modality (str): One of :attr:`modalities`, structure included.
            index (torch.Tensor): Entity ids.

        Raises:
            ValueError: If the modality is unknown.
        """
        if modality not in self.channels:
            raise ValueError(f'Unknown modality {modality!r} (expected one of {self.modalities})')
        out = copy.copy(self)
        name = 'seen' if modality == STRUCTURE else f'mask_{modality}'
        mask = getattr(self, name).clone()
        mask[index.to(mask.device)] = False
        out._buffers = {**self._buffers, name: mask}  # That of the copy alone.
        out._fetched = []
        return out

    def entity_tables(self) -> List[Embedding]:
        return [self.structure] if self.structure_channels > 0 else []

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.structure_channels > 0:
            torch.nn.init.normal_(self.structure.weight, std=self.init_scale)

    @property
    def modalities(self) -> List[str]:
        r"""All modalities, sorted, structure included."""
        return sorted(self.channels)

    def inputs(self, index: Optional[Tensor] = None) -> Tuple[Dict[str, Tensor], Dict[str, Tensor]]:
        r"""Raw features and masks of entities.

        Args:
            index (torch.Tensor, optional): Entity ids. (default: all entities)
        """
        x_dict, mask_dict = {}, {}
        mapped = self._fetch(index)
        for m in self.modalities:
            if m == STRUCTURE:
                x, mask = look_up(self.structure, index), self.seen
            elif m in mapped:
                x, mask = mapped[m], getattr(self, f'mask_{m}')
            else:
                x, mask = getattr(self, f'x_{m}'), getattr(self, f'mask_{m}')
                x = x if index is None else x[index]
            x_dict[m] = x
            mask_dict[m] = mask if index is None else mask[index]
        return x_dict, mask_dict

    def drop(self, mask_dict: Dict[str, Tensor]) -> Dict[str, Tensor]:
        r"""Masks after modality dropout, in training; else the masks themselves.

        Args:
            mask_dict (Dict[str, torch.Tensor]): For each modality, whether an entity has it.
        """
        if not self.training or not any(p > 0 for p in self.modality_dropout.values()):
            return mask_dict
        return self._dropped(mask_dict, self.modality_dropout)

    def _dropped(self, mask_dict: Dict[str, Tensor], p: Mapping[str, float]) -> Dict[str, Tensor]:
        mask = torch.stack([mask_dict[m] for m in self.modalities], dim=1)  # [N, M]
        kept = self._dropped_of(mask, p).unbind(1)
        return dict(zip(self.modalities, kept, strict=True))

    def _dropped_of(self, mask: Tensor, p: Mapping[str, float]) -> Tensor:
        probability = torch.tensor([p[m] for m in self.modalities], device=mask.device)
        return drop_modalities(mask, probability)

    def _fetch(self, index: Optional[Tensor]) -> Dict[str, Tensor]:
        # The rows of memory-mapped features; those of a training batch are here already.
        for known, rows in self._fetched:
            if known is index:
                return rows
        out, device = {}, self.seen.device
        if self._mapped and index is not None:
            index = index.cpu()
        for m, mapped in self._mapped.items():
            x = (mapped if index is None else mapped[index]).to(torch.get_default_dtype())
            x = x.pin_memory() if device.type == 'cuda' else x
            out[m] = x.to(device, non_blocking=True)
        return out

    def prepare(self, head_index: Tensor, rel_type: Tensor, tail_index: Tensor) -> Prepared:
        out = super().prepare(head_index, rel_type, tail_index)
        self._fetched = []
        if out.entities is not None:
            self._fetched.append((out.entities, self._fetch(out.entities)))
        return out
