r"""The search for the options of a recipe, on validation alone."""
import json
import logging
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import yaml
from torch_geometric.data import HeteroData

from pyg_mmkgc.data import STRUCTURE, hold_out, is_spent, modality_names, split_names
from pyg_mmkgc.data.io import PathLike, atomic_write
from pyg_mmkgc.datasets import GraphDataset
from pyg_mmkgc.studies.report import machine
from pyg_mmkgc.studies.runner import Source, check_recipe, one_process
from pyg_mmkgc.training import Fit, Recipe, fingerprint, load_recipe
from pyg_mmkgc.training.recipe import FOLDER, NOTES, Overrides, load_yaml

if TYPE_CHECKING:
    from optuna import Study, Trial

logger = logging.getLogger(__name__)

SPACES = FOLDER / 'search'
RECIPE, JOURNAL = 'recipe.yaml', 'journal.log'
#: Attributes of Optuna's study and trials.
KEY, EPOCH, SECONDS = 'key', 'epoch', 'seconds'


@dataclass(frozen=True)
class Parameter:
    r"""One option that a search may change.

    Args:
        name (str): The name of the parameter.
        option (str): The option, as a dotted key.
        modality (str, optional): The modality whose value it is. (default: :obj:`None`)
        choices (Sequence, optional): The values it may take. (default: :obj:`None`)
        low (float, optional): Otherwise the smallest one, and (default: :obj:`None`)
        high (float, optional): the largest one; both integers for integers.
            (default: :obj:`None`)
        log (bool, optional): Whether it is drawn on a logarithmic scale. (default: :obj:`False`)
    """
    name: str
    option: str
    modality: Optional[str] = None
    choices: Optional[Tuple[Any, ...]] = None
    low: Optional[float] = None
    high: Optional[float] = None
    log: bool = False

    def suggest(self, trial: 'Trial') -> Any:
        r"""The value in a trial of Optuna."""
        if self.choices is not None:
            return trial.suggest_categorical(self.name, self.choices)
        low, high = self._limits()
        if isinstance(low, int) and isinstance(high, int):
            return trial.suggest_int(self.name, low, high, log=self.log)
        return trial.suggest_float(self.name, low, high, log=self.log)

    def contains(self, value: Any) -> bool:
        r"""Whether a value can be suggested."""
        if self.choices is not None:
            return value in self.choices
        low, high = self._limits()
        return (isinstance(value, (int, float)) and not isinstance(value, bool)
                and low <= value <= high)

    def _limits(self) -> Tuple[float, float]:
        if self.low is None or self.high is None:
            raise ValueError(f"Parameter {self.name!r} needs either 'choices' or 'low' and 'high'")
        return self.low, self.high


@dataclass(frozen=True)
class Tuning:
    r"""What a search has found.

    Args:
        path (Path): The recipe file of the best trial.
        recipe (Recipe): The best recipe.
        val_mrr (float): Its validation MRR.
        trials (int): The number of trials that ended.
        pruned (int): How many of them were pruned.
    """
    path: Path
    recipe: Recipe
    val_mrr: float
    trials: int
    pruned: int


