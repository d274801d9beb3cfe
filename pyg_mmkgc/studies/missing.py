r"""What is left where entities lack modalities."""
from functools import partial
from typing import List, Mapping, Optional, Sequence, Tuple

from torch_geometric.data import HeteroData

from pyg_mmkgc.data import modality_names
from pyg_mmkgc.studies.base import (
    FULL,
    SHARES,
    STRUCTURE_ONLY,
    Change,
    Line,
    Look,
    Row,
    Study,
    structure_row,
)
from pyg_mmkgc.training import Recipe
from pyg_mmkgc.transforms import DropModality

TEST, TRAIN, BOTH = 'in test', 'in training', 'in both'


def rows(recipe: Recipe, data: HeteroData, modalities: Optional[Sequence[str]] = None) -> List[Row]:
    r"""A growing share of entities loses its modalities, at random for each modality and seed: in
    test (one model, evaluated without what is missing, each modality on its own, too), in
    training (evaluated with everything), and in both.

    Args:
        recipe (Recipe): The recipe.
        data (HeteroData): The graph.
        modalities (Sequence[str], optional): The modalities that are dropped. (default: all)
    """
    names = modality_names(data) if modalities is None else list(modalities)
    each = names if len(names) > 1 else []

    def drop(share: float, chosen: Sequence[str]) -> Tuple[Change, ...]:
        return (partial(DropModality, share, list(chosen)), )

    whole = Row(FULL, recipe, (), (
        Look(FULL, (), (TEST, TRAIN, BOTH, *(f'{m} {TEST}' for m in each)), 0.0),
        *(Look(f'{share:.0%} {TEST}', drop(share, names), (TEST, ), share) for share in SHARES),
        *(Look(f'{share:.0%} of {m} {TEST}', drop(share, [m]), (f'{m} {TEST}', ), share)
          for m in each for share in SHARES)))
    trained = []
    for share in SHARES:
        changes = drop(share, names)
        trained.append(Row(f'{share:.0%} {TRAIN}', recipe, changes, (
            Look(f'{share:.0%} {TRAIN}', (), (TRAIN, ), share),
            Look(f'{share:.0%} {BOTH}', changes, (BOTH, ), share))))
    return [whole, *trained, structure_row(recipe)]


def findings(lines: Mapping[str, Line]) -> List[str]:
    r"""How much of the gain over structure alone is left.

    Args:
        lines (Mapping[str, Line]): The lines by look.
    """
    if FULL not in lines or STRUCTURE_ONLY not in lines:
        return []
    base, out = lines[STRUCTURE_ONLY].mrr(), []
    gain = lines[FULL].mrr() - base
    for curve in (TEST, TRAIN, BOTH):
        kept = [f'{line.x:.0%} missing {(line.mrr() - base) / gain:.0%}'
                for line in lines.values() if curve in line.curves and line.x]
        if kept and gain > 0:
            out.append(f'Of the gain over structure alone, {100 * gain:.1f} points of test MRR, is '
                       f'left {curve}: {", ".join(kept)}.')
    return out


MISSING = Study('missing', 'What is left where modalities are missing', rows, findings=findings,
                xlabel='share of entities that lose their modalities', by_modality=True)
