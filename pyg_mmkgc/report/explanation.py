r"""The page about one answer."""
from typing import Dict, List

from pyg_mmkgc.evaluation import Explanation
from pyg_mmkgc.report.page import render


def explanation_page(explanation: Explanation) -> str:
    r"""One answer as a page of HTML, see :func:`~pyg_mmkgc.evaluation.explain`.

    Args:
        explanation (Explanation): From :meth:`~pyg_mmkgc.training.Run.explain`, which brings the
            pictures, or :func:`~pyg_mmkgc.evaluation.explain`.
    """
    parts = explanation.contributions or {}
    return render('explanation.html', explanation=explanation, removals=_removals(explanation),
                  largest=max((abs(part) for part in parts.values()), default=0.0) or 1.0,
                  sentences=_sentences(explanation),
                  illustrated=any(contents.pictures for fact in explanation.similar
                                  for contents in (fact.head_contents, fact.tail_contents)))


def _removals(explanation: Explanation) -> List[Dict[str, object]]:
    return [{'modality': m, **{removal.of: removal for removal in explanation.removals
                               if removal.modality == m}}
            for m in dict.fromkeys(removal.modality for removal in explanation.removals)]


def _sentences(explanation: Explanation) -> List[str]:
    # What matters most, in words.
    out = []
    if explanation.contributions and len(explanation.contributions) > 1:
        name, part = max(explanation.contributions.items(), key=lambda item: item[1])
        out.append(f'Most of the score comes from {name} ({part:+.2f} of {explanation.score:.2f}).')
    worst = max(explanation.removals, key=lambda removal: removal.rank, default=None)
    if worst is not None and worst.rank > explanation.rank:
        whose = {'head': explanation.head.label, 'tail': explanation.tail.label,
                 'both': 'both entities'}[worst.of]
        out.append(f'Without {worst.modality} of {whose} the rank falls from {explanation.rank:g} '
                   f'to {worst.rank:g}.')
    elif worst is not None:
        out.append('Without any one of the modalities the rank is not worse.')
    return out
