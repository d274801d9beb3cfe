r"""The known-triple index: what is true, asked for in bulk and without Python loops."""
from typing import Tuple, Union

import torch
from torch import Tensor

#: Largest triple key that fits into an ``int64``.
MAX_KEY = 2**63 - 1


class TripleIndex:
    r"""An immutable set of triples with constant-memory look-ups.

    Triples and their inverses are kept as sorted unique 64-bit keys

    .. math::
        \mathrm{key}(h, r, t) = (r \cdot N + h) \cdot N + t, \qquad 0 \le r < 2R,

    where relation :math:`r + R` is the inverse of :math:`r`. Since keys sort by
    query :math:`(r, h)` first, the same array is the CSR of all answers.

    Args:
        head_index (torch.Tensor): Head ids, :math:`(T)`.
        rel_type (torch.Tensor): Relation ids below :obj:`num_relations`, :math:`(T)`.
        tail_index (torch.Tensor): Tail ids, :math:`(T)`.
        num_entities (int): The number of entities :math:`N`.
        num_relations (int): The number of original relations :math:`R`.

    Raises:
        ValueError: If an id is out of range, lengths differ or :math:`2RN^2` exceeds 64 bits.
    """
    def __init__(self, head_index: Tensor, rel_type: Tensor, tail_index: Tensor,
                 num_entities: int, num_relations: int):
        if 2 * num_relations * num_entities**2 > MAX_KEY:
            raise ValueError(f'{num_entities} entities and {num_relations} relations do not fit '
                             f'into 64-bit triple keys')
        if not head_index.shape == rel_type.shape == tail_index.shape:
            raise ValueError(f"'head_index', 'rel_type' and 'tail_index' need one length (got "
                             f'{list(head_index.shape)}, {list(rel_type.shape)} and '
                             f'{list(tail_index.shape)})')
        check_ids('head_index', head_index, num_entities)
        check_ids('rel_type', rel_type, num_relations)
        check_ids('tail_index', tail_index, num_entities)
        self.num_entities = num_entities
        self.num_relations = num_relations

        keys = torch.cat([
            self._key(head_index, rel_type, tail_index),
            self._key(tail_index, rel_type + num_relations, head_index),
        ])
        self.keys = torch.unique(keys)  # Sorted, [num_unique].

    def _key(self, head_index: Tensor, rel_type: Tensor, tail_index: Tensor) -> Tensor:
        head_index, rel_type = head_index.long(), rel_type.long()
        return (rel_type * self.num_entities + head_index) * self.num_entities + tail_index

    def contains(self, head_index: Tensor, rel_type: Tensor, tail_index: Tensor) -> Tensor:
        r"""Which of the given triples (broadcast against each other) are known.

        Inverse relations :math:`r + R` are understood. Needs no host synchronisation.
        """
        key = self._key(head_index, rel_type, tail_index)
        if self.keys.numel() == 0:
            return torch.zeros_like(key, dtype=torch.bool)
        pos = torch.searchsorted(self.keys, key).clamp_(max=self.keys.numel() - 1)
        return self.keys[pos] == key

    def bounds(self, head_index: Tensor, rel_type: Tensor) -> Tuple[Tensor, Tensor]:
        r"""First and one-past-last position in :attr:`keys` of the answers of each query."""
        first = self._key(head_index, rel_type, torch.zeros_like(head_index))
        return (torch.searchsorted(self.keys, first),
                torch.searchsorted(self.keys, first + self.num_entities))

    def answers(self, head_index: Tensor, rel_type: Tensor) -> Tuple[Tensor, Tensor]:
        r"""All known answers of each query :math:`(h, r, ?)` of a batch.

        Synchronises with the host once (the number of answers), so it belongs into the
        loader or the evaluation, not into a training step.

        Returns:
            (torch.Tensor, torch.Tensor): The row in the batch and the entity of each
            answer, both of the total number of answers, ordered by row.
        """
        start, stop = self.bounds(head_index, rel_type)
        count = stop - start
        row = torch.repeat_interleave(torch.arange(count.numel(), device=count.device), count)
        offset = count.cumsum(0) - count
        position = torch.arange(row.numel(), device=row.device) - offset[row] + start[row]
        return row, self.keys[position] % self.num_entities

    def queries(self) -> Tuple[Tensor, Tensor]:
        r"""The distinct queries :math:`(h, r)`, inverse ones included, as heads and relations."""
        query = torch.unique_consecutive(self.keys // self.num_entities)
        return query % self.num_entities, query // self.num_entities

    def to(self, device: Union[torch.device, str]) -> 'TripleIndex':
        r"""A copy of this index on another device."""
        out = object.__new__(TripleIndex)
        out.num_entities, out.num_relations = self.num_entities, self.num_relations
        out.keys = self.keys.to(device)
        return out

    def __len__(self) -> int:
        return self.keys.numel() // 2

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({len(self)}, num_entities={self.num_entities}, '
                f'num_relations={self.num_relations})')


def check_ids(name: str, index: Tensor, size: int) -> None:
    r"""Raise a :class:`ValueError` that names the first id outside :math:`[0, size)`."""
    if index.numel() == 0:
        return
    bad = (index < 0) | (index >= size)
    if bool(bad.any()):
        position = int(bad.nonzero()[0, 0])
        raise ValueError(f'{name!r} holds id {int(index[position])} at position {position} '
                         f'(expected 0 to {size - 1})')
