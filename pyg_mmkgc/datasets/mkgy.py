r"""The benchmark MKG-Y."""
from typing import List

from pyg_mmkgc.datasets.base import NATIVE, MMKGDataset, RawFile


class MKGY(MMKGDataset):
    r"""The benchmark MKG-Y, a part of YAGO, from the `"Relation-enhanced Negative Sampling for
    Multimodal Knowledge Graph Completion" <https://doi.org/10.1145/3503161.3548388>`_ paper, in
    the splits of the `"NativE: Multi-modal Knowledge Graph Completion in the Wild"
    <https://arxiv.org/abs/2406.17605>`_ paper.

    15,000 entities, 28 relations, 21,310 / 2,665 / 2,663 triples for training, validation and
    test. Labels are the names in YAGO: ``'Clyde Bruckman'``, ``'wasBornIn'``.

    ===============  ==================================================  ==================
    modality         from                                                entities
    ===============  ==================================================  ==================
    ``text``         label, and description where there is one           15,000 (100 %)
    ``description``  Wikidata's short description (``description=``)     1,562 (10 %)
    ===============  ==================================================  ==================

    Image and text features are released, see :class:`~pyg_mmkgc.datasets.MMKGDataset`.

    **Known defects.** No repeats and no overlap between splits, but 388 test and 400 validation
    triples name an entity that training lacks.

    Origin and SHA-256 of each file: :attr:`files`; licences: `datasets/mkgy/README.md`. For the
    arguments see :class:`~pyg_mmkgc.datasets.MMKGDataset`.
    """
    name = 'MKG-Y'
    files = (
        RawFile('entity2id.txt', '416f6f77c13d0cf0c5cae9625a62b9f7d26320c27ae408f5ce4e7eae3206b8d9',
                *NATIVE, 'benchmarks/MKG-Y/entity2id.txt'),
        RawFile('relation2id.txt',
                '78d468edc02688f742c9b5a1030a071789ab24784dd2e48897643fe108ff4e4d',
                *NATIVE, 'benchmarks/MKG-Y/relation2id.txt'),
        RawFile('train2id.txt', '71310c2c274e5ba2ce550433ef5c8496920bd03f50fd6057e64fc9c34e1e1aac',
                *NATIVE, 'benchmarks/MKG-Y/train2id.txt'),
        RawFile('valid2id.txt', '6c82db2d2b809aabf72f94bc19be3080b53ffba1caec12b81510354a7fe3470e',
                *NATIVE, 'benchmarks/MKG-Y/valid2id.txt'),
        RawFile('test2id.txt', '8602cbbe7e3aef2c857df66eec5f7e4a2d6b02b19f58feff085688fb28980158',
                *NATIVE, 'benchmarks/MKG-Y/test2id.txt'),
        RawFile('descriptions.tsv',
                '5ee61e984a8db346db3f869384c9d6c2d6f1987b9609659bf9307803477e3831',
                'villmow/datasets_knowledge_embedding', '9e392453d6804d1f51c13e5650ae58ed48b638d5',
                'FB15K/entity2wikidata.json', derived='joined by Wikipedia title'),
    )

    def entity_labels(self, names: List[str]) -> List[str]:
        return [name.replace('_', ' ') for name in names]
