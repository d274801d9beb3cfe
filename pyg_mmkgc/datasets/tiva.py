r"""The benchmark TIVA."""
from typing import List

from pyg_mmkgc.datasets.base import NATIVE, MMKGDataset, RawFile


class TIVA(MMKGDataset):
    r"""The benchmark TIVA, a part of the graph of the `"TIVA-KG: A Multimodal Knowledge Graph with
    Text, Image, Video and Audio" <https://doi.org/10.1145/3581783.3612266>`_ paper, in the splits
    of the `"NativE: Multi-modal Knowledge Graph Completion in the Wild"
    <https://arxiv.org/abs/2406.17605>`_ paper.

    11,858 entities, 16 relations, 20,071 / 2,000 / 2,000 triples for training, validation and
    test. Entities are English terms (``'organic compound'``); relations have numbers only, so they
    are labelled ``'relation 0'`` to ``'relation 15'`` by the number in the file.

    ===============  ==================================================  ==================
    modality         from                                                entities
    ===============  ==================================================  ==================
    ``text``         label                                               11,858 (100 %)
    ===============  ==================================================  ==================

    Image, text, audio and video features are released, see
    :class:`~pyg_mmkgc.datasets.MMKGDataset`.

    **Known defects.** 11,652 of the 20,071 training lines are distinct. 1,664 of the 1,906 distinct
    test triples and 1,675 of the 1,913 distinct validation triples stand in train, and 154 are in
    both: nothing can be selected or compared on the official splits
    (:func:`~pyg_mmkgc.data.is_spent`). 326 test lines (236 distinct triples) name an entity that
    training lacks. ``splits='clean'`` mends the overlap at a price: train loses the test triples,
    and since 11,727 entities have a single triple, 1,867 of the 1,906 test triples then name an
    entity that train lacks, and validation has 182 triples. It asks for
    modalities, not for structure.

    Origin and SHA-256 of each file: :attr:`files`; licences: `datasets/tiva/README.md`. For the
    arguments see :class:`~pyg_mmkgc.datasets.MMKGDataset`.
    """
    name = 'TIVA'
    files = (
        RawFile('entity2id.txt', 'c8c8fb60629c05fef41689d96eefec0899e52f81c702c0ac63b32bfdca1c5cf0',
                *NATIVE, 'benchmarks/TIVA/entity2id.txt'),
        RawFile('relation2id.txt',
                'b53b33fa69a4a9e1c576e4d0967a36f44f5674e2ce3212f91afaac6fbe0e40de',
                *NATIVE, 'benchmarks/TIVA/relation2id.txt'),
        RawFile('train2id.txt', 'af1a3772d3bb33f792c9f8f17a841c40f20311ab7c085de2dd3cd04c09abd6bd',
                *NATIVE, 'benchmarks/TIVA/train2id.txt'),
        RawFile('valid2id.txt', '04c769b2adbad63e1b83da1654b59524b6098262bb32e31c331b7bfd2432fc44',
                *NATIVE, 'benchmarks/TIVA/valid2id.txt'),
        RawFile('test2id.txt', 'b656c7080fcceaf09fcd338e94a5c62a8dd05bbd9f28ee47b129ce78d14a2ee5',
                *NATIVE, 'benchmarks/TIVA/test2id.txt'),
    )

    def relation_labels(self, names: List[str]) -> List[str]:
        return [f'relation {name}' for name in names]
