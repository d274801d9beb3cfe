r"""Splits: the published ones cleaned, and new ones by ratio or by entity.

All triples are tensors ``[T, 3]`` in columns head, relation, tail. What is drawn depends on the
seed alone, not on the machine.
"""
from typing import Dict, Mapping, Sequence, Tuple

import torch
from torch import Tensor

from pyg_mmkgc.data.triples import MAX_KEY

#: The official validation is spent where cleaning leaves less than this share of it.
SPENT = 0.5
#: The largest share of train that is drawn to fill up a spent validation.
MAX_DRAWN = 0.1


def clean_splits(splits: Mapping[str, Tensor], seed: int = 0) -> Dict[str, Tensor]:
    r"""Splits without repeats, such that no triple stands in two of them.

    1. Each split keeps the first occurrence of each of its triples, in the order of the file.
    2. ``'test'`` stays as published otherwise, so that clean figures can be read beside
       published ones. Splits other than ``'train'`` and ``'val'`` lose what stands in ``'test'``
       or in a split named before them.
    3. ``'train'`` loses what stands in one of these.
    4. ``'val'`` loses what stands in one of these or in what is left of ``'train'``. If less than
       half of its distinct triples are left, the published validation is *spent*: what is left
       of it stays, and it is filled up by a seeded draw from ``'train'`` to its distinct
       published size or 10 % of ``'train'``, whichever is smaller. Drawn triples leave
       ``'train'`` and stand behind the others, in their order there. The draw takes no entity
       and no relation out of ``'train'``, so it may come out smaller in a sparse graph.

    A triple that says the same through an inverse or a duplicate relation is another triple and
    stays; :func:`~pyg_mmkgc.data.audit` reports it. Nor do entities of ``'test'`` come back that
    train has lost (step 3) or never had.

    Args:
        splits (Mapping[str, torch.Tensor]): The triples ``[T, 3]`` of ``'train'`` and of any
            further split.
        seed (int, optional): The seed of the draw. (default: :obj:`0`)

    Returns:
        Dict[str, torch.Tensor]: The same splits in the same order.

    Raises:
        ValueError: If there is no ``'train'``, triples are malformed, or nothing is left of
            ``'train'`` or ``'val'``.
    """
    if 'train' not in splits:
        raise ValueError(f"'splits' has no 'train' (got {sorted(splits)})")
    out = {name: _check_triples(f'split {name!r}', triples) for name, triples in splits.items()}
    keys = dict(zip(out, _triple_keys(list(out.values())), strict=True))
    for name in out:
        first = _first_occurrences(keys[name])
        out[name], keys[name] = out[name][first], keys[name][first]
    num_val = out['val'].size(0) if 'val' in out else 0

    taken = torch.empty(0, dtype=torch.long)
    others = [name for name in out if name not in ('test', 'train', 'val')]
    for name in (*(['test'] if 'test' in out else []), *others, 'train',
                 *(['val'] if 'val' in out else [])):
        free = ~torch.isin(keys[name], taken)
        out[name], keys[name] = out[name][free], keys[name][free]
        taken = torch.cat([taken, keys[name]])
    if out['train'].size(0) == 0:
        raise ValueError("nothing is left of 'train': each of its triples stands in another split")

    if 'val' in out and out['val'].size(0) < SPENT * num_val:
        train = out['train']
        wanted = min(num_val, int(MAX_DRAWN * train.size(0))) - out['val'].size(0)
        drawn = spare_triples(train, seed)[:max(wanted, 0)].sort().values
        out['val'] = torch.cat([out['val'], train[drawn]])
        if out['val'].size(0) == 0:
            raise ValueError(f"nothing is left of 'val': each of its triples stands in another "
                             f"split, and none of the {train.size(0)} triples of 'train' can be "
                             f'spared')
        out['train'] = train[_complement(drawn, train.size(0))]
    return out


