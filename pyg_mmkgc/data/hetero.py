r"""A multi-modal knowledge graph as :class:`~torch_geometric.data.HeteroData`, and its parts.

One node type ``'entity'``, one edge type :data:`EDGE`. A *modality* is any float key ``k`` of the
node store that has a boolean ``k_mask`` beside it; no other code decides what a modality is.
"""
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_mmkgc.data.labels import Labels
from pyg_mmkgc.data.memmap import MemoryMapped
from pyg_mmkgc.data.triples import TripleIndex, check_ids

#: The edge type of all relations; ``edge_type`` tells them apart.
EDGE = ('entity', 'to', 'entity')
#: The learned table of entity vectors, a modality like any other except that data never holds it.
STRUCTURE = 'structure'
#: What stands for training triples in a graph that came without: which entities these name, and
#: which relations have loops.
SEEN, HAS_LOOPS = 'seen_in_train', 'has_loops'

Triples = Tuple[Tensor, Tensor, Tensor]


def build_data(
    splits: Mapping[str, Tensor],
    entity_labels: Sequence[str],
    relation_labels: Sequence[str],
    modalities: Optional[Mapping[str, Tuple[Tensor, Tensor]]] = None,
) -> HeteroData:
    r"""Put triples, labels and modalities into one checked :class:`HeteroData`.

    Args:
        splits (Mapping[str, torch.Tensor]): Triples ``[T, 3]`` in columns head, relation, tail
            for ``'train'`` and any further split. Training triples become ``edge_index`` and
            ``edge_type``, another split ``s`` becomes ``s_edge_label_index`` and
            ``s_edge_label_type``, which no layer of PyG reads.
        entity_labels (Sequence[str]): The name of each entity.
        relation_labels (Sequence[str]): The name of each relation.
        modalities (Mapping, optional): For each modality, features ``[N, C]`` and a mask
            ``[N]``. Rows that are masked out are set to zero in a copy.

    Raises:
        ValueError: If ids are out of range, the training split is empty, features do not
            match the entities, or are not finite.
    """
    data = HeteroData()
    data['entity'].num_nodes = len(entity_labels)
    data['entity'].label = Labels(entity_labels)
    store = data[EDGE]
    store.num_relations = len(relation_labels)
    store.label = Labels(relation_labels)

    if 'train' not in splits:
        raise ValueError(f"'splits' has no 'train' (got {sorted(splits)})")
    for split, triples in splits.items():
        set_triples(data, split, triples)
    for name, (x, mask) in (modalities or {}).items():
        set_modality(data, name, x, mask)
    return data


def set_triples(data: HeteroData, split: str, triples: Tensor) -> None:
    r"""Check the triples of one split and put them into :obj:`data`.

    Args:
        data (HeteroData): The graph, changed in place.
        split (str): The split.
        triples (torch.Tensor): Triples ``[T, 3]`` in columns head, relation, tail.

    Raises:
        ValueError: If they are of another shape, none, or name what is not there.
    """
    if triples.dim() != 2 or triples.size(1) != 3:
        raise ValueError(f'split {split!r} needs triples of shape [T, 3] '
                         f'(got {list(triples.shape)})')
    if triples.size(0) == 0:
        raise ValueError(f'split {split!r} is empty')
    head_index, rel_type, tail_index = triples.long().t().contiguous().unbind(0)
    store, num_entities = data[EDGE], data['entity'].num_nodes
    check_ids(f'{split} heads', head_index, num_entities)
    check_ids(f'{split} relations', rel_type, store.num_relations)
    check_ids(f'{split} tails', tail_index, num_entities)
    index_key, type_key = (('edge_index', 'edge_type') if split == 'train' else
                           (f'{split}_edge_label_index', f'{split}_edge_label_type'))
    store[index_key] = torch.stack([head_index, tail_index])
    store[type_key] = rel_type


