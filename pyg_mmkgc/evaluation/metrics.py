r"""Numbers that sum up ranks."""
from typing import Dict, Sequence

from pyg_mmkgc.evaluation.ranking import Ranks


def compute_metrics(ranks: Ranks, ks: Sequence[int] = (1, 3, 10)) -> Dict[str, float]:
    r"""Mean reciprocal rank, mean rank, adjusted mean rank index and Hits@k.

    .. math::
        \mathrm{MRR} = \frac1Q \sum_q \frac1{\mathrm{rank}_q}, \quad
        \mathrm{MR} = \frac1Q \sum_q \mathrm{rank}_q, \quad
        \mathrm{Hits@}k = \frac1Q \left|\{q : \mathrm{rank}_q \le k\}\right|, \quad
        \mathrm{AMRI} = 1 - \frac{\mathrm{MR} - 1}{\mathbb E[\mathrm{MR}] - 1}

    All of them use the realistic rank. The adjusted mean rank index from the `"On the Ambiguity
    of Rank-Based Evaluation of Entity Alignment or Link Prediction Methods"
    <https://arxiv.org/abs/2002.06914>`_ paper compares the mean rank with its expectation under
    a random scorer, :math:`\mathbb E[\mathrm{MR}] = \frac1Q \sum_q (n_q + 1) / 2` for
    :math:`n_q` candidates: 1 is perfect, 0 is random, below 0 is worse. Where each query has one
    candidate only, a random scorer is perfect, and the index is 0.

    Args:
        ranks (Ranks): The ranks of at least one query.
        ks (Sequence[int], optional): The :math:`k` of each Hits@k.
            (default: :obj:`(1, 3, 10)`)

    Returns:
        Dict[str, float]: ``'mrr'``, ``'mr'``, ``'amri'``, ``'hits@k'`` for each :math:`k` as
        fractions of one, and the number of queries ``'count'`` (an integer).

    Raises:
        ValueError: If there are no ranks, or some :math:`k` is below 1.
    """
    if len(ranks) == 0:
        raise ValueError('There are no ranks to compute metrics of (expected at least one)')
    for k in ks:
        if k < 1:
            raise ValueError(f"'ks' needs to hold numbers of at least 1 (got {k})")

    rank = ranks.rank
    mean_rank = float(rank.mean())
    expected = float((ranks.num_candidates.double() + 1).mean() / 2)
    out = {
        'mrr': float(rank.reciprocal().mean()),
        'mr': mean_rank,
        'amri': 0.0 if expected == 1 else 1 - (mean_rank - 1) / (expected - 1),
    }
    for k in ks:
        out[f'hits@{k}'] = float((rank <= k).double().mean())
    out['count'] = len(ranks)
    return out
