r"""What other tools read: vectors, predictions, a scorer that needs torch alone."""
from pyg_mmkgc.export.predictions import predict_split, write_predictions
from pyg_mmkgc.export.pykeen_model import PyKEENModel
from pyg_mmkgc.export.scorer import export_scorer
from pyg_mmkgc.export.vectors import (
    FORMATS,
    Vectors,
    entity_vectors,
    neighbours,
    relation_vectors,
    write_vectors,
)

__all__ = classes = [
    'FORMATS',
    'PyKEENModel',
    'Vectors',
    'entity_vectors',
    'export_scorer',
    'neighbours',
    'predict_split',
    'relation_vectors',
    'write_predictions',
    'write_vectors',
]