def search_space(recipe: Recipe, data: HeteroData,
                 space: Optional[Mapping[str, Mapping[str, Any]]] = None) -> List[Parameter]:
    r"""What a search may change of a recipe, checked against the real signatures.

    .. code-block:: yaml

        model.hidden_channels: {choices: [200, 400]}
        model.regularization: {low: 0.005, high: 0.2, log: true}
        model.modality_dropout: {low: 0.0, high: 0.8, each_modality: true}

    Args:
        recipe (Recipe): The recipe.
        data (HeteroData): The graph, whose modalities (and structure) have a value of their own
            where :obj:`each_modality` is set.
        space (Mapping[str, Mapping], optional): Another space than that of the model, which is
            `recipes/search/<model>.yaml`. (default: :obj:`None`)

    Raises:
        ValueError: If an option is unknown, or a bound is no value for it.
    """
    if space is None:
        path = SPACES / f'{recipe.model["name"]}.yaml'
        if not path.is_file():
            raise ValueError(f'There is no search space of model {recipe.model["name"]!r} '
                             f"(expected '{path}')")
        space = load_yaml(path.read_text(encoding='utf-8'))
    names = recipe.model.get('modalities')
    names = [*(modality_names(data) if names is None else names), STRUCTURE]
    out: List[Parameter] = []
    for option, values in space.items():
        known = {'choices', 'low', 'high', 'log', 'each_modality'}
        if (not isinstance(values, Mapping) or set(values) - known
                or ('choices' in values) == ('low' in values and 'high' in values)):
            raise ValueError(f"Option {option!r} of a search space needs either 'choices' or 'low' "
                             f"and 'high' (got {values})")
        each = values.get('each_modality', False)
        limits = {key: value for key, value in values.items() if key != 'each_modality'}
        if 'choices' in limits:
            limits['choices'] = tuple(limits['choices'])
        parameters = [Parameter(f'{option}.{m}' if each else option, option, m if each else None,
                                **limits) for m in (names if each else [None])]
        for value in limits.get('choices', (limits.get('low'), limits.get('high'))):
            recipe.override({option: {m: value for m in names} if each else value})
        if 'low' in limits and not limits['low'] < limits['high']:
            raise ValueError(f"Option {option!r} of a search space needs 'low' below 'high' (got "
                             f'{values})')
        out += parameters
    return out


def tune(
    dataset: Union[str, 'os.PathLike[str]', GraphDataset] = 'atlas',
    model: str = 'mocme',
    *,
    root: Optional[PathLike] = None,
    mirror: Optional[PathLike] = None,
    dataset_options: Optional[Mapping[str, Any]] = None,
    trials: int = 50,
    timeout: Optional[float] = None,
    overrides: Overrides = (),
    space: Optional[Mapping[str, Mapping[str, Any]]] = None,
    workers: int = 1,
    threads: int = 1,
    out: Optional[PathLike] = None,
    storage: Optional[PathLike] = None,
) -> Tuning:
    r"""Search the options of a recipe for the best validation MRR, and write the best recipe.

    Trials are kept in a journal, from which a search that was stopped goes on; those that were
    running then are tried again. The first trial has the recipe's own values, as far as the space
    holds them. Further ones are suggested by Optuna's TPE; trials that are behind the median of the
    others at the same epoch are pruned, as are those that diverge.
    Where the recipe chooses nothing, since the validation split stands mostly in train, a part of
    train is held out in its place (as :class:`~pyg_mmkgc.training.Fit` does), and the best recipe
    has the epochs that were best on it. Test is not looked at.

    Args:
        dataset (str or os.PathLike or GraphDataset, optional): See
            :func:`~pyg_mmkgc.studies.run_study`. (default: :obj:`"atlas"`)
        model (str, optional): A model, a recipe or its file. (default: :obj:`"mocme"`)
        root (str, optional): The folder of all datasets.
        mirror (str, optional): A folder or an address of the published files.
        dataset_options (Mapping[str, Any], optional): Further arguments of the dataset.
        trials (int, optional): The number of trials in the journal after which the search ends.
            (default: :obj:`50`)
        timeout (float, optional): Seconds after which no trial begins. (default: :obj:`None`)
        overrides (Mapping[str, Any] or Sequence[str], optional): Other values of options of the
            recipe, where the search starts. (default: none)
        space (Mapping[str, Mapping], optional): See :func:`search_space`.
            (default: that of the model)
        workers (int, optional): Trials that run at once. (default: :obj:`1`)
        threads (int, optional): Threads of each. (default: :obj:`1`)
        out (str or os.PathLike, optional): The folder. (default: `studies/tune-<dataset>-<recipe>`)
        storage (str or os.PathLike, optional): The journal; one search at a time may use it.
            (default: `journal.log` in the folder)

    Raises:
        ImportError: If Optuna is missing.
        ValueError: If an option is wrong, the journal is that of another recipe, space or graph,
            or no trial was finished.
    """
    optuna = _optuna()
    for name, value in [('trials', trials), ('workers', workers), ('threads', threads)]:
        if value < 1:
            raise ValueError(f'{name!r} needs to be at least 1 (got {value})')
    source = Source(dataset if isinstance(dataset, GraphDataset) else os.fspath(dataset), {
        'root': root, 'mirror': mirror, **(dataset_options or {})})
    recipe = replace(load_recipe(model, source.name).override(overrides), dataset=source.name)
    data = source.load()
    check_recipe(recipe, data)
    parameters = search_space(recipe, data, space)
    folder = Path('studies', f'tune-{source.name}-{recipe.name}') if out is None else Path(out)
    journal = folder / JOURNAL if storage is None else Path(storage)
    journal.parent.mkdir(parents=True, exist_ok=True)

    key = {'recipe': {k: v for k, v in recipe.to_dict().items() if k not in NOTES},
           'space': [repr(parameter) for parameter in parameters], 'data': fingerprint(data)}
    study = _load(optuna, journal)
    _check_key(study, journal, json.loads(json.dumps(key)))
    _tidy(optuna, study, recipe, parameters)
    job = _Job(source, recipe, parameters, journal, trials, timeout, threads)
    if workers == 1:
        _work(job, 0)
    else:
        with ProcessPoolExecutor(workers, multiprocessing.get_context('spawn')) as executor:
            futures = [executor.submit(_work, job, i) for i in range(workers)]
            for future in as_completed(futures):
                future.result()
    return _finish(optuna, _load(optuna, journal), recipe, parameters, data, folder)