def set_modality(data: HeteroData, name: str, x: Tensor, mask: Optional[Tensor] = None) -> None:
    r"""Check the features of one modality and put them into :obj:`data` with their mask.

    Args:
        data (HeteroData): The graph, changed in place.
        name (str): The modality's key.
        x (torch.Tensor): Features ``[N, C]``, floating point; a
            :class:`~pyg_mmkgc.data.MemoryMapped` stays in its file, any other is copied with zeros
            where the mask says so.
        mask (torch.Tensor, optional): Which entities have the modality, ``[N]``
            (default: all of them).
    """
    num_entities = data['entity'].num_nodes
    check_modality_name(name)
    if x.dim() != 2 or x.size(0) != num_entities:
        raise ValueError(f'modality {name!r} needs one row for each of {num_entities} entities '
                         f'(got shape {list(x.shape)})')
    if not x.is_floating_point():
        raise ValueError(f'modality {name!r} needs floating-point features (got {x.dtype})')
    if mask is None:
        mask = torch.ones(num_entities, dtype=torch.bool)
    if mask.dtype != torch.bool or mask.shape != (num_entities, ):
        raise ValueError(f'mask of modality {name!r} needs to be boolean of shape '
                         f'[{num_entities}] (got {mask.dtype}, {list(mask.shape)})')
    if isinstance(x, MemoryMapped):  # It stays in its file; models mask what they gather.
        bad = torch.cat([~torch.isfinite(part).all(dim=-1)
                         for part in torch.split(x, 2**16)]) & mask
    else:
        x = torch.where(mask.unsqueeze(-1), x, x.new_zeros(()))
        bad = ~torch.isfinite(x).all(dim=-1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0, 0])
        label = f', entity {data["entity"].label[row]!r}' if 'label' in data['entity'] else ''
        raise ValueError(f'modality {name!r} has NaN or infinite values in {int(bad.sum())} rows '
                         f'(first: row {row}{label})')
    data['entity'][name] = x
    data['entity'][f'{name}_mask'] = mask


def check_modality_name(name: str) -> None:
    r"""Raise a :class:`ValueError` if a modality cannot have this name."""
    if name == STRUCTURE:
        raise ValueError(f'modality name {STRUCTURE!r} is kept for the learned table')
    if not name.isidentifier() or name.endswith('_mask') or name in ('num_nodes', 'label'):
        raise ValueError(f'modality name {name!r} is not usable as an attribute of the data '
                         f'(expected a Python identifier other than "label", "num_nodes", '
                         f'"*_mask")')


def modality_names(data: HeteroData) -> List[str]:
    r"""The modalities of a graph, sorted, so that no result depends on insertion order."""
    store = data['entity']
    return sorted(key for key in store.keys()
                  if isinstance(store[key], Tensor) and store[key].is_floating_point()
                  and f'{key}_mask' in store)


def modality_dicts(data: HeteroData) -> Tuple[Dict[str, Tensor], Dict[str, Tensor]]:
    r"""Features and masks of all modalities, as dictionaries with the same sorted keys."""
    names = modality_names(data)
    store = data['entity']
    return {m: store[m] for m in names}, {m: store[f'{m}_mask'] for m in names}


def split_names(data: HeteroData) -> List[str]:
    r"""``'train'`` and every further split that the graph holds."""
    suffix = '_edge_label_type'
    return ['train'] + [key[:-len(suffix)] for key in data[EDGE].keys() if key.endswith(suffix)]


def get_triples(data: HeteroData, split: str) -> Triples:
    r"""Heads, relations and tails of one split.

    Raises:
        ValueError: If the graph has no such split.
    """
    store = data[EDGE]
    if split not in split_names(data):
        raise ValueError(f'Unknown split {split!r} (expected one of {split_names(data)})')
    if split == 'train':
        index, rel_type = store.edge_index, store.edge_type
    else:
        index, rel_type = store[f'{split}_edge_label_index'], store[f'{split}_edge_label_type']
    return index[0], rel_type, index[1]


def triples_of(data: HeteroData) -> HeteroData:
    r"""A graph of the same entities, labels and splits with nothing else in it; triples are not
    copied."""
    out = HeteroData()
    out['entity'].num_nodes = data['entity'].num_nodes
    if 'candidates' in data:
        out.candidates = data.candidates
    for key in ('label', SEEN):
        if key in data['entity']:
            out['entity'][key] = data['entity'][key]
    for key, value in data[EDGE].items():
        if key in ('num_relations', 'label', HAS_LOOPS) or key.endswith((
                'edge_index', 'edge_type', '_edge_label_index', '_edge_label_type')):
            out[EDGE][key] = value
    return out


def build_index(data: HeteroData, splits: Optional[Sequence[str]] = None) -> TripleIndex:
    r"""The :class:`TripleIndex` over the named splits (default: all that there are)."""
    splits = split_names(data) if splits is None else splits
    if len(splits) == 0:
        raise ValueError("'splits' is empty")
    parts = [get_triples(data, s) for s in splits]
    head_index, rel_type, tail_index = (torch.cat(part) for part in zip(*parts, strict=True))
    return TripleIndex(head_index, rel_type, tail_index, data['entity'].num_nodes,
                       data[EDGE].num_relations)


def seen_entities(data: HeteroData) -> Tensor:
    r"""Which entities occur in a training triple, boolean ``[N]``."""
    if SEEN in data['entity']:
        return data['entity'][SEEN].cpu().clone()
    mask = torch.zeros(data['entity'].num_nodes, dtype=torch.bool)
    mask[data[EDGE].edge_index.reshape(-1).cpu()] = True
    return mask
