from typing import Any, Dict, Optional, Tuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.nn.inits import zeros
from typing_extensions import Self

from pyg_mmkgc.evaluation.ranking import Scorer
from pyg_mmkgc.nn.decoders import Decoder
from pyg_mmkgc.nn.models.base import Prepared
from pyg_mmkgc.nn.models.multi_modal import MultiModalModel

#: Entities whose neighbours are looked for at once.
CHUNK = 1024


class NearestNeighbour(MultiModalModel):
    r"""The plain answer about entities without facts: ask those that look like them. With
    :math:`\mathcal{N}(e)` the :math:`k` entities seen in training, other than :math:`e`, whose
    features are most similar, and training triples :math:`\mathcal{T}`,

    .. math::
        s(h, r, t) &= \sum_{e \in \mathcal{N}(h)} \alpha_r \, c_{he} \, [(e, r, t) \in \mathcal{T}]
        + \sum_{e \in \mathcal{N}(t)} \beta_r \, c_{te} \, [(h, r, e) \in \mathcal{T}] \\
        c_{ij} &= \max(0, \cos(\mathbf{x}_i, \mathbf{x}_j)), \qquad
        \mathbf{x} = \Vert_m \, a_m \, x_m / \lVert x_m \rVert_2 .

    An entity is never its own neighbour, so that no fact votes for itself: this is what lets
    the only parameters, two weights :math:`\alpha_r, \beta_r` for each relation and its inverse,
    be learned on the training triples.

    Args:
        num_entities (int): The number of entities.
        num_relations (int): The number of original relations :math:`R`.
        in_channels (Dict[str, int]): Size of the raw feature of each modality.
        num_neighbours (int, optional): :math:`k`. (default: :obj:`32`)
        **kwargs (optional): Further arguments of :class:`KGModel` but those of losses other than
            the softmax over all entities.

    Raises:
        ValueError: If there is no modality, :math:`k` is not positive, or another loss is asked
            for.
    """
    decoder: Decoder
    neighbour: Tensor
    similarity: Tensor

    def __init__(self, num_entities: int, num_relations: int, in_channels: Dict[str, int],
                 num_neighbours: int = 32, **kwargs: Any):
        if num_neighbours < 1:
            raise ValueError(f"'num_neighbours' needs to be at least 1 (got {num_neighbours})")
        # The table of the decoder holds the logarithms of both weights.
        super().__init__(num_entities, num_relations, 2, Decoder(num_relations, 2), in_channels,
                         structure_channels=0, **kwargs)
        if self.objective != 'softmax' or self.neg_sampling is not None:
            raise ValueError(f"'NearestNeighbour' learns by the softmax over all entities "
                             f"(expected 'objective' to be 'softmax' without 'neg_sampling', got "
                             f'{self.objective!r} and {self.neg_sampling})')
        self.num_neighbours = num_neighbours
        for name, dtype in [('neighbour', torch.long), ('similarity', torch.float)]:
            self.register_buffer(name, torch.zeros(num_entities, 0, dtype=dtype), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        zeros(self.decoder.rel_emb.weight)

    def attach(self, data: HeteroData) -> Self:
        super().attach(data)
        self._find_neighbours()
        return self

    def without(self, modality: str, index: Tensor) -> Self:
        out = super().without(modality, index)
        out._find_neighbours()
        return out

    @torch.no_grad()
    def _find_neighbours(self) -> None:
        x, seen = self.encode(), self.seen_index
        pool, size = x[seen], min(self.num_neighbours, seen.numel() - 1)
        found = [self._nearest(rows, pool, seen, size)
                 for rows in torch.arange(x.size(0), device=x.device).split(CHUNK)]
        self.neighbour, self.similarity = (torch.cat(part) for part in zip(*found, strict=True))

    def _nearest(self, rows: Tensor, pool: Tensor, seen: Tensor,
                 size: int) -> Tuple[Tensor, Tensor]:
        cosine = self.encode(rows) @ pool.t()
        cosine = cosine.masked_fill(rows.unsqueeze(1) == seen, -1.0)
        similarity, index = cosine.topk(size, dim=1)
        return seen[index], similarity.clamp(min=0)

    @torch.no_grad()
    def encode(self, index: Optional[Tensor] = None) -> Tensor:
        r"""The vectors :math:`\mathbf{x}`, of length one; zero without any modality."""
        x_dict, mask_dict = self.inputs(index)
        parts = [torch.nn.functional.normalize(
            torch.where(mask_dict[m].unsqueeze(-1), x, 0.0), dim=-1) for m, x in x_dict.items()]
        return torch.nn.functional.normalize(torch.cat(parts, dim=-1), dim=-1)

    # Scores #####################################################################################

    def forward(self, head_index: Tensor, rel_type: Tensor, tail_index: Tensor) -> Tensor:
        return self.score_all(head_index, rel_type).gather(1, tail_index.unsqueeze(1)).squeeze(1)

    def scorer(self, part: int = 0, num_parts: int = 1) -> Scorer:
        known = self.train_known
        if known is None:
            raise ValueError('the model knows no graph to look neighbours up in; build it by '
                             '`from_data` or call `attach(data)`')
        size = self.neighbour.size(1)

        def score(head_index: Tensor, rel_type: Tensor, start: int, stop: int) -> Tensor:
            shape = head_index.numel(), self.num_entities
            facts = self.similarity.new_zeros(shape)
            facts[known.answers(head_index, rel_type)] = 1.0
            # What the neighbours of heads have as answers:
            row, entity = known.answers(self.neighbour[head_index].flatten(),
                                        rel_type.repeat_interleave(size))
            votes = torch.zeros_like(facts).view(-1).index_add(
                0, row // size * self.num_entities + entity,
                self.similarity[head_index].flatten()[row]).view(shape)
            alpha, beta = self.decoder.relation(rel_type).exp().unsqueeze(2).unbind(1)
            # And how similar candidates are to the answers of heads themselves:
            similar = torch.nn.functional.embedding_bag(
                self.neighbour[start:stop], facts.t().contiguous(), mode='sum',
                per_sample_weights=self.similarity[start:stop]).t()
            return alpha * votes[:, start:stop] + beta * similar

        return score

    # Training ###################################################################################

    def prepare(self, head_index: Tensor, rel_type: Tensor, tail_index: Tensor) -> Prepared:
        return Prepared()

    def loss(self, head_index: Tensor, rel_type: Tensor, tail_index: Tensor,
             log: Optional[Dict[str, Tensor]] = None,
             prepared: Optional[Prepared] = None) -> Tensor:
        scores = self.score_all(head_index, rel_type).masked_fill(~self.seen, float('-inf'))
        loss = torch.nn.functional.cross_entropy(scores, tail_index)
        if log is not None:
            log['softmax'] = loss.detach()
        return loss

    def head_vectors(self, encoded: Any, row: Tensor, rel_type: Tensor) -> Tensor:
        return encoded[row]

    def candidate_vectors(self, encoded: Any) -> Tensor:
        return encoded
