r"""The triple store: known-triple index, splits, modality tensors and masks."""
from pyg_mmkgc.data.hetero import (
    EDGE,
    STRUCTURE,
    build_data,
    build_index,
    get_triples,
    modality_dicts,
    modality_names,
    seen_entities,
    set_modality,
    split_names,
)
from pyg_mmkgc.data.labels import Labels
from pyg_mmkgc.data.triples import TripleIndex

__all__ = classes = [
    'EDGE',
    'STRUCTURE',
    'Labels',
    'TripleIndex',
    'build_data',
    'build_index',
    'get_triples',
    'modality_dicts',
    'modality_names',
    'seen_entities',
    'set_modality',
    'split_names',
]
