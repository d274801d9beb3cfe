r"""What a study is made of."""
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from pyg_mmkgc.data import STRUCTURE
from pyg_mmkgc.datasets import normalize_name
from pyg_mmkgc.training import Fit, Recipe, find_recipe
from pyg_mmkgc.training.recipe import BASELINE

#: Makes a transform, called with `seed=`: that of the cell. It has to survive pickling.
Change = Callable[..., BaseTransform]

#: The row that a study compares with: the recipe as it is.
FULL = 'full'
STRUCTURE_ONLY = 'structure only'
#: The shares at which the features of a graph are damaged.
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class Look:
    r"""One evaluation of a trained model: a line of the table, and perhaps a point of a curve.

    Args:
        name (str): Its name, unique in the study.
        changes (Sequence[Callable], optional): What the original graph goes through before the
            model sees it; triples and candidates of the evaluation stay those of the original.
            (default: none)
        curves (Sequence[str], optional): The curves that it is a point of. (default: none)
        x (float, optional): Where on them. (default: :obj:`None`)
    """
    name: str
    changes: Tuple[Change, ...] = ()
    curves: Tuple[str, ...] = ()
    x: Optional[float] = None


@dataclass(frozen=True)
class Row:
    r"""One way to train, which a study repeats for each seed.

    Args:
        name (str): Its name, unique in the study.
        recipe (Recipe): The recipe.
        changes (Sequence[Callable], optional): What the original graph goes through before the
            training. (default: none)
        looks (Sequence[Look], optional): How the model is evaluated. (default: once, on the graph
            that it was trained on)
        probe (Callable, optional): Called with the :class:`~pyg_mmkgc.training.Fit` after each
            epoch; what it returns goes into the history. It must not change the training.
            (default: :obj:`None`)
    """
    name: str
    recipe: Recipe
    changes: Tuple[Change, ...] = ()
    looks: Tuple[Look, ...] = ()
    probe: Optional[Callable[[Fit], Dict[str, Any]]] = None

    def __post_init__(self) -> None:
        if not self.looks:
            object.__setattr__(self, 'looks', (Look(self.name, self.changes), ))


@dataclass(frozen=True)
class Line:
    r"""What all seeds of one look say together.

    Args:
        look (str): The name of the look.
        row (str): That of its row.
        curves (Tuple[str, ...]): Its curves.
        x (float, optional): Where on them.
        seeds (List[int]): The seeds, sorted.
        metrics (Dict[str, Dict[str, List[float]]]): For each split and metric of both sides, a
            value for each seed.
        val_mrr (List[float]): The validation MRR that the epoch was chosen by; empty if none was.
        seconds (float): Mean seconds of the training.
    """
    look: str
    row: str
    curves: Tuple[str, ...]
    x: Optional[float]
    seeds: List[int]
    metrics: Dict[str, Dict[str, List[float]]]
    val_mrr: List[float]
    seconds: float

    def mrr(self, split: str = 'test') -> float:
        r"""The mean MRR over seeds."""
        values = self.metrics[split]['mrr']
        return sum(values) / len(values)


def no_pairs(names: Sequence[str]) -> List[Tuple[str, str]]:
    r"""For a study that compares nothing."""
    return []


def no_findings(lines: Mapping[str, Line]) -> List[str]:
    r"""For a study whose table says it all."""
    return []


