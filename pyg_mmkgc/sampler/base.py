r"""What all negative samplers share: drawing, filtering, both ends, state."""
from typing import Dict, Literal, Optional, Tuple, Union

import torch
from torch import Tensor
from torch.utils.data import get_worker_info
from torch_geometric.sampler import NegativeSampling

from pyg_mmkgc.data.share import rand_rows
from pyg_mmkgc.data.triples import TripleIndex, check_ids

Endpoint = Literal['src', 'dst']


class TripleNegativeSampling(NegativeSampling):
    r"""Negative sampling that knows triples, and still is PyG's :class:`NegativeSampling`.

    It has two doors. :meth:`sample` is the one that PyG's loaders call, with neither relation nor
    positive. :meth:`corrupt` replaces one end of each triple of a batch, on the device of the
    batch, without a host synchronisation, and never by the entity that stands there. In

    .. code-block:: python

        neg_index, mask = sampler.corrupt(head_index, rel_type, tail_index)
        score = model.score(head_index, rel_type, neg_index)            # [B, num_negatives]
        weight = sampler.weight(score, mask)                            # 0 where masked
        loss = positive_loss + (weight * softplus(score)).sum() / mask.sum().clamp(min=1)
        sampler.update(neg_index, score, mask)

    the scores of positive triples go in nowhere. Asking for tails of the inverse query
    :math:`(t, r + R, ?)` corrupts heads; :obj:`endpoint='src'` does so directly.

    This class draws every candidate other than the original with the same probability and
    weights all negatives alike; subclasses override :meth:`_draw`, :meth:`weight`,
    :meth:`update` and :meth:`side`.

    Args:
        num_entities (int): The number of entities :math:`N`.
        num_negatives (int, optional): Negatives per triple in :meth:`corrupt`.
            (default: :obj:`64`)
        mode (str, optional): PyG's mode, :obj:`"triplet"` or :obj:`"binary"`; only PyG's loaders
            look at it. (default: :obj:`"triplet"`)
        amount (int or float, optional): PyG's number of negatives per positive link; only PyG's
            loaders look at it. (default: :obj:`1`)
        known (TripleIndex, optional): Triples that are true; a negative among them gets
            :obj:`mask` False. Give it training triples only, or the training sees the
            answers of the test. (default: :obj:`None`, no filter)
        candidates (torch.Tensor, optional): The entities that may be drawn, as boolean
            :math:`(N)` or as ids, e.g. :func:`pyg_mmkgc.data.seen_entities`, so that an
            entity kept for an inductive test is not trained on as a negative.
            (default: :obj:`None`, all)
        generator (torch.Generator, optional): The source of randomness; needs to live on
            the device of the triples. In a worker process of a loader the worker's own seeded
            generator is used instead, since copies of one generator would draw the same in each.
            (default: :obj:`None`, torch's own)

    Raises:
        ValueError: If a size, :obj:`known` or :obj:`candidates` do not fit.
    """
    #: Names of the tensors that are moved, shared and saved.
    _state: Tuple[str, ...] = ()

    # A sampler has state, so only identity makes two of them equal (PyG's dataclass compares
    # fields, which is ambiguous for tensors, and thereby takes the hash away).
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __init__(self, num_entities: int, num_negatives: int = 64, *,
                 mode: str = 'triplet', amount: Union[int, float] = 1,
                 known: Optional[TripleIndex] = None, candidates: Optional[Tensor] = None,
                 generator: Optional[torch.Generator] = None):
        super().__init__(mode, amount)
        if num_entities < 2:
            raise ValueError(f"'num_entities' needs to be at least 2, so that there is something "
                             f"to replace an entity by (got {num_entities})")
        if num_negatives < 1:
            raise ValueError(f"'num_negatives' needs to be positive (got {num_negatives})")
        if known is not None and known.num_entities != num_entities:
            raise ValueError(f"'known' holds triples of {known.num_entities} entities "
                             f"(expected {num_entities})")
        self.num_entities = num_entities
        self.num_negatives = num_negatives
        self.known = known
        self.candidates = _candidate_ids(candidates, num_entities)
        self.generator = generator

    @property
    def num_candidates(self) -> int:
        r"""The number of entities that can be drawn."""
        return self.num_entities if self.candidates is None else self.candidates.numel()

    # Drawing #################################################################

    def sample(self, num_samples: int, endpoint: Endpoint,
               num_nodes: Optional[int] = None) -> Tensor:
        r"""Draw entities for PyG's loaders, with no triple in view.

        PyG's samplers run on the host, so the result is on CPU, wherever the state lives.

        Args:
            num_samples (int): How many to draw.
            endpoint (str): :obj:`"src"` or :obj:`"dst"`; both ends draw alike.
            num_nodes (int, optional): The number of nodes as the caller knows it.

        Raises:
            ValueError: If :obj:`num_nodes` is not the number of entities.
        """
        _check_endpoint(endpoint)
        if num_nodes is not None and num_nodes != self.num_entities:
            raise ValueError(f"'num_nodes' is {num_nodes}, but this "
                             f'{self.__class__.__name__} was made for {self.num_entities} entities')
        return self._draw((num_samples, ), self._device()).cpu()

    def corrupt(self, head_index: Tensor, rel_type: Tensor, tail_index: Tensor,
                endpoint: Endpoint = 'dst') -> Tuple[Tensor, Tensor]:
        r"""Draw replacements for the tail (or the head) of each triple.

        Args:
            head_index (torch.Tensor): Heads :math:`(B)`.
            rel_type (torch.Tensor): Relations :math:`(B)`, inverse ones :math:`r + R` included.
            tail_index (torch.Tensor): Tails :math:`(B)`.
            endpoint (str, optional): :obj:`"dst"` replaces tails, :obj:`"src"` heads.
                (default: :obj:`"dst"`)

        Returns:
            (torch.Tensor, torch.Tensor): Entities :math:`(B, n)`, and a mask :math:`(B, n)` that is
            False where the negative is a known triple and must not enter the loss.
        """
        _check_endpoint(endpoint)
        self._check_triples(head_index, rel_type, tail_index)
        size = (head_index.numel(), self.num_negatives)
        original = tail_index if endpoint == 'dst' else head_index
        neg_index = self._draw(size, original.device, original.unsqueeze(-1))  # [B, n]
        if endpoint == 'dst':
            mask = self._mask(head_index.unsqueeze(-1), rel_type.unsqueeze(-1), neg_index)
        else:
            mask = self._mask(neg_index, rel_type.unsqueeze(-1), tail_index.unsqueeze(-1))
        return neg_index, mask

    def corrupt_triples(self, head_index: Tensor, rel_type: Tensor,
                        tail_index: Tensor) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
        r"""Replace one end of each triple, the one that :meth:`side` chooses.

        All negatives of a triple replace the same end.

        Returns:
            (torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor): Heads, relations, tails and
            mask of the negatives, each :math:`(B, n)`.
        """
        self._check_triples(head_index, rel_type, tail_index)
        size = (head_index.numel(), self.num_negatives)
        replace_head = self.side(rel_type).unsqueeze(-1)
        head_index, tail_index = head_index.unsqueeze(-1), tail_index.unsqueeze(-1)
        original = torch.where(replace_head, head_index, tail_index)
        neg_index = self._draw(size, original.device, original)
        head_index = torch.where(replace_head, neg_index, head_index)  # [B, n]
        tail_index = torch.where(replace_head, tail_index, neg_index)
        rel_type = rel_type.unsqueeze(-1).expand(size)
        return head_index, rel_type, tail_index, self._mask(head_index, rel_type, tail_index)

    def side(self, rel_type: Tensor) -> Tensor:
        r"""Draw the end to replace for triples of these relations: True is the head.

        Both ends have probability one half here.
        """
        u = rand_rows(rel_type.size(), generator=self._rng(rel_type.device),
                      device=rel_type.device)
        return u < 0.5

    def _draw(self, size: Tuple[int, ...], device: torch.device,
              original: Optional[Tensor] = None) -> Tensor:
        r"""Entities of shape :obj:`size`, other than :obj:`original` (broadcast against it)."""
        u = rand_rows(size, dtype=torch.float64, generator=self._rng(device), device=device)
        # `u < 1` times an integer below 2^53 never rounds up to that integer.
        if original is None:
            draw = (u * self.num_candidates).long()
            return draw if self.candidates is None else self.candidates[draw]
        # Leave one place out, draw among the others, and shift what lies behind it by one.
        if self.candidates is None:
            draw = (u * (self.num_entities - 1)).long()
            return draw + (draw >= original).long()
        position = torch.searchsorted(self.candidates, original)
        found = self.candidates[position.clamp(max=self.num_candidates - 1)] == original
        draw = (u * (self.num_candidates - found.long())).long()
        return self.candidates[draw + (found & (draw >= position)).long()]

    def _mask(self, head_index: Tensor, rel_type: Tensor, tail_index: Tensor) -> Tensor:
        if self.known is not None:
            return ~self.known.contains(head_index, rel_type, tail_index)
        size = torch.broadcast_shapes(head_index.size(), tail_index.size())
        return torch.ones(size, dtype=torch.bool, device=head_index.device)

    # Training ################################################################

    def weight(self, score: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        r"""The weight of each negative in the loss: one, and zero where masked.

        Args:
            score (torch.Tensor): Scores (logits) of the negatives :math:`(B, n)`.
            mask (torch.Tensor, optional): The mask of :meth:`corrupt`.

        Returns:
            torch.Tensor: Weights :math:`(B, n)` without gradient, at least in single precision.
        """
        weight = torch.ones_like(_detach(score))
        return weight if mask is None else weight * mask

    def update(self, neg_index: Tensor, score: Tensor, mask: Optional[Tensor] = None) -> None:
        r"""Take the scores of a batch's negatives into the statistics; here there are none.

        Args:
            neg_index (torch.Tensor): The negatives :math:`(B, n)`.
            score (torch.Tensor): Their scores (logits) :math:`(B, n)`.
            mask (torch.Tensor, optional): The mask of :meth:`corrupt`.
        """

    # State ###################################################################

    def to(self, device: Union[torch.device, str]) -> 'TripleNegativeSampling':
        r"""Move all tensors in place; a generator cannot move and has to be made there."""
        for name in self._state:
            setattr(self, name, getattr(self, name).to(device))
        if self.candidates is not None:
            self.candidates = self.candidates.to(device)
        if self.known is not None:
            self.known = self.known.to(device)
        return self

    def share_memory_(self) -> 'TripleNegativeSampling':
        r"""Put the statistics into shared memory, so that workers of a loader see each update.

        A worker that draws while the statistics are being rewritten may see some of both.
        """
        for name in self._state:
            getattr(self, name).share_memory_()
        return self

    def state_dict(self) -> Dict[str, Tensor]:
        r"""All state as a dictionary of tensors, with that of the generator if there is one."""
        out = {name: getattr(self, name).detach().clone() for name in self._state}
        if self.generator is not None:
            out['generator'] = self.generator.get_state()
        return out

    def load_state_dict(self, state: Dict[str, Tensor]) -> None:
        r"""Restore :meth:`state_dict`; draws go on as they would have.

        Raises:
            ValueError: If names or shapes do not match.
        """
        expected = self.state_dict()
        if state.keys() != expected.keys():
            raise ValueError(f'The state of {self.__class__.__name__} holds {sorted(state)} '
                             f'(expected {sorted(expected)})')
        for name in self._state:
            if state[name].size() != expected[name].size():
                raise ValueError(f'{name!r} in the state of {self.__class__.__name__} has shape '
                                 f'{list(state[name].size())} '
                                 f'(expected {list(expected[name].size())})')
        for name in self._state:
            getattr(self, name).copy_(state[name])  # In place: it may be shared with workers.
        if self.generator is not None:
            self.generator.set_state(state['generator'].cpu())

    # Helpers #################################################################

    def _device(self) -> torch.device:
        return torch.device('cpu') if self.generator is None else self.generator.device

    def _rng(self, device: torch.device) -> Optional[torch.Generator]:
        if self.generator is None or get_worker_info() is not None:
            return None
        if self.generator.device.type != device.type:
            raise ValueError(f"'generator' lives on {str(self.generator.device)!r} and cannot draw "
                             f'on {str(device)!r}, where the triples are')
        return self.generator

    def _check_triples(self, head_index: Tensor, rel_type: Tensor, tail_index: Tensor) -> None:
        sizes = [list(index.size()) for index in (head_index, rel_type, tail_index)]
        if head_index.dim() != 1 or sizes[0] != sizes[1] or sizes[0] != sizes[2]:
            raise ValueError(f"'head_index', 'rel_type' and 'tail_index' need one and the same "
                             f'shape [B] (got {sizes[0]}, {sizes[1]} and {sizes[2]})')

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.num_entities}, '
                f'num_negatives={self.num_negatives}{self._extra_repr()})')

    def _extra_repr(self) -> str:
        return ''


def _detach(score: Tensor) -> Tensor:
    r"""Scores without gradient, at least in single precision: entropies need it."""
    return score.detach().to(torch.promote_types(score.dtype, torch.float))


def _check_endpoint(endpoint: str) -> None:
    if endpoint not in ('src', 'dst'):
        raise ValueError(f"Unknown endpoint {endpoint!r} (expected 'src' or 'dst')")


def _candidate_ids(candidates: Optional[Tensor], num_entities: int) -> Optional[Tensor]:
    r"""Candidates given as mask or ids, as sorted ids."""
    if candidates is None:
        return None
    if candidates.dtype == torch.bool:
        if candidates.size() != (num_entities, ):
            raise ValueError(f"'candidates' as a mask needs shape [{num_entities}] "
                             f'(got {list(candidates.size())})')
        candidates = candidates.nonzero().view(-1)
    check_ids('candidates', candidates, num_entities)
    candidates = candidates.long().unique()
    if candidates.numel() < 2:
        raise ValueError(f"'candidates' needs at least 2 entities (got {candidates.numel()})")
    return candidates
