"""What is counted on each published benchmark, by plain sets."""
from types import SimpleNamespace

import pytest

from pyg_mmkgc.data import get_triples, is_spent


@pytest.fixture(scope='session')
def benchmark_facts():
    def count(cls, root, mirror, splits='official'):
        dataset = cls(root, features=None, mirror=mirror, splits=splits)
        data = dataset[0]
        lines = {split: list(zip(*(part.tolist() for part in get_triples(data, split)),
                                 strict=True)) for split in dataset.split_names}
        sets = {split: set(triples) for split, triples in lines.items()}
        seen = {entity for h, _, t in sets['train'] for entity in (h, t)}
        seen_relations = {relation for _, relation, _ in sets['train']}
        return SimpleNamespace(
            data=data,
            sets=sets,
            sizes=(dataset.num_entities, dataset.num_relations),
            lines={split: len(triples) for split, triples in lines.items()},
            distinct={split: len(triples) for split, triples in sets.items()},
            in_train={split: len(sets[split] & sets['train']) for split in ('val', 'test')},
            in_val_and_test=len(sets['val'] & sets['test']),
            unseen={split: sum(h not in seen or t not in seen for h, _, t in lines[split])
                    for split in ('val', 'test')},
            unseen_relations=sorted(set(range(dataset.num_relations)) - seen_relations),
            spent=[split for split in ('val', 'test') if is_spent(data, split)],
        )

    return count


@pytest.fixture
def write(tmp_path):
    def _write(content, name='file.txt'):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return _write
