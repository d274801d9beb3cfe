r"""Whether modalities help, or only their parameters do."""
from functools import partial
from typing import List, Mapping, Optional, Sequence, Tuple

from torch_geometric.data import HeteroData

from pyg_mmkgc.data import STRUCTURE, modality_names
from pyg_mmkgc.studies.base import (
    STRUCTURE_ONLY,
    Line,
    Row,
    Study,
    structure_row,
    with_modalities,
)
from pyg_mmkgc.training import Recipe
from pyg_mmkgc.transforms import PermuteModality

TRUE, PERMUTED, WITHOUT = 'true features', 'permuted features', 'without features'


def rows(recipe: Recipe, data: HeteroData, modalities: Optional[Sequence[str]] = None) -> List[Row]:
    r"""The features as they are; dealt out anew among the entities that have them, with a
    permutation for each seed, in training and test; left out of the same model; and the
    structure-only baseline.

    Args:
        recipe (Recipe): The recipe.
        data (HeteroData): The graph.
        modalities (Sequence[str], optional): The modalities that are permuted or left out.
            (default: all)
    """
    changed = modality_names(data) if modalities is None else modalities
    used = recipe.model.get('modalities')
    used = modality_names(data) if used is None else used
    rest = with_modalities(recipe, [*(m for m in used if m not in changed), STRUCTURE])
    return [
        Row(TRUE, recipe),
        Row(PERMUTED, recipe, (partial(PermuteModality, list(changed)), )),
        *([] if rest is None else [Row(WITHOUT, rest)]),
        structure_row(recipe),
    ]


def pairs(names: Sequence[str]) -> List[Tuple[str, str]]:
    r"""True against permuted features, and both against none.

    Args:
        names (Sequence[str]): The names of the looks.
    """
    return [(TRUE, PERMUTED), (TRUE, WITHOUT), (TRUE, STRUCTURE_ONLY), (PERMUTED, WITHOUT),
            (PERMUTED, STRUCTURE_ONLY)]


def findings(lines: Mapping[str, Line]) -> List[str]:
    r"""The headline.

    Args:
        lines (Mapping[str, Line]): The lines by look.
    """
    if TRUE not in lines or PERMUTED not in lines:
        return []
    gain = 100 * (lines[TRUE].mrr() - lines[PERMUTED].mrr())
    return [f'True features are worth {gain:+.1f} points of test MRR over permuted ones; the first '
            f'line of the comparisons has the interval.']


CONTROL = Study('control', 'Do the features help, or only their statistics?', rows, pairs, findings,
                by_modality=True)
