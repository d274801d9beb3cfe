r"""Mini-batches of triples that never leave the device."""
import math
from typing import Dict, Iterator, Optional, Tuple, Union

import torch
from torch import Tensor

from pyg_mmkgc.data.triples import check_ids


class TripleLoader:
    r"""Iterate over triples in mini-batches, on the device where the triples live.

    An epoch is one permutation and slices of it; no worker, no collation, no host synchronisation.
    With :obj:`inverse`, an epoch holds each triple :math:`(h, r, t)` and its inverse
    :math:`(t, r + R, h)`, so that replacing tails alone corrupts both ends.

    :meth:`state_dict` may be taken at any point of an epoch, inside the loop body too; batches that
    were handed out count as done. After :meth:`load_state_dict` the next :obj:`for` goes on
    behind them and ends with the epoch. Without that, each :obj:`for` starts a new epoch. Only
    one iterator may run at a time.

    Args:
        head_index (torch.Tensor): Heads :math:`(T)`.
        rel_type (torch.Tensor): Relations :math:`(T)`.
        tail_index (torch.Tensor): Tails :math:`(T)`.
        batch_size (int): Triples per batch, inverse ones counted.
        shuffle (bool, optional): Whether each epoch has a new order. (default: :obj:`True`)
        num_relations (int, optional): The number of original relations :math:`R`; needed for
            inverses. (default: :obj:`None`)
        inverse (bool, optional): Whether to add inverse triples. (default: :obj:`True`)
        drop_last (bool, optional): Whether to leave out a last batch that is not full.
            (default: :obj:`False`)
        generator (torch.Generator, optional): The source of the order. One on CPU gives the
            same order on every device. (default: :obj:`None`, an own one on CPU, seeded from
            torch's)
        device (torch.device, optional): Where to keep the triples. (default: where they are)

    Raises:
        ValueError: If shapes differ, there are no triples, a size is not positive, relations are
            out of range, or :obj:`inverse` has no :obj:`num_relations`.
    """
    def __init__(self, head_index: Tensor, rel_type: Tensor, tail_index: Tensor, batch_size: int,
                 shuffle: bool = True, num_relations: Optional[int] = None, inverse: bool = True,
                 drop_last: bool = False, generator: Optional[torch.Generator] = None,
                 device: Union[torch.device, str, None] = None):
        sizes = [list(index.size()) for index in (head_index, rel_type, tail_index)]
        if head_index.dim() != 1 or sizes[0] != sizes[1] or sizes[0] != sizes[2]:
            raise ValueError(f"'head_index', 'rel_type' and 'tail_index' need one and the same "
                             f'shape [T] (got {sizes[0]}, {sizes[1]} and {sizes[2]})')
        if head_index.numel() == 0:
            raise ValueError('There are no triples to load')
        if batch_size < 1:
            raise ValueError(f"'batch_size' needs to be positive (got {batch_size})")
        triples = torch.stack([head_index, rel_type, tail_index]).long().to(device)
        if inverse:
            if num_relations is None:
                raise ValueError("'inverse' needs 'num_relations': the inverse of relation r is "
                                 'r + num_relations')
            check_ids('rel_type', rel_type, num_relations)
            head_index, rel_type, tail_index = triples
            triples = torch.cat([
                triples,
                torch.stack([tail_index, rel_type + num_relations, head_index]),
            ], dim=1)
        self.triples = triples  # [3, T] or [3, 2 * T]
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.inverse = inverse
        self.drop_last = drop_last
        if generator is None:
            generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        self.generator = generator
        #: The number of epochs that were finished.
        self.epoch = 0
        self._order = triples.new_empty(0)  # Between epochs there is none.
        self._position = 0
        self._resumed = False

    @property
    def num_triples(self) -> int:
        r"""The number of triples in an epoch, inverse ones included."""
        return self.triples.size(1)

    def __len__(self) -> int:
        if self.drop_last:
            return self.num_triples // self.batch_size
        return math.ceil(self.num_triples / self.batch_size)

    def __iter__(self) -> Iterator[Tuple[Tensor, Tensor, Tensor]]:
        if not self._resumed:
            self._order = self._new_order()
            self._position = 0
        self._resumed = False
        while self._position < len(self):
            start = self._position * self.batch_size
            self._position += 1  # Before the batch goes out: a state taken now is behind it.
            index = self._order[start:start + self.batch_size]
            head_index, rel_type, tail_index = self.triples[:, index].unbind(0)
            yield head_index, rel_type, tail_index
        self._order = self.triples.new_empty(0)
        self._position = 0
        self.epoch += 1

    def _new_order(self) -> Tensor:
        if not self.shuffle:
            return torch.arange(self.num_triples, device=self.triples.device)
        order = torch.randperm(self.num_triples, generator=self.generator,
                               device=self.generator.device)
        return order.to(self.triples.device)

    def state_dict(self) -> Dict[str, Tensor]:
        r"""Epoch, position, the order of an epoch under way, and the generator, as tensors."""
        return {
            'epoch': torch.tensor(self.epoch),
            'position': torch.tensor(self._position),
            'order': self._order.cpu().clone(),
            'generator': self.generator.get_state(),
        }

    def load_state_dict(self, state: Dict[str, Tensor]) -> None:
        r"""Go on where :meth:`state_dict` was taken.

        Raises:
            ValueError: If the state is of a loader with other triples or another batch size.
        """
        expected = {'epoch', 'position', 'order', 'generator'}
        if state.keys() != expected:
            raise ValueError(f'The state of {self.__class__.__name__} holds {sorted(state)} '
                             f'(expected {sorted(expected)})')
        order, position = state['order'], int(state['position'])
        if order.numel() not in (0, self.num_triples):
            raise ValueError(f'The state orders {order.numel()} triples, but this '
                             f'{self.__class__.__name__} has {self.num_triples}')
        if position > len(self):
            raise ValueError(f'The state stands at batch {position}, but this '
                             f'{self.__class__.__name__} has {len(self)}')
        self.epoch = int(state['epoch'])
        self._position = position
        self._resumed = order.numel() > 0
        self._order = order.to(self.triples.device)
        self.generator.set_state(state['generator'].cpu())

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.num_triples}, batch_size={self.batch_size}, '
                f'inverse={self.inverse})')