def split_triples(triples: Tensor, ratios: Sequence[float] = (0.8, 0.1, 0.1),
                  seed: int = 0) -> Dict[str, Tensor]:
    r"""A random split in which every entity and every relation occurs in ``'train'``.

    Repeats are dropped first. In a seeded order, the first triple of each entity and of each
    relation is kept for training, as far as no other such triple does the same, and the others
    fill ``'val'`` and ``'test'``. So triples of rare entities are rarer there than by chance.

    Args:
        triples (torch.Tensor): The triples ``[T, 3]``.
        ratios (Sequence[float], optional): The shares of ``'train'``, ``'val'`` and ``'test'``
            in the distinct triples, positive, of sum 1. (default: :obj:`(0.8, 0.1, 0.1)`)
        seed (int, optional): The seed. (default: :obj:`0`)

    Returns:
        Dict[str, torch.Tensor]: ``'train'``, ``'val'`` and ``'test'``, each in the order of
        :obj:`triples`.

    Raises:
        ValueError: If the ratios or the triples are malformed, or there are too few triples.
    """
    ratios = tuple(ratios)
    if len(ratios) != 3 or not all(0 < ratio < 1 for ratio in ratios) or \
            abs(sum(ratios) - 1) > 1e-6:
        raise ValueError(f"'ratios' needs to be three positive numbers of sum 1 (got {ratios})")
    triples = _distinct(triples)
    num_triples = triples.size(0)
    num_val, num_test = (round(ratio * num_triples) for ratio in ratios[1:])
    if num_val == 0 or num_test == 0:
        raise ValueError(f"{num_triples} distinct triples are too few for 'ratios' {ratios} "
                         f"(got {num_val} for 'val', {num_test} for 'test')")
    spare = spare_triples(triples, seed)
    if spare.numel() < num_val + num_test:
        raise ValueError(f"only {spare.numel()} of {num_triples} distinct triples can leave "
                         f"'train' such that it keeps every entity and relation "
                         f"(expected {num_val + num_test} for 'ratios' {ratios})")
    val, test = spare[:num_val + num_test].split([num_val, num_test])
    return {
        'train': triples[_complement(torch.cat([val, test]), num_triples)],
        'val': triples[val.sort().values],
        'test': triples[test.sort().values],
    }


def split_entities(triples: Tensor, ratio: float = 0.05,
                   ratios: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0) -> Dict[str, Tensor]:
    r"""An inductive split: some entities are held out, and training never mentions them.

    All triples of a held-out entity go to ``'inductive_test'``, those between two held-out
    entities too, so that no triple is lost and none of theirs is trained on. All others are split
    as by :func:`split_triples`, and every other entity and every relation occurs in ``'train'``.
    Therefore only such entities are held out that no other depends on; hubs rarely are.

    Args:
        triples (torch.Tensor): The triples ``[T, 3]``; repeats are dropped.
        ratio (float, optional): The share of the entities that is held out.
            (default: :obj:`0.05`)
        ratios (Sequence[float], optional): The shares of ``'train'``, ``'val'`` and ``'test'``
            in the other triples. (default: :obj:`(0.8, 0.1, 0.1)`)
        seed (int, optional): The seed. (default: :obj:`0`)

    Returns:
        Dict[str, torch.Tensor]: ``'train'``, ``'val'``, ``'test'`` and ``'inductive_test'``,
        each in the order of :obj:`triples`.

    Raises:
        ValueError: If an argument is malformed, or there are too few triples or entities.
    """
    if not 0 < ratio < 1:
        raise ValueError(f"'ratio' needs to be between 0 and 1 (got {ratio})")
    triples = _distinct(triples)
    head_index, rel_type, tail_index = triples.unbind(1)
    entities = torch.unique(triples[:, [0, 2]])
    num_held = round(ratio * entities.numel())
    if num_held == 0:
        raise ValueError(f"{entities.numel()} entities are too few for 'ratio' {ratio}")

    # Early ranks are held out first. No entity is that has the latest rank among the neighbours
    # of another: so each that stays keeps a triple with one that stays.
    num_entities = int(entities[-1]) + 1
    rank = torch.randperm(num_entities, generator=torch.Generator().manual_seed(seed))
    latest = torch.full((num_entities, ), -1)
    latest.scatter_reduce_(0, head_index, rank[tail_index], 'amax')
    latest.scatter_reduce_(0, tail_index, rank[head_index], 'amax')
    latest = latest[entities]
    by_rank = rank.argsort()
    allowed = torch.zeros(num_entities, dtype=torch.bool)
    allowed[entities] = True
    allowed[by_rank[latest[latest != rank[entities]]]] = False
    # For each relation, the triple whose ends have the latest ranks stays, too.
    first_rank = torch.minimum(rank[head_index], rank[tail_index])
    latest = torch.full((int(rel_type.max()) + 1, ), -1).scatter_reduce(
        0, rel_type, first_rank, 'amax')
    kept = triples[first_rank == latest[rel_type]]
    allowed[kept[:, [0, 2]]] = False

    candidates = by_rank[allowed[by_rank]]
    if candidates.numel() < num_held:
        raise ValueError(f'only {candidates.numel()} of {entities.numel()} entities can be held '
                         f"out such that 'train' keeps every other entity and every relation "
                         f"(expected {num_held} for 'ratio' {ratio})")
    held = torch.zeros(num_entities, dtype=torch.bool)
    held[candidates[:num_held]] = True
    inductive = held[head_index] | held[tail_index]
    out = split_triples(triples[~inductive], ratios, seed)
    out['inductive_test'] = triples[inductive]
    return out