@dataclass(frozen=True)
class Study:
    r"""A question to a model and a graph, as a declaration.

    Args:
        name (str): Its name.
        title (str): What it asks, the title of table and figure.
        rows (Callable): ``rows(recipe, data, modalities)`` returns the rows for a recipe, whose
            dataset is named, and a graph; :obj:`modalities` are those that the study is about,
            None for all.
        pairs (Callable, optional): ``pairs(names)`` returns for the names of the looks which are
            compared by a paired bootstrap over test triples, as far as they are there.
            (default: none)
        findings (Callable, optional): ``findings(lines)`` returns sentences about the lines, which
            are given by look. (default: none)
        xlabel (str, optional): What the curves are drawn over. (default: :obj:`""`, bars instead)
        by_modality (bool, optional): Whether it may be about some modalities only.
            (default: :obj:`False`)
    """
    name: str
    title: str
    rows: Callable[[Recipe, HeteroData, Optional[Sequence[str]]], List[Row]]
    pairs: Callable[[Sequence[str]], List[Tuple[str, str]]] = no_pairs
    findings: Callable[[Mapping[str, Line]], List[str]] = no_findings
    xlabel: str = ''
    by_modality: bool = False


@dataclass(frozen=True)
class Cell:
    r"""One row with one seed.

    Args:
        study (str): The name of the study.
        row (Row): The row; its recipe has the seed.
        seed (int): The seed.
        path (Path): The file of its result, which exists once it is finished.
        key (Dict[str, Any]): Everything that determines the result, ready for JSON.
    """
    study: str
    row: Row
    seed: int
    path: Path
    key: Dict[str, Any]


def read_cell(path: Path) -> Dict[str, Any]:
    r"""The result of a finished cell.

    Args:
        path (Path): Its file.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        cell = json.loads(path.read_text(encoding='utf-8'))
        missing = {'study', 'row', 'seed', 'key', 'looks'} - set(cell)
        if missing:
            raise ValueError(f'{sorted(missing)[0]!r} is missing')
        return cell
    except (ValueError, TypeError) as error:
        raise ValueError(f"'{path}' is damaged or no cell of a study ({error})") from error


def structure_row(recipe: Recipe, name: str = STRUCTURE_ONLY, **kwargs: Any) -> Row:
    r"""The structure-only baseline by its own recipe for the dataset of another one, with the
    device, the precision and at most the epochs of that.

    Args:
        recipe (Recipe): The other recipe.
        name (str, optional): The name of the row. (default: :obj:`"structure only"`)
        **kwargs (optional): Further arguments of :class:`Row`.
    """
    baseline, config = find_recipe(BASELINE, recipe.dataset), recipe.train_config()
    return Row(name, baseline.override({
        'train.device': config.device, 'train.precision': config.precision,
        'train.epochs': min(config.epochs, baseline.train_config().epochs)}), **kwargs)


def with_modalities(recipe: Recipe, names: Sequence[str]) -> Optional[Recipe]:
    r"""A recipe whose model sees some modalities only, ``'structure'`` among them or not; options
    that name another one forget it.

    Args:
        recipe (Recipe): The recipe.
        names (Sequence[str]): The modalities.

    Returns:
        Recipe or None: None if the model has no choice of modalities.
    """
    if 'modalities' not in recipe.options('model'):
        return None
    kept = {*names, 'joint'}
    model: Dict[str, Any] = {}
    for key, value in recipe.model.items():
        if isinstance(value, Mapping):
            value = {m: x for m, x in value.items() if m in kept}
        elif key == 'heads' and value is not None:
            value = [m for m in value if m in kept]
        model[key] = value
    model['modalities'] = [m for m in names if m != STRUCTURE]
    if STRUCTURE not in names:
        model['structure_channels'] = 0
    return replace(recipe, model=model)


def applies(recipe: Recipe, overrides: Mapping[str, Any]) -> bool:
    r"""Whether a recipe has all of some options.

    Args:
        recipe (Recipe): The recipe.
        overrides (Mapping[str, Any]): Values by dotted key.
    """
    return all(key == 'sampler' or key.partition('.')[2] in recipe.options(key.partition('.')[0])
               for key in overrides)


def dataset_key(name: str) -> str:
    r"""A dataset's name or path as a part of a file name.

    Args:
        name (str): The name or path.
    """
    return normalize_name(name.rstrip('/\\').replace('\\', '/').rpartition('/')[2])
