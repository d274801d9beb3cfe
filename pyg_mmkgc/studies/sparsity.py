r"""What modalities are worth where there are few facts."""
from functools import partial
from typing import List, Optional, Sequence, Tuple

from torch_geometric.data import HeteroData

from pyg_mmkgc.studies.base import Look, Row, Study, structure_row
from pyg_mmkgc.training import Recipe
from pyg_mmkgc.transforms import SampleTriples

SHARES = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
STRUCTURE_CURVE = 'structure'


def rows(recipe: Recipe, data: HeteroData, modalities: Optional[Sequence[str]] = None) -> List[Row]:
    r"""The recipe and the structure-only baseline on a growing share of the training triples.
    Test triples, candidates and filter stay those of the whole graph.

    Args:
        recipe (Recipe): The recipe.
        data (HeteroData): The graph.
        modalities (Sequence[str], optional): Unused. (default: :obj:`None`)
    """
    out = []
    for share in SHARES:
        changes = (partial(SampleTriples, share), )
        for curve in (recipe.model['name'], STRUCTURE_CURVE):
            name = f'{curve}, {share:.0%}'
            look = Look(name, changes, (curve, ), share)
            out.append(structure_row(recipe, name, changes=changes, looks=(look, ))
                       if curve == STRUCTURE_CURVE else Row(name, recipe, changes, (look, )))
    return out


def pairs(names: Sequence[str]) -> List[Tuple[str, str]]:
    r"""The recipe against structure alone, at each share.

    Args:
        names (Sequence[str]): The names of the looks.
    """
    others = [(name, f'{STRUCTURE_CURVE}, {name.rpartition(" ")[2]}') for name in names]
    return [(first, second) for first, second in others if first != second]


SPARSITY = Study('sparsity', 'What features are worth where facts are few', rows, pairs,
                 xlabel='share of the training triples')
