r"""The benchmark KVC16K."""
from typing import List

from pyg_mmkgc.datasets.base import NATIVE, MMKGDataset, RawFile


class KVC16K(MMKGDataset):
    r"""The benchmark KVC16K (published as Kuai16K), a part of the encyclopedia of the
    `"Kuaipedia: a Large-scale Multi-modal Short-video Encyclopedia"
    <https://arxiv.org/abs/2211.00732>`_ paper, in the splits of the `"NativE: Multi-modal
    Knowledge Graph Completion in the Wild" <https://arxiv.org/abs/2406.17605>`_ paper.

    16,015 entities, 4 relations, 180,190 / 22,523 / 22,525 triples for training, validation and
    test. Entities have Chinese names; relations have numbers only, so they are labelled
    ``'relation 0'`` to ``'relation 3'``.

    ===============  ==================================================  ==================
    modality         from                                                entities
    ===============  ==================================================  ==================
    ``text``         label                                               16,015 (100 %)
    ===============  ==================================================  ==================

    **Which encoders read Chinese.** The default ``encoder='hash'`` does (characters of any
    script). ``'minilm'`` is English: it warns and its vectors say next to nothing. Better than
    both is a Chinese or multilingual encoder: ``'hf:<name or folder>'``, or any callable from
    texts to a tensor.

    Image, text, audio and video features are released (`Kuai16K-*.pth`), see
    :class:`~pyg_mmkgc.datasets.MMKGDataset`.

    **Known defects.** 48 test and 30 validation triples stand in train, and 5 are in both; train
    repeats 171 triples, validation 3, test 2. 13 test triples name an entity that training lacks.
    ``splits='clean'`` mends what overlaps.

    Origin and SHA-256 of each file: :attr:`files`; licences: `datasets/kvc16k/README.md`. For the
    arguments see :class:`~pyg_mmkgc.datasets.MMKGDataset`.
    """
    name = 'KVC16K'
    aliases = ('Kuai16K', )
    files = (
        RawFile('entity2id.txt', 'dc68dc81c099fd88d966c42d84fe4d30b9cd91700075ca8f4c31c3e4a2006813',
                *NATIVE, 'benchmarks/Kuai16K/entity2id.txt'),
        RawFile('relation2id.txt',
                '1dade5e1aca65a0c0004c7ad240936791d745631a75bb0b69f278e28f8fa8ca2',
                *NATIVE, 'benchmarks/Kuai16K/relation2id.txt'),
        RawFile('train2id.txt', '9d9e180ec9c91c12260094f6ef0f32cc13763493c4943e400faeaa36e9c94d50',
                *NATIVE, 'benchmarks/Kuai16K/train2id.txt'),
        RawFile('valid2id.txt', '14c9222252c01a48567c75a5967efbab7d66c6f55259f70af9b417aa135141fd',
                *NATIVE, 'benchmarks/Kuai16K/valid2id.txt'),
        RawFile('test2id.txt', 'cfca850a7276a240f01a86d4fc5f1c6136fa13ab92cc840aee546d539b8175ef',
                *NATIVE, 'benchmarks/Kuai16K/test2id.txt'),
    )
    unread_by = ('minilm', )

    def relation_labels(self, names: List[str]) -> List[str]:
        return [f'relation {name}' for name in names]
