r"""Runs the cells of a study, rows times seeds, and goes on where it was."""
import fnmatch
import json
import logging
import multiprocessing
import os
import re
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import torch
from torch_geometric.data import HeteroData

from pyg_mmkgc.data import modality_names, split_names
from pyg_mmkgc.data.io import PathLike, atomic_write
from pyg_mmkgc.datasets import GraphDataset, get_dataset
from pyg_mmkgc.evaluation import evaluate
from pyg_mmkgc.studies.base import Cell, Change, Row, Study, dataset_key, read_cell
from pyg_mmkgc.studies.report import Report, machine, make_report
from pyg_mmkgc.training import Fit, Recipe, fingerprint, load_recipe
from pyg_mmkgc.training.recipe import NOTES, Overrides

logger = logging.getLogger(__name__)

CELLS = 'cells'


@dataclass(frozen=True)
class Source:
    r"""Where workers find the graph: a dataset, or the arguments of
    :func:`~pyg_mmkgc.datasets.get_dataset`.

    Args:
        dataset (str or GraphDataset): The dataset, or its name or folder.
        kwargs (Mapping[str, Any]): Further arguments.
    """
    dataset: Union[str, GraphDataset]
    kwargs: Mapping[str, Any]

    @property
    def name(self) -> str:
        r"""The name of the dataset, as recipes and files have it."""
        return dataset_key(self.dataset if isinstance(self.dataset, str) else
                           self.dataset.__class__.__name__)

    def load(self) -> HeteroData:
        r"""The graph."""
        if isinstance(self.dataset, GraphDataset):
            return self.dataset[0]
        return get_dataset(self.dataset, **self.kwargs)[0]


def run_study(
    study: Study,
    dataset: Union[str, 'os.PathLike[str]', GraphDataset] = 'atlas',
    model: str = 'mocme',
    *,
    root: Optional[PathLike] = None,
    mirror: Optional[PathLike] = None,
    dataset_options: Optional[Mapping[str, Any]] = None,
    seeds: int = 3,
    overrides: Overrides = (),
    modalities: Optional[Sequence[str]] = None,
    rows: Sequence[str] = (),
    workers: int = 1,
    threads: int = 1,
    out: Optional[PathLike] = None,
) -> Report:
    r"""Train and evaluate every row of a study with every seed, and report.

    Each finished cell is one file, written at once and whole; a study that was stopped goes on
    behind the last of them, and one with more seeds or rows adds to what there is. Epochs (and
    weights of modalities) are chosen on validation; test splits are scored once per look, after
    the training of the cell.

    Args:
        study (Study): The study.
        dataset (str or os.PathLike or GraphDataset, optional): The name of a dataset, a folder,
            or a dataset. (default: :obj:`"atlas"`)
        model (str, optional): A model, a recipe or its file, see
            :func:`~pyg_mmkgc.training.load_recipe`. (default: :obj:`"mocme"`)
        root (str, optional): The folder of all datasets. (default: see
            :func:`~pyg_mmkgc.training.train_run`)
        mirror (str, optional): A folder or an address of the published files.
            (default: see :func:`~pyg_mmkgc.training.train_run`)
        dataset_options (Mapping[str, Any], optional): Further arguments of the dataset.
            (default: none)
        seeds (int, optional): The number of seeds, from 0 on. (default: :obj:`3`)
        overrides (Mapping[str, Any] or Sequence[str], optional): Other values of options of the
            recipe. (default: none)
        modalities (Sequence[str], optional): The modalities that the study is about, where it
            may be about some. (default: all)
        rows (Sequence[str], optional): Names of the rows to run, with wildcards as in a shell; the
            report has what is there of the others, too. (default: all)
        workers (int, optional): Cells that run at once, each in a process. (default: :obj:`1`)
        threads (int, optional): Threads of each. Results may differ in the last digits where this
            does. (default: :obj:`1`)
        out (str or os.PathLike, optional): The folder of the study, new or to go on with.
            (default: `studies/<study>-<dataset>-<recipe>`)

    Raises:
        ValueError: If a name, an option or the data is wrong, if the recipe would choose by a test
            split, or if the folder has a cell of another recipe or other data.
        FloatingPointError: If a training diverged; all other cells are finished first.
    """
    for name, value in [('seeds', seeds), ('workers', workers), ('threads', threads)]:
        if value < 1:
            raise ValueError(f'{name!r} needs to be at least 1 (got {value})')
    if modalities is not None and not study.by_modality:
        raise ValueError(f'Study {study.name!r} is about all modalities (got {list(modalities)})')
    source = Source(dataset if isinstance(dataset, GraphDataset) else os.fspath(dataset), {
        'root': root, 'mirror': mirror, **(dataset_options or {})})
    recipe = replace(load_recipe(model, source.name).override(overrides), dataset=source.name)
    data = source.load()
    check_recipe(recipe, data)
    _check_modalities(study, data, modalities)
    table = study.rows(recipe, data, modalities)
    chosen = _choose(table, rows)
    path = Path('studies', _folder(study, source, recipe, modalities)) if out is None else Path(out)

    data_key = fingerprint(data)
    cells = [_cell(study, row, seed, path, data_key) for seed in range(seeds) for row in table]
    for cell in cells:
        _check_cell(cell)
    todo = [cell for cell in cells if cell.row.name in chosen and not cell.path.exists()]
    logger.info('Study %s: %d cells, %d to run, folder %s', study.name, len(cells), len(todo), path)
    try:
        _run_all(todo, source, workers, threads)
    finally:
        report = make_report(study, source.name, recipe.name, cells, path)
    return report


