r"""Transforms that fill in modalities."""
from pyg_mmkgc.transforms.encode_numeric import EncodeNumeric
from pyg_mmkgc.transforms.encode_text import EncodeText
from pyg_mmkgc.transforms.permute_modality import PermuteModality
from pyg_mmkgc.transforms.text_encoders import HashTextEncoder, MiniLMEncoder

__all__ = classes = [
    'EncodeNumeric',
    'EncodeText',
    'HashTextEncoder',
    'MiniLMEncoder',
    'PermuteModality',
]
