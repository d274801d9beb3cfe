r"""Score functions over vectors; a decoder owns all that belongs to relations."""
from pyg_mmkgc.nn.decoders.base import Decoder
from pyg_mmkgc.nn.decoders.complex import ComplExDecoder
from pyg_mmkgc.nn.decoders.distmult import DistMultDecoder
from pyg_mmkgc.nn.decoders.joint_decision import JointDecision
from pyg_mmkgc.nn.decoders.rotate import RotatEDecoder
from pyg_mmkgc.nn.decoders.transe import TransEDecoder
from pyg_mmkgc.nn.decoders.tucker import TuckERDecoder

#: The decoders that are chosen by name.
DECODERS = {
    'complex': ComplExDecoder,
    'distmult': DistMultDecoder,
    'rotate': RotatEDecoder,
    'transe': TransEDecoder,
    'tucker': TuckERDecoder,
}

__all__ = classes = [
    'ComplExDecoder',
    'Decoder',
    'DistMultDecoder',
    'JointDecision',
    'RotatEDecoder',
    'TransEDecoder',
    'TuckERDecoder',
]
