r"""The benchmark DB15K."""
from typing import List
from urllib.parse import unquote

from pyg_mmkgc.datasets.base import NATIVE, MMKGDataset, RawFile

RDF_TYPE = 'http://www.w3.org/1999/02/22-rdf-syntax-ns#type'


class DB15K(MMKGDataset):
    r"""The benchmark DB15K, a part of DBpedia, from the `"MMKG: Multi-Modal Knowledge Graphs"
    <https://arxiv.org/abs/1903.05485>`_ paper, in the splits of the `"NativE: Multi-modal
    Knowledge Graph Completion in the Wild" <https://arxiv.org/abs/2406.17605>`_ paper.

    12,842 entities, 279 relations, 79,222 / 9,904 / 9,902 triples for training, validation and
    test. Labels are the names in DBpedia: ``'Lady Gaga'``, ``'birthPlace'``.

    ===============  ==================================================  ==================
    modality         from                                                entities
    ===============  ==================================================  ==================
    ``text``         label, and description where there is one           12,842 (100 %)
    ``description``  Wikidata's short description (``description=``)     12,303 (96 %)
    ``numeric``      48,105 literals of 225 attributes, as in mmkb       10,947 (85 %)
    ===============  ==================================================  ==================

    Image, text and numeric features are released, see :class:`~pyg_mmkgc.datasets.MMKGDataset`.

    **Known defects.** 6,584 of the 7,481 distinct validation triples stand in train and 824 in
    test (the file has 9,904 lines): nothing can be selected on this validation set
    (:func:`~pyg_mmkgc.data.is_spent`). 77 test triples name an entity that training lacks, and
    relations 40, 124, 171, 194, 272 and 274 never occur there. Some literals are about another
    entity than they claim (a birth date of Square Enix). ``splits='clean'`` mends what overlaps.

    Origin and SHA-256 of each file: :attr:`files`; licences: `datasets/db15k/README.md`. For the
    arguments see :class:`~pyg_mmkgc.datasets.MMKGDataset`.
    """
    name = 'DB15K'
    files = (
        RawFile('entity2id.txt', '8f8d070f1bb24d07ed3050e4e4e780cb7f2245d0b14db3346e8db4fa55981728',
                *NATIVE, 'benchmarks/DB15K/entity2id.txt'),
        RawFile('relation2id.txt',
                '25e5a975ee079dbd5b8d22ffe23575a9e3135d263e0a3763224777bf526c1a74',
                *NATIVE, 'benchmarks/DB15K/relation2id.txt'),
        RawFile('train2id.txt', 'd41f9b9ab5c0e6eed393e0f93febb4258dc02e5e4a4e2a99c49410d167522804',
                *NATIVE, 'benchmarks/DB15K/train2id.txt'),
        RawFile('valid2id.txt', 'dc7ed39aa14e35a2f7ac09a0ff046067ee0e0d7953f8a204f04e7c09776095b1',
                *NATIVE, 'benchmarks/DB15K/valid2id.txt'),
        RawFile('test2id.txt', '15f28535d04f3711b739a49d824f2346167384283cde57123376392d418ad6de',
                *NATIVE, 'benchmarks/DB15K/test2id.txt'),
        RawFile('descriptions.tsv',
                '459ff8cce6dde57fd586a4f3426bb2c23a102a892ae8243f354d1d196a2c1400',
                'villmow/datasets_knowledge_embedding', '9e392453d6804d1f51c13e5650ae58ed48b638d5',
                'FB15K/entity2wikidata.json',
                derived='joined through github mniepert/mmkb @ '
                'dc1c89cac110ddbb9944d6ed5ab2b3c2339d320c : DB15K/DB15K_SameAsLink.txt'),
        RawFile('DB15K_NumericalTriples.txt',
                '646f188774bdd5d8da390a7003d290580328872da9adbd3c03e8aae4b0d2e89a',
                'sapkotaruz11/Literal_KGs', '4ba50f2a57f408fe45c0bac542cd2838ef7c2ae6',
                'DB15k/DB15k_Numeric_triples_processed.txt',
                derived='rewritten in the layout of github mniepert/mmkb '
                'DB15K/DB15K_NumericalTriples.txt'),
    )
    numeric_file = 'DB15K_NumericalTriples.txt'

    def entity_labels(self, names: List[str]) -> List[str]:
        return [dbpedia_title(name) for name in names]

    def relation_labels(self, names: List[str]) -> List[str]:
        # DBpedia has a property `type` of its own, so this one keeps its prefix.
        return ['rdf:type' if name.strip('<>') == RDF_TYPE else _last_segment(name)
                for name in names]

    def attribute_labels(self, names: List[str]) -> List[str]:
        return [_last_segment(name) for name in names]


def dbpedia_title(uri: str) -> str:
    r"""The readable name of a DBpedia resource, with or without ``<>``."""
    # Not the last segment: `resource/AC/DC` is a band.
    return unquote(uri.strip('<>').split('/resource/', 1)[-1]).replace('_', ' ')


def _last_segment(uri: str) -> str:
    # `<http://dbpedia.org/ontology/birthPlace>`, `<...rdf-schema#seeAlso>`.
    return unquote(uri.strip('<>').replace('#', '/').rsplit('/', 1)[-1])