# The search #####################################################################################


@dataclass(frozen=True)
class _Job:
    source: Source
    recipe: Recipe
    parameters: Sequence[Parameter]
    journal: Path
    trials: int
    timeout: Optional[float]
    threads: int


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ImportError('tuning needs Optuna: pip install "pyg-mmkgc[tune]"') from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _load(optuna: Any, journal: Path, seed: int = 0) -> 'Study':
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    storage = optuna.storages.JournalStorage(JournalFileBackend(
        str(journal), lock_obj=JournalFileOpenLock(str(journal))))
    return optuna.create_study(
        study_name='tune', storage=storage, direction='maximize', load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5))


def _check_key(study: 'Study', journal: Path, key: Dict[str, Any]) -> None:
    old = study.user_attrs.get(KEY)
    if old is None:
        study.set_user_attr(KEY, key)
    elif old != key:
        changed = [part for part in key if old.get(part) != key[part]]
        raise ValueError(f"'{journal}' is the journal of another search: {' and '.join(changed)} "
                         f'differ; name another folder')


def _tidy(optuna: Any, study: 'Study', recipe: Recipe,
          parameters: Sequence[Parameter]) -> None:
    State = optuna.trial.TrialState
    if not study.trials:
        study.enqueue_trial(_start(recipe, parameters))
    for trial in study.get_trials(states=(State.RUNNING, )):
        # Of a search that was killed: it never ended, and is made again.
        study.tell(trial.number, state=State.FAIL)
        study.enqueue_trial(trial.params)


def _start(recipe: Recipe, parameters: Sequence[Parameter]) -> Dict[str, Any]:
    out = {}
    options = recipe.to_dict()
    for parameter in parameters:
        section, _, name = parameter.option.partition('.')
        value = options[section][name]
        if parameter.modality is not None and isinstance(value, Mapping):
            value = value.get(parameter.modality)
        if parameter.contains(value):
            out[parameter.name] = value
    return out


def _apply(recipe: Recipe, parameters: Sequence[Parameter], values: Mapping[str, Any]) -> Recipe:
    overrides: Dict[str, Any] = {}
    for parameter in parameters:
        value = values[parameter.name]
        if parameter.modality is None:
            overrides[parameter.option] = value
        else:
            overrides.setdefault(parameter.option, {})[parameter.modality] = value
    return recipe.override(overrides)


