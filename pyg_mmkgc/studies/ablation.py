r"""What each part of a model is worth."""
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from torch_geometric.data import HeteroData

from pyg_mmkgc.data import STRUCTURE, modality_names
from pyg_mmkgc.nn.models.mocme import ESTIMATORS
from pyg_mmkgc.studies.base import FULL, Row, Study, applies, with_modalities
from pyg_mmkgc.training import SAMPLERS, Recipe

#: By row, the options that differ from the recipe.
PARTS: Dict[str, Dict[str, Any]] = {
    'without intra': {'model.intra': False},
    'without inter': {'model.inter': False},
    'without gates': {'model.uniform': True},
    'without held-out gates': {'train.gate_split': None},
    'joint head only': {'model.heads': []},
    **{f'{name} negatives': {'sampler': name} for name in SAMPLERS if name != 'egns'},
    'no negatives': {'sampler': None},
    **{f'estimator {name}': {'model.estimator': name} for name in ESTIMATORS},
    **{f'K = {k}': {'model.num_experts': k} for k in (1, 2, 3, 4)},
}


def rows(recipe: Recipe, data: HeteroData, modalities: Optional[Sequence[str]] = None) -> List[Row]:
    r"""The recipe as it is, with one part of it taken away or changed, and with some of the
    modalities (structure is one). What the recipe does not have, or is already, is left out.

    Args:
        recipe (Recipe): The recipe.
        data (HeteroData): The graph.
        modalities (Sequence[str], optional): Unused. (default: :obj:`None`)
    """
    out = [Row(FULL, recipe)]
    for name, changed in _variants(recipe, data):
        if all(changed.to_dict() != row.recipe.to_dict() for row in out):
            out.append(Row(name, changed))
    return out


def _variants(recipe: Recipe, data: HeteroData) -> Iterator[Tuple[str, Recipe]]:
    for name, overrides in PARTS.items():
        if not applies(recipe, overrides) or (
                'sampler' in overrides and (recipe.sampler or {}).get('name') != 'egns'):
            continue
        if overrides == {'sampler': None} and recipe.model.get('objective') == 'sampled':
            continue  # It has no other loss.
        yield name, recipe.override(overrides)
    names = recipe.model.get('modalities')
    names = [*(modality_names(data) if names is None else names), STRUCTURE]
    for m in names:
        others = with_modalities(recipe, [n for n in names if n != m])
        if others is not None:
            yield f'without {m}', others
    for m in names:
        alone = with_modalities(recipe, [m])
        if alone is not None:
            yield f'{m} alone', alone


def pairs(names: Sequence[str]) -> List[Tuple[str, str]]:
    r"""The recipe against every other row.

    Args:
        names (Sequence[str]): The names of the looks.
    """
    return [(FULL, name) for name in names if name != FULL]


ABLATION = Study('ablation', 'What each part is worth', rows, pairs)
