r"""The benchmark MKG-W."""
from pathlib import Path
from typing import List

from pyg_mmkgc.datasets.base import NATIVE, MMKGDataset, RawFile
from pyg_mmkgc.datasets.db15k import dbpedia_title
from pyg_mmkgc.datasets.openke import read_text

LINKS = 'entity_links.tsv'
RELATIONS = 'relation_labels.txt'
_K_ON = ('zjukg/K-ON', 'e118ed7c5f8970ea97dc8954d4cd924ffe155700')


class MKGW(MMKGDataset):
    r"""The benchmark MKG-W, a part of Wikidata, from the `"Relation-enhanced Negative Sampling for
    Multimodal Knowledge Graph Completion" <https://doi.org/10.1145/3503161.3548388>`_ paper, in
    the splits of the `"NativE: Multi-modal Knowledge Graph Completion in the Wild"
    <https://arxiv.org/abs/2406.17605>`_ paper.

    15,000 entities, 169 relations, 34,196 / 4,276 / 4,274 triples for training, validation and
    test. Entities are labelled with the names of their articles in DBpedia, relations with the
    names of their properties: ``'Jim Jones (rapper)'``, ``'cast member'``.

    ===============  ==================================================  ==================
    modality         from                                                entities
    ===============  ==================================================  ==================
    ``text``         label, and description where there is one           15,000 (100 %)
    ``description``  Wikidata's short description (``description=``)     2,270 (15 %)
    ===============  ==================================================  ==================

    Image and text features are released, see :class:`~pyg_mmkgc.datasets.MMKGDataset`.

    **Known defects.** No repeats and no overlap between splits, but 306 test and 333 validation
    triples name an entity that training lacks; relation 168 occurs in validation only.

    Origin and SHA-256 of each file: :attr:`files`; licences: `datasets/mkgw/README.md`. For the
    arguments see :class:`~pyg_mmkgc.datasets.MMKGDataset`.
    """
    name = 'MKG-W'
    files = (
        RawFile('entity2id.txt', 'd94b546efcb535d8253821626dd32f3ee876b2f263b727a4a446bc74697785df',
                *NATIVE, 'benchmarks/MKG-W/entity2id.txt'),
        RawFile('relation2id.txt',
                '204203e03a92d4f973ee815449695bcfaae1b6917fcb08b65f3b0fb071a47f61',
                *NATIVE, 'benchmarks/MKG-W/relation2id.txt'),
        RawFile('train2id.txt', 'a9f316506a20a7b5bef7de3ceaaa1e82de554b8e92e6aa26e7cb54bcd8ada53d',
                *NATIVE, 'benchmarks/MKG-W/train2id.txt'),
        RawFile('valid2id.txt', '34dd556893b8e4832600298864dbd18012529a1f172793c21e45ad7bdee9d189',
                *NATIVE, 'benchmarks/MKG-W/valid2id.txt'),
        RawFile('test2id.txt', '0e1294b1f95c8ef80ad422aeefafea321d16c1d127570e6bb566882b2e053989',
                *NATIVE, 'benchmarks/MKG-W/test2id.txt'),
        RawFile(LINKS, '4aa7e9f5ff3bbeea7dee3124669edba7903e65b22844529999325c6bec624511',
                *_K_ON, 'data/MKG-W/ent_links.txt'),
        RawFile(RELATIONS, '4f4276bec413905e109b1daf938a91c57baf2d4be7d0e3f3bcb4904adfd02ffe',
                *_K_ON, 'data/MKG-W/rel_links.txt'),
        RawFile('descriptions.tsv',
                'd76c940bf4c0319a6eae195ca0e5f1ab0e1618fcda0288f5481dafb6a8719ede',
                'villmow/datasets_knowledge_embedding', '9e392453d6804d1f51c13e5650ae58ed48b638d5',
                'FB15K/entity2wikidata.json', derived='joined by Wikidata id'),
    )

    def entity_labels(self, names: List[str]) -> List[str]:
        # The hash of the file is known, so its shape is an invariant.
        rows = [line.split('\t') for line in read_text(Path(self.raw_dir) / LINKS).splitlines()]
        title = {entity: dbpedia_title(article) for article, entity in rows}
        return [title[name] for name in names]

    def relation_labels(self, names: List[str]) -> List[str]:
        labels = read_text(Path(self.raw_dir) / RELATIONS).splitlines()
        assert len(labels) == len(names)
        return labels