def _choosing(recipe: Recipe, data: HeteroData) -> Tuple[Recipe, HeteroData]:
    # What trials are trained on: nothing is chosen on a split that stands in train.
    recipe = recipe.override({'train.select': 'val'})
    if 'val' in split_names(data) and is_spent(data, 'val'):
        config = recipe.train_config()
        data = hold_out(data, config.held_out, config.seed)
    return recipe, data


def _work(job: _Job, number: int) -> None:
    optuna = _optuna()
    State = optuna.trial.TrialState
    study = _load(optuna, job.journal, seed=number)
    ended = (State.COMPLETE, State.PRUNED)
    counted = len(study.get_trials(deepcopy=False, states=ended))
    if counted >= job.trials:
        return
    with one_process(job.threads):
        recipe, data = _choosing(job.recipe, job.source.load())

        def objective(trial: 'Trial') -> float:
            changed = _apply(recipe, job.parameters, {
                parameter.name: parameter.suggest(trial) for parameter in job.parameters})
            start = time.perf_counter()

            def on_epoch(entry: Dict[str, Any]) -> None:
                if 'val_mrr' not in entry:
                    return
                trial.report(entry['val_mrr'], entry['epoch'])
                if trial.should_prune():
                    raise optuna.TrialPruned

            try:
                result = Fit(changed, data, on_epoch=on_epoch)()
            except (FloatingPointError, MemoryError) as error:
                logger.info('Trial %d: %s', trial.number, error)
                raise optuna.TrialPruned from error
            if result.interrupted or result.best_mrr is None:  # None before the first look.
                raise KeyboardInterrupt
            trial.set_user_attr(EPOCH, result.best_epoch)
            trial.set_user_attr(SECONDS, time.perf_counter() - start)
            logger.info('Trial %d: validation MRR %.4f in epoch %d', trial.number, result.best_mrr,
                        result.best_epoch)
            return result.best_mrr

        study.optimize(objective, timeout=job.timeout,
                       callbacks=[optuna.study.MaxTrialsCallback(job.trials, states=ended)])


def _finish(optuna: Any, study: 'Study', recipe: Recipe, parameters: Sequence[Parameter],
            data: HeteroData, folder: Path) -> Tuning:
    State = optuna.trial.TrialState
    done = study.get_trials(states=(State.COMPLETE, ))
    if not done:
        raise ValueError(f'No trial was finished ({len(study.trials)} were begun)')
    best, pruned = study.best_trial, len(study.get_trials(states=(State.PRUNED, )))
    number = len(done) + pruned
    spent = is_spent(data, 'val')
    found = _apply(recipe, parameters, best.params)
    if recipe.train_config().select is None:
        found = found.override({'train.epochs': best.user_attrs[EPOCH]})
    config = found.train_config()
    where = f'{config.held_out:.0%} of train, held out' if spent else 'val'
    seconds = sum(t.duration.total_seconds() for t in study.trials if t.duration is not None)
    found = replace(
        found, name=Path(RECIPE).stem, expected={'val': {'mrr': round(study.best_value, 4)}},
        protocol=f'tuned: the best of {number} trials by MRR on {where}, seed '
                 f'{config.seed}, filtered by all splits, both sides, realistic ranks; test was '
                 f'not looked at',
        machine=machine(),
        time={'trial_seconds': round(best.user_attrs[SECONDS]), 'search_seconds': round(seconds)})
    with atomic_write(folder / RECIPE) as f:
        f.write(f'# The best of `pyg-mmkgc tune`; '
                f'`pyg-mmkgc train --recipe {folder / RECIPE}` trains it.\n')
        yaml.safe_dump(found.to_dict(), f, sort_keys=False, allow_unicode=True)
    return Tuning(folder / RECIPE, found, study.best_value, number, pruned)
