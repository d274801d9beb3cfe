r"""A small random graph that is awkward on purpose."""
from typing import Dict, Mapping, Optional, Tuple

import torch
from torch import Tensor

from pyg_mmkgc.data.hetero import build_data
from pyg_mmkgc.datasets.base import GraphDataset

#: Entities with a fixed odd role: one bare, one isolated, one only in test, two twins.
NUM_SPECIAL = 5
NUM_CLUSTERS = 4


class FakeMMKG(GraphDataset):
    r"""A random multi-modal knowledge graph with all the oddities that real ones have.

    Each ordinary entity belongs to a cluster :math:`c`; relation :math:`r` leads from cluster
    :math:`c` to cluster :math:`(c + r + 1) \bmod 4`, and features are the cluster's mean plus
    noise: there is something to learn from structure and from modalities. Then come

    - parallel relations, self-loops, and triples repeated within and across splits,
    - :attr:`bare_entity`, which has triples but no modality,
    - :attr:`isolated_entity`, which has modalities but no triple,
    - :attr:`test_only_entity`, which occurs in ``'test'`` alone,
    - :attr:`twins`, two entities with equal features that occur in no triple, so that any model
      that knows them by their features alone gives them tied scores,
    - :attr:`unseen_relation`, which never occurs in training,
    - modalities that entities have or lack independently of each other.

    Args:
        num_entities (int, optional): The number of entities, at least 16. (default: :obj:`40`)
        num_relations (int, optional): The number of relations, at least 3. (default: :obj:`5`)
        modalities (Dict[str, int], optional): The channels of each modality; may be empty.
            (default: :obj:`{'image': 8, 'numeric': 4, 'text': 6}`)
        num_triples (int, optional): The number of regular triples, at least 20.
            (default: :obj:`8 * num_entities`)
        coverage (float, optional): The share of entities that have a modality.
            (default: :obj:`0.7`)
        inductive (bool, optional): Whether to add a split ``'inductive_test'`` about four
            entities, :attr:`held_out`, that occur in no other. (default: :obj:`False`)
        seed (int, optional): The seed. (default: :obj:`0`)

    Raises:
        ValueError: If a size is too small or :obj:`coverage` is not in :math:`[0, 1]`.
    """
    def __init__(self, num_entities: int = 40, num_relations: int = 5,
                 modalities: Optional[Mapping[str, int]] = None,
                 num_triples: Optional[int] = None, coverage: float = 0.7,
                 inductive: bool = False, seed: int = 0):
        if modalities is None:
            modalities = {'image': 8, 'numeric': 4, 'text': 6}
        num_triples = 8 * num_entities if num_triples is None else num_triples
        for name, value, least in [('num_entities', num_entities, 16),
                                   ('num_relations', num_relations, 3),
                                   ('num_triples', num_triples, 20)]:
            if value < least:
                raise ValueError(f'{name!r} needs to be at least {least} (got {value})')
        if not 0 <= coverage <= 1:
            raise ValueError(f"'coverage' needs to be between 0 and 1 (got {coverage})")
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        self.bare_entity = 0
        self.twins = (num_entities - 2, num_entities - 1)
        self.isolated_entity = num_entities - 3
        self.test_only_entity = num_entities - 4
        self.held_out = tuple(range(num_entities - 8, num_entities - 4)) if inductive else ()
        self.unseen_relation = num_relations - 1

        num_ordinary = num_entities - NUM_SPECIAL + 1 - len(self.held_out)  # The bare one is one.
        cluster = torch.arange(num_entities) % NUM_CLUSTERS
        splits = self._splits(num_ordinary, num_triples, num_relations, cluster, generator)
        self.data = build_data(
            splits,
            entity_labels=[f'entity {i}' for i in range(num_entities)],
            relation_labels=[f'relation {i}' for i in range(num_relations)],
            modalities=self._modalities(modalities, coverage, cluster, generator),
        )
        self._data.candidates = 'all'

    def _splits(self, num_ordinary: int, num_triples: int, num_relations: int, cluster: Tensor,
                generator: torch.Generator) -> Dict[str, Tensor]:
        head_index = torch.randint(num_ordinary, (num_triples, ), generator=generator)
        rel_type = torch.randint(num_relations - 1, (num_triples, ), generator=generator)
        tail_index = self._tails(head_index, rel_type, num_ordinary, cluster, generator)
        regular = torch.stack([head_index, rel_type, tail_index], dim=1)  # [num_triples, 3]

        num_held = num_triples // 10
        val, test, train = regular.split([num_held, num_held, num_triples - 2 * num_held])
        # A ring, so that training mentions every ordinary entity.
        ring = torch.arange(num_ordinary)
        ring = torch.stack([ring, torch.zeros_like(ring), ring.roll(-1)], dim=1)
        parallel = torch.tensor([[1, r, 2] for r in range(num_relations - 1)])
        loops = torch.tensor([[3, 0, 3], [4, 1, 4]])
        odd = torch.tensor([
            [self.test_only_entity, 0, 1],
            [2, 1, self.test_only_entity],
            [1, self.unseen_relation, 3],
        ])
        splits = {
            'train': torch.cat([train, ring, parallel, loops, train[:3], parallel[:1]]),
            'val': torch.cat([val, val[:2], train[3:5], loops[:1]]),
            'test': torch.cat([test, test[:2], train[5:7], val[:1], odd]),
        }
        if self.held_out:
            new = torch.tensor(self.held_out).repeat_interleave(3)
            rel_type = torch.arange(new.numel()) % (num_relations - 1)
            known = self._tails(new, rel_type, num_ordinary, cluster, generator)
            triples = torch.stack([new, rel_type, known], dim=1)
            # One triple has its unseen entity as tail, and one joins two of them.
            ends = torch.tensor([[1, 0, self.held_out[0]], [self.held_out[1], 1, self.held_out[2]]])
            splits['inductive_test'] = torch.cat([triples, ends])
        return splits

    @staticmethod
    def _tails(head_index: Tensor, rel_type: Tensor, num_ordinary: int, cluster: Tensor,
               generator: torch.Generator) -> Tensor:
        # Entity i is in cluster i mod 4, so a member of a cluster is 4 * any + cluster.
        target = (cluster[head_index] + rel_type + 1) % NUM_CLUSTERS
        size = num_ordinary // NUM_CLUSTERS
        draw = torch.randint(size, head_index.shape, generator=generator)
        return draw * NUM_CLUSTERS + target

    def _modalities(self, channels: Mapping[str, int], coverage: float, cluster: Tensor,
                    generator: torch.Generator) -> Dict[str, Tuple[Tensor, Tensor]]:
        out = {}
        first, second = self.twins
        for name in sorted(channels):
            mean = torch.randn(NUM_CLUSTERS, channels[name], generator=generator)
            noise = torch.randn(cluster.numel(), channels[name], generator=generator)
            x = mean[cluster] + 0.3 * noise  # [num_entities, channels]
            mask = torch.rand(cluster.numel(), generator=generator) < coverage
            mask[[first, second, self.isolated_entity, *self.held_out]] = True
            mask[self.bare_entity] = False
            x[second] = x[first]
            out[name] = (x, mask)
        return out
