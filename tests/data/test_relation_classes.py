import torch

from pyg_mmkgc.data import build_data, relation_classes


def test_relation_classes_by_hand():
    triples = [
        (0, 0, 1), (2, 0, 3),  # 1-1
        (0, 1, 1), (0, 1, 2),  # 1-N
        (1, 2, 0), (2, 2, 0),  # N-1
        (0, 3, 2), (0, 3, 3), (1, 3, 2), (1, 3, 3),  # N-N
        (0, 4, 1), (0, 4, 2), (3, 4, 5),  # 1.5 tails per head is still "1".
        (0, 4, 1), (0, 4, 1),
        (1, 5, 0), (2, 5, 0), (5, 5, 3),  # 1.5 heads per tail too.
    ]
    data = build_data({'train': torch.tensor(triples)}, list('uvwxyz'), list('abcdefg'))
    assert relation_classes(data).tolist() == [0, 1, 2, 3, 0, 0, 4]