def check_recipe(recipe: Recipe, data: HeteroData) -> None:
    r"""Refuse to choose by anything but validation.

    Args:
        recipe (Recipe): The recipe.
        data (HeteroData): The graph.

    Raises:
        ValueError: If the recipe chooses by another split, or the graph has no test split.
    """
    if 'test' not in split_names(data):
        raise ValueError(f"The data has no split 'test' (got {split_names(data)})")
    config = recipe.train_config()
    for key in ('select', 'gate_split'):
        split = getattr(config, key)
        if split is not None and split != 'val':
            raise ValueError(f"A study chooses on 'val' alone: recipe {recipe.name!r} has "
                             f"'train.{key}' {split!r} (expected 'val' or null)")


def _check_modalities(study: Study, data: HeteroData,
                      modalities: Optional[Sequence[str]]) -> None:
    there = modality_names(data)
    for m in modalities or ():
        if m not in there:
            raise ValueError(f'Unknown modality {m!r} (expected some of {there}): study '
                             f'{study.name!r} is asked about it, and the graph lacks it')


def _choose(table: List[Row], patterns: Sequence[str]) -> List[str]:
    names = [row.name for row in table]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ValueError(f'No row is named {pattern!r} (expected some of {names})')
    return [name for name in names if not patterns
            or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def _folder(study: Study, source: Source, recipe: Recipe,
            modalities: Optional[Sequence[str]]) -> str:
    name = recipe.name if recipe.name.endswith(f'-{source.name}') else (
        f'{recipe.name}-{source.name}')
    return '-'.join([study.name, name, *sorted(modalities or [])])


# Cells ##########################################################################################


def _cell(study: Study, row: Row, seed: int, path: Path, data_key: Dict[str, str]) -> Cell:
    row = replace(row, recipe=row.recipe.override({'train.seed': seed}))
    recipe = {key: value for key, value in row.recipe.to_dict().items()
              if key not in ('dataset', *NOTES)}
    key = {'recipe': recipe, 'data': data_key, 'changes': _describe(row.changes, seed),
           'looks': {look.name: _describe(look.changes, seed) for look in row.looks}}
    slug = re.sub(r'[^\w.+-]+', '-', row.name)
    return Cell(study.name, row, seed, path / CELLS / f'{slug}-{seed}.json',
                json.loads(json.dumps(key)))


def _describe(changes: Tuple[Change, ...], seed: int) -> List[str]:
    return [repr(change(seed=seed)) for change in changes]


def _check_cell(cell: Cell) -> None:
    if not cell.path.exists():
        return
    different = _differences(read_cell(cell.path)['key'], cell.key)
    if different:
        raise ValueError(f"'{cell.path}' is of another study: {', '.join(different)} differ from "
                         f"row {cell.row.name!r} now; name another folder, or remove the file")


def _differences(old: Any, new: Any, where: str = '') -> List[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [part for key in sorted({*old, *new})
                for part in _differences(old.get(key), new.get(key), f'{where}.{key}'.lstrip('.'))]
    return [] if old == new else [where]


# Workers ########################################################################################

_data: Optional[HeteroData] = None


def _start(source: Source, threads: int) -> None:
    global _data
    torch.set_num_threads(threads)
    _data = source.load()


@contextmanager
def one_process(threads: int) -> Iterator[None]:
    r"""Computes with a number of threads, and leaves this process as it was.

    Args:
        threads (int): The number.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run_all(cells: Sequence[Cell], source: Source, workers: int, threads: int) -> None:
    failures: List[Tuple[Cell, Exception]] = []

    def done(number: int, cell: Cell, error: Optional[Exception]) -> None:
        if error is not None:
            failures.append((cell, error))
        logger.info('%d of %d: %s, seed %d%s', number, len(cells), cell.row.name, cell.seed,
                    '' if error is None else f' failed: {error}')

    if workers == 1 and cells:
        with one_process(threads):
            _start(source, threads)
            for number, cell in enumerate(cells, 1):
                done(number, cell, _attempt(cell))
    elif cells:
        # Not forked: a copy of a process with threads may stand still.
        executor = ProcessPoolExecutor(min(workers, len(cells)),
                                       multiprocessing.get_context('spawn'), _start,
                                       (source, threads))
        try:
            futures = {executor.submit(_attempt, cell): cell for cell in cells}
            for number, future in enumerate(as_completed(futures), 1):
                done(number, futures[future], future.result())
        except BrokenProcessPool as error:
            raise MemoryError('a worker was ended from outside, for want of memory perhaps; lower '
                              f"'workers' (now {workers}); finished cells are kept") from error
        finally:
            executor.shutdown(wait=True, cancel_futures=True)
    if failures:
        cell, failure = failures[0]
        raise type(failure)(f'{len(failures)} of {len(cells)} cells failed; first row '
                          f'{cell.row.name!r}, seed {cell.seed}: {failure}') from failure


def _attempt(cell: Cell) -> Optional[Exception]:
    try:
        result = _run(cell)
    except (ValueError, FloatingPointError, MemoryError) as error:
        return error
    with atomic_write(cell.path) as f:
        json.dump(result, f, ensure_ascii=False)
        f.write('\n')
    return None


def _run(cell: Cell) -> Dict[str, Any]:
    row, start = cell.row, time.perf_counter()
    fit, probe = Fit(row.recipe, _changed(row.changes, cell.seed)), row.probe
    if probe is not None:
        fit.on_epoch = lambda entry: entry.update(probe(fit))
    result = fit()
    if result.interrupted:
        raise KeyboardInterrupt
    seconds = time.perf_counter() - start
    # From here on nothing is chosen any more.
    looks = {}
    for look in row.looks:
        fit.model.attach(_changed(look.changes, cell.seed))
        looks[look.name] = {split: _evaluate(fit.model, split) for split in _test_splits()}
    return {'study': cell.study, 'row': row.name, 'seed': cell.seed, 'key': cell.key,
            'epoch': result.best_epoch, 'val_mrr': result.best_mrr,
            'seconds': seconds,
            'epoch_seconds': sum(entry['seconds'] for entry in result.history),
            'history': result.history, 'looks': looks, 'machine': machine()}


def _changed(changes: Sequence[Change], seed: int) -> HeteroData:
    data = _data
    for change in changes:
        data = change(seed=seed)(data)
    return data


def _test_splits() -> List[str]:
    return ['test', *sorted(set(split_names(_data)) - {'train', 'val', 'test'})]


def _evaluate(model: torch.nn.Module, split: str) -> Dict[str, Any]:
    # Of the original graph: what a change takes away is no reason to ask something else.
    found = evaluate(model, _data, split)
    ranks = {side: [int(r) if r == int(r) else r for r in ranks.rank.tolist()]
             for side, ranks in found.ranks.items()}
    return {**found.to_dict(), 'ranks': ranks}
