r"""What wrong features do to a model, and what complementarity does about them."""
from functools import partial
from typing import List, Mapping, Optional, Sequence, Tuple

from torch_geometric.data import HeteroData

from pyg_mmkgc.data import modality_names
from pyg_mmkgc.studies.base import (
    SHARES,
    STRUCTURE_ONLY,
    Change,
    Line,
    Look,
    Row,
    Study,
    applies,
    structure_row,
)
from pyg_mmkgc.training import Recipe
from pyg_mmkgc.transforms import AddModalityNoise
from pyg_mmkgc.transforms.add_modality_noise import KINDS

MEAN = 'plain mean'
#: Where the noise is.
TEST, BOTH = 'in test', 'in both'


def rows(recipe: Recipe, data: HeteroData, modalities: Optional[Sequence[str]] = None) -> List[Row]:
    r"""Gaussian noise in place of the features of a growing share of entities, or features swapped
    between them: in test (one model for all shares), and in both training and test; the recipe
    beside the same model that averages its views without any weights, where there is one.

    Args:
        recipe (Recipe): The recipe.
        data (HeteroData): The graph.
        modalities (Sequence[str], optional): The modalities that get noise. (default: all)
    """
    names = modality_names(data) if modalities is None else list(modalities)
    models = {recipe.model['name']: recipe}
    if applies(recipe, {'model.uniform': True}):
        models[MEAN] = recipe.override({'model.uniform': True})

    def noise(share: float, kind: str) -> Tuple[Change, ...]:
        return (partial(AddModalityNoise, share, names, kind=kind), )

    out = []
    for name, changed in models.items():
        curves = tuple(f'{name}, {kind} {where}' for kind in KINDS for where in (TEST, BOTH))
        out.append(Row(name, changed, (), (
            Look(name, (), curves, 0.0),
            *(Look(f'{name}, {share:.0%} {kind} {TEST}', noise(share, kind),
                   (f'{name}, {kind} {TEST}', ), share) for kind in KINDS for share in SHARES))))
        for kind in KINDS:
            for share in SHARES:
                both, changes = f'{name}, {share:.0%} {kind} {BOTH}', noise(share, kind)
                out.append(Row(both, changed, changes, (
                    Look(both, changes, (f'{name}, {kind} {BOTH}', ), share), )))
    return [*out, structure_row(recipe)]


def pairs(names: Sequence[str]) -> List[Tuple[str, str]]:
    r"""The recipe against the plain mean, at each share.

    Args:
        names (Sequence[str]): The names of the looks.
    """
    parts = [name.partition(',') for name in names]
    return [(model + comma + rest, MEAN + comma + rest) for model, comma, rest in parts
            if model not in (MEAN, STRUCTURE_ONLY)]


def findings(lines: Mapping[str, Line]) -> List[str]:
    r"""At how many shares the recipe is above the plain mean.

    Args:
        lines (Mapping[str, Line]): The lines by look.
    """
    found = [pair for pair in pairs(list(lines)) if pair[1] in lines]
    if not found:
        return []
    above = sum(lines[first].mrr() > lines[second].mrr() for first, second in found)
    return [f'Above the plain mean in {above} of {len(found)} comparisons on test.']


NOISE = Study('noise', 'What wrong features do', rows, pairs, findings,
              xlabel='share of entities with wrong features', by_modality=True)
