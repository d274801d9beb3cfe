r"""The triple store: known-triple index, splits, modality tensors and masks."""
from pyg_mmkgc.data.audit import Audit, Finding, audit
from pyg_mmkgc.data.contents import EntityContents, entity_contents, picture_address
from pyg_mmkgc.data.convert import from_dataframe, from_pykeen, from_triples, to_pykeen
from pyg_mmkgc.data.held_out import hold_out, is_spent
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
    set_triples,
    split_names,
)
from pyg_mmkgc.data.labels import Labels
from pyg_mmkgc.data.memmap import MemoryMapped, memory_map
from pyg_mmkgc.data.new_entities import add_entities, complete_features, read_features
from pyg_mmkgc.data.relation_classes import RELATION_CLASSES, relation_classes
from pyg_mmkgc.data.splits import clean_splits, split_entities, split_triples
from pyg_mmkgc.data.triples import TripleIndex

__all__ = classes = [
    'EDGE',
    'RELATION_CLASSES',
    'STRUCTURE',
    'Audit',
    'EntityContents',
    'Finding',
    'Labels',
    'MemoryMapped',
    'TripleIndex',
    'add_entities',
    'audit',
    'build_data',
    'build_index',
    'clean_splits',
    'complete_features',
    'entity_contents',
    'from_dataframe',
    'from_pykeen',
    'from_triples',
    'get_triples',
    'hold_out',
    'is_spent',
    'memory_map',
    'modality_dicts',
    'modality_names',
    'picture_address',
    'read_features',
    'relation_classes',
    'seen_entities',
    'set_modality',
    'set_triples',
    'split_entities',
    'split_names',
    'split_triples',
    'to_pykeen',
]
