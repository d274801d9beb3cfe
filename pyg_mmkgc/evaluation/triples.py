r"""How plausible given triples are."""
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor

from pyg_mmkgc.data import TripleIndex
from pyg_mmkgc.data.triples import check_ids
from pyg_mmkgc.evaluation.calibration import log_probability
from pyg_mmkgc.evaluation.evaluator import _evaluating
from pyg_mmkgc.evaluation.ranking import rank


class TriplePredictions(NamedTuple):
    r"""What a model says of :math:`T` triples, on the CPU.

    Args:
        score (torch.Tensor): The score of :math:`(h, r, t)`, :math:`(T)`.
        head_rank (torch.Tensor): The filtered rank of :math:`h` as the answer to
            :math:`(?, r, t)`, :math:`(T)`.
        tail_rank (torch.Tensor): That of :math:`t` as the answer to :math:`(h, r, ?)`,
            :math:`(T)`.
        probability (torch.Tensor): :math:`\sqrt{p(h \mid r, t) \, p(t \mid h, r)}`, the
            geometric mean of the filtered probabilities of both, see
            :func:`~pyg_mmkgc.evaluation.fit_temperature`, :math:`(T)`.
    """
    score: Tensor
    head_rank: Tensor
    tail_rank: Tensor
    probability: Tensor


@torch.no_grad()
def predict_triples(model: Any, head_index: Tensor, rel_type: Tensor, tail_index: Tensor,
                    known: TripleIndex, *, temperature: float = 1.0,
                    candidates: Optional[Tensor] = None) -> TriplePredictions:
    r"""Score, rank and probability of each triple of a table. Other known answers to the same
    question are no competitors.

    Args:
        model (KGModel): The model.
        head_index (torch.Tensor): The head indices.
        rel_type (torch.Tensor): The relation types, without inverse ones.
        tail_index (torch.Tensor): The tail indices.
        known (TripleIndex): The triples that are filtered out. It may hold the ones asked for.
        temperature (float, optional): The temperature of the probability.
            (default: :obj:`1.0`)
        candidates (torch.Tensor, optional): Which entities are candidates, boolean :math:`(N)`.
            (default: :obj:`None`, all entities)

    Raises:
        ValueError: If ids or shapes are invalid, or the temperature is not positive.
    """
    known = known.to(head_index.device)
    N, R = known.num_entities, known.num_relations
    for name, index, size in [('head_index', head_index, N), ('rel_type', rel_type, R),
                              ('tail_index', tail_index, N)]:
        check_ids(name, index, size)
    with _evaluating(model):
        scorer = model.scorer()
        sides = [(tail_index, rel_type + R, head_index), (head_index, rel_type, tail_index)]
        head, tail = (rank(scorer, *side, known, num_entities=N, candidates=candidates).rank
                      for side in sides)
        log_head, log_tail = (
            log_probability(scorer, *side, known, num_entities=N, temperature=temperature,
                            candidates=candidates).cpu() for side in sides)
        score = model(head_index, rel_type, tail_index).float().cpu()
    return TriplePredictions(score, head, tail, ((log_head + log_tail) / 2).exp())
