r"""Transforms that fill in modalities, scale them, or take from what they say."""
from pyg_mmkgc.transforms.add_modality_noise import AddModalityNoise
from pyg_mmkgc.transforms.audio_encoders import LogMelEncoder
from pyg_mmkgc.transforms.cache import FeatureCache
from pyg_mmkgc.transforms.drop_modality import DropModality
from pyg_mmkgc.transforms.encode_audio import EncodeAudio
from pyg_mmkgc.transforms.encode_image import EncodeImage, read_image
from pyg_mmkgc.transforms.encode_numeric import EncodeNumeric
from pyg_mmkgc.transforms.encode_text import EncodeText
from pyg_mmkgc.transforms.encode_video import EncodeVideo
from pyg_mmkgc.transforms.image_encoders import EfficientNetLite0Encoder, HuggingFaceImageEncoder
from pyg_mmkgc.transforms.normalize_features import NormalizeFeatures
from pyg_mmkgc.transforms.pca_features import PCAFeatures
from pyg_mmkgc.transforms.permute_modality import PermuteModality
from pyg_mmkgc.transforms.read_audio import read_audio
from pyg_mmkgc.transforms.read_video import read_frames
from pyg_mmkgc.transforms.sample_triples import SampleTriples
from pyg_mmkgc.transforms.select_modalities import SelectModalities
from pyg_mmkgc.transforms.text_encoders import (
    HashTextEncoder,
    HuggingFaceTextEncoder,
    MiniLMEncoder,
)

__all__ = classes = [
    'AddModalityNoise',
    'DropModality',
    'EfficientNetLite0Encoder',
    'EncodeAudio',
    'EncodeImage',
    'EncodeNumeric',
    'EncodeText',
    'EncodeVideo',
    'FeatureCache',
    'HashTextEncoder',
    'HuggingFaceImageEncoder',
    'HuggingFaceTextEncoder',
    'LogMelEncoder',
    'MiniLMEncoder',
    'NormalizeFeatures',
    'PCAFeatures',
    'PermuteModality',
    'SampleTriples',
    'SelectModalities',
    'read_audio',
    'read_frames',
    'read_image',
]