def _check_triples(what: str, triples: Tensor) -> Tensor:
    if triples.dim() != 2 or triples.size(1) != 3:
        raise ValueError(f'{what} needs triples of shape [T, 3] (got {list(triples.shape)})')
    if triples.is_floating_point() or triples.is_complex() or triples.dtype == torch.bool:
        raise ValueError(f'{what} needs integers (got {triples.dtype})')
    if triples.numel() > 0 and int(triples.min()) < 0:
        row = int((triples < 0).any(dim=1).nonzero()[0, 0])
        raise ValueError(f'{what} has a negative id in row {row} (got {triples[row].tolist()})')
    return triples.long().cpu()


def _distinct(triples: Tensor) -> Tensor:
    triples = _check_triples("'triples'", triples)
    if triples.size(0) == 0:
        raise ValueError("'triples' is empty")
    key, = _triple_keys([triples])
    return triples[_first_occurrences(key)]


def _triple_keys(parts: Sequence[Tensor]) -> Tuple[Tensor, ...]:
    # One number for each triple, the same in all parts.
    sizes = [part.amax(dim=0) + 1 for part in parts if part.numel() > 0]
    num_heads, num_relations, num_tails = (
        torch.stack(sizes).amax(dim=0).tolist() if sizes else (1, 1, 1))
    if num_heads * num_relations * num_tails > MAX_KEY:
        raise ValueError(f'ids up to {max(num_heads, num_tails) - 1} of entities and '
                         f'{num_relations - 1} of relations do not fit into 64-bit triple keys')
    return tuple((part[:, 1] * num_heads + part[:, 0]) * num_tails + part[:, 2] for part in parts)


def _first_occurrences(key: Tensor) -> Tensor:
    # The positions at which a value occurs for the first time, ascending.
    value, position = key.sort(stable=True)
    first = torch.ones_like(value, dtype=torch.bool)
    first[1:] = value[1:] != value[:-1]
    return position[first].sort().values


def spare_triples(triples: Tensor, seed: int) -> Tensor:
    r"""Positions of triples ``[T, 3]`` that may all leave together, and each entity and relation
    still has one that stays; in random order."""
    order = torch.randperm(triples.size(0), generator=torch.Generator().manual_seed(seed))
    # The first triple of anything stays; read backwards, some of these prove needless.
    needed = order[_holds_first(triples[order])].flip(0)
    needed = needed[_holds_first(triples[needed])]
    spare = torch.ones(triples.size(0), dtype=torch.bool)
    spare[needed] = False
    return order[spare[order]]


def _holds_first(triples: Tensor) -> Tensor:
    # Which triples are the first of their head, relation or tail.
    head_index, rel_type, tail_index = triples.unbind(1)
    num_triples = triples.size(0)
    position = torch.arange(num_triples)
    out = torch.zeros(num_triples + 1, dtype=torch.bool)
    for index, where in [(torch.cat([head_index, tail_index]), position.repeat(2)),
                         (rel_type, position)]:
        first = torch.full((int(index.max()) + 1, ), num_triples)
        out[first.scatter_reduce_(0, index, where, 'amin')] = True
    return out[:-1]  # The last belongs to ids that do not occur.


def _complement(index: Tensor, size: int) -> Tensor:
    mask = torch.ones(size, dtype=torch.bool)
    mask[index] = False
    return mask.nonzero().view(-1)
