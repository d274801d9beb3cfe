r"""Negatives drawn uniformly."""
from pyg_mmkgc.sampler.base import TripleNegativeSampling


class Uniform(TripleNegativeSampling):
    r"""Uniform negative sampling, as in `"Translating Embeddings for Modeling Multi-relational
    Data" <https://papers.nips.cc/paper/5071>`_.

    .. math::
        P(e \mid h, r, t) = \frac{1}{N - 1} \quad \text{for } e \ne t, \qquad w = 1

    and the same for heads. Takes the arguments of
    :class:`~pyg_mmkgc.sampler.TripleNegativeSampling`.
    """
