r"""How many heads and tails a relation has for each other."""
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_mmkgc.data.hetero import EDGE, build_index

RELATION_CLASSES = ('1-1', '1-N', 'N-1', 'N-N', 'unseen')
#: A relation is "N" on a side that has more than this many entities on average.
MANY = 1.5


def relation_classes(data: HeteroData) -> Tensor:
    r"""The class of each relation as an index into :obj:`RELATION_CLASSES`, :math:`(R)`.

    A relation is ``'N-...'`` if a tail has more than 1.5 heads on average, and ``'...-N'`` if a
    head has more than 1.5 tails, counted over distinct training triples, as in the
    `"Translating Embeddings for Modeling Multi-Relational Data"
    <https://papers.nips.cc/paper/5071-translating-embeddings-for-modeling-multi-relational-data>`_
    paper. A relation without any is ``'unseen'``.
    """
    num_entities, num_relations = data['entity'].num_nodes, data[EDGE].num_relations
    index = build_index(data, ['train'])
    # Keys are (relation, head, tail), those of inverse relations (relation + R, tail, head):
    num_triples = torch.bincount(index.keys // num_entities**2, minlength=2 * num_relations)
    num_queries = torch.bincount(index.queries()[1], minlength=2 * num_relations)
    tails_per_head, heads_per_tail = (num_triples / num_queries).cpu().view(2, -1).unbind(0)
    out = 2 * (heads_per_tail > MANY).long() + (tails_per_head > MANY).long()
    return out.masked_fill_(tails_per_head.isnan(), RELATION_CLASSES.index('unseen'))
