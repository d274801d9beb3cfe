r"""Negative sampling and the loading of triples."""
from pyg_mmkgc.sampler.base import TripleNegativeSampling
from pyg_mmkgc.sampler.bernoulli import Bernoulli
from pyg_mmkgc.sampler.egns import EGNS
from pyg_mmkgc.sampler.link_sampler import EntityLinkSampler
from pyg_mmkgc.sampler.self_adversarial import SelfAdversarial
from pyg_mmkgc.sampler.triple_loader import TripleLoader
from pyg_mmkgc.sampler.uniform import Uniform

__all__ = classes = [
    'EGNS',
    'Bernoulli',
    'EntityLinkSampler',
    'SelfAdversarial',
    'TripleLoader',
    'TripleNegativeSampling',
    'Uniform',
]
