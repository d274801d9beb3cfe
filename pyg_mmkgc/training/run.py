r"""A training run from the dataset's name to a folder with everything that it left behind."""
import errno
import hashlib
import json
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NoReturn, Optional, Tuple, Union

import torch
import torch_geometric
import yaml
from torch import Tensor
from torch_geometric.data import HeteroData

import pyg_mmkgc
from pyg_mmkgc.data import (
    EDGE,
    EntityContents,
    entity_contents,
    get_triples,
    modality_dicts,
    split_names,
)
from pyg_mmkgc.data.io import PathLike, atomic_write, remove_temporaries
from pyg_mmkgc.datasets import GraphDataset, MMKGFolder, get_dataset, normalize_name
from pyg_mmkgc.evaluation import Explanation, evaluate, explain, predict
from pyg_mmkgc.evaluation.memory import OutOfMemoryError, explain_out_of_memory
from pyg_mmkgc.nn import KGModel, MultiModalModel
from pyg_mmkgc.nn.models.pretrained import load_weights, save_weights, write_pretrained
from pyg_mmkgc.nn.sharded_embedding import ShardedEmbedding
from pyg_mmkgc.training.calibrate import calibrate
from pyg_mmkgc.training.checkpoint import Checkpoints, StopRequest, lock_folder, stop_signals
from pyg_mmkgc.training.distributed import Processes, close, is_first_process, launch, world
from pyg_mmkgc.training.fit import Fit
from pyg_mmkgc.training.model_card import model_card
from pyg_mmkgc.training.plots import (
    plot_curves,
    plot_modality_weights,
    plot_reliability,
    relation_modality_weights,
)
from pyg_mmkgc.training.recipe import (
    BASELINE,
    Overrides,
    Recipe,
    find_recipe,
    load_recipe,
    load_yaml,
)
from pyg_mmkgc.training.suspects import cross_predict, suspects
from pyg_mmkgc.training.trainer import TrainResult

CONFIG, HISTORY, WEIGHTS = 'config.yaml', 'history.jsonl', 'model.safetensors'
METRICS, CURVES, MODALITY_WEIGHTS = 'metrics.json', 'curves.png', 'modality_weights.png'
CHECKPOINTS = 'checkpoints'
CALIBRATION, RELIABILITY = 'calibration.json', 'reliability.png'
#: Options of the training that say how many processes share the work, and change no result.
PROCESS_OPTIONS = ('devices', 'num_nodes', 'shard_tables', 'timeout_minutes')
#: Room for everything in a run folder but the weights.
SPARE_BYTES = 2**20

logger = logging.getLogger(__name__)


@dataclass
class Run:
    r"""A training run: the folder that it is kept in, and what is in there.

    Args:
        path (Path): The folder.
        config (Dict[str, Any]): What stands in `config.yaml`.
        model (KGModel): The model with its best weights.
        data (HeteroData): The graph.
        metrics (Dict[str, Dict[str, Any]]): For each test split what stands in `metrics.json`;
            empty if the run was interrupted.
        history (List[Dict[str, Any]]): What stands in `history.jsonl`.
        interrupted (bool): Whether it ended before it had metrics, by Ctrl-C say.
        calibration (Dict[str, Any]): What stands in `calibration.json`.
        dataset (GraphDataset, optional): The dataset that the graph is from, if it was not given.
    """
    path: Path
    config: Dict[str, Any]
    model: KGModel
    data: HeteroData
    metrics: Dict[str, Dict[str, Any]] = field(default_factory=dict)
    history: List[Dict[str, Any]] = field(default_factory=list)
    interrupted: bool = False
    calibration: Dict[str, Any] = field(default_factory=dict)
    dataset: Optional[GraphDataset] = None

    def evaluate(self, split: str = 'test', log: bool = False,
                 batch_size: Optional[int] = None) -> Dict[str, Any]:
        r"""Rank a split; the result has the shape of `metrics.json` without the baseline.

        Args:
            split (str, optional): The split. (default: :obj:`"test"`)
            log (bool, optional): Whether to show a progress bar. (default: :obj:`False`)
            batch_size (int, optional): Queries scored at once.
                (default: see :func:`~pyg_mmkgc.evaluation.rank`)
        """
        name = self.config['name'], self.config['model']['name'], self.config['train']['seed']
        return _metrics(name, self.model, self.data, split, log, batch_size)

    def predict(self, **kwargs: Any) -> List[Dict[str, Any]]:
        r"""Answer a question in words; the arguments are those of
        :func:`~pyg_mmkgc.evaluation.predict`, the temperature that of the run if it has one."""
        kwargs.setdefault('temperature', self.calibration.get('temperature'))
        with explain_out_of_memory('predicting', "take device 'cpu'"):
            return predict(self.model, self.data, **kwargs)

    def explain(self, head: Union[str, int], relation: Union[str, int], tail: Union[str, int],
                top: int = 5) -> Explanation:
        r"""Why an answer has the score that it has, see :func:`~pyg_mmkgc.evaluation.explain`, with
        what the dataset has to show of its entities.

        Args:
            head (str or int): The label of the head, or its id.
            relation (str or int): The label or id of the relation.
            tail (str or int): The label or id of the tail.
            top (int, optional): The number of similar training facts. (default: :obj:`5`)
        """
        with explain_out_of_memory('explaining', "take device 'cpu'"):
            out = explain(self.model, self.data, head, relation, tail, top=top,
                          temperature=self.calibration.get('temperature'))
        return out.with_contents(self.contents)

    def contents(self, entity: int) -> EntityContents:
        r"""What of an entity people can look at.

        Args:
            entity (int): The entity's id.
        """
        if self.dataset is None:
            return entity_contents(self.data, entity)
        return self.dataset.contents(entity)

    def encode_entity(self, contents: Mapping[str, Any]) -> Dict[str, Tensor]:
        r"""Features of an entity that the graph does not hold, by the encoders of the dataset, see
        :meth:`~pyg_mmkgc.datasets.GraphDataset.encode_entity`.

        Args:
            contents (Mapping[str, Any]): For each modality at hand a text, the path of a file, or
                numbers by name.
        """
        if self.dataset is None:
            raise ValueError("the run was loaded for given 'data', so its encoders are not at hand "
                             '(expected features)')
        return self.dataset.encode_entity(contents)

    def save_pretrained(self, folder: PathLike, features: bool = False,
                        triples: bool = True) -> Path:
        r"""Write a folder that the model can be used from without the run and, with its features,
        without the data: that of :meth:`~pyg_mmkgc.nn.KGModel.save_pretrained`, with the
        temperature of probabilities, the recipe as `recipe.yaml`, and a model card that says what
        it was trained on, how good it is by which protocol, and how to reproduce it.

        Args:
            folder (str or os.PathLike): A new folder, or an empty one.
            features (bool, optional): See :meth:`~pyg_mmkgc.nn.KGModel.save_pretrained`.
                (default: :obj:`False`)
            triples (bool, optional): The same. (default: :obj:`True`)

        Raises:
            FileExistsError: If there is something of that name that is no empty folder.
        """
        parts = {part: self.config[part] for part in ('model', 'sampler', 'train')}
        recipe = yaml.safe_dump(Recipe.from_dict(self.config['name'], parts).to_dict(),
                                sort_keys=False, allow_unicode=True)
        notes = model_card(self.data, self.config, self.metrics, self.calibration)
        return write_pretrained(self.model, folder, features, triples,
                                self.calibration.get('temperature'), notes,
                                {'recipe.yaml': recipe})

    def suspects(self, split: str = 'train', top: int = 20, folds: Optional[int] = None,
                 log: bool = False) -> List[Dict[str, Any]]:
        r"""The known triples of a split that are least plausible, see
        :func:`~pyg_mmkgc.training.suspects`.

        Args:
            split (str, optional): The split. (default: :obj:`"train"`)
            top (int, optional): The number of triples. (default: :obj:`20`)
            folds (int, optional): Judge each training triple by a model that was trained without
                it, one for each fold. (default: :obj:`None`, by the model of the run)
            log (bool, optional): Whether to show progress bars. (default: :obj:`False`)
        """
        if folds is not None:
            if split != 'train':
                raise ValueError(f"'folds' are of split 'train', of which the others are held out "
                                 f'already (got {split!r})')
            parts = {part: self.config[part] for part in ('model', 'sampler', 'train')}
            recipe = Recipe.from_dict(self.config['name'], parts)
            return suspects(self.data, cross_predict(recipe, self.data, folds, log), split, top)
        head_index, rel_type, tail_index = (
            x.to(_device(self)) for x in get_triples(self.data, split))
        with explain_out_of_memory('ranking', "take device 'cpu'"):
            found = self.model.predict_triples(
                head_index, rel_type, tail_index,
                temperature=self.calibration.get('temperature') or 1.0)
        return suspects(self.data, found, split, top)

    def examples(self, split: str = 'test', num: int = 5, top: int = 3) -> List[Dict[str, Any]]:
        r"""Answers to questions that a split knows an answer to, to be looked at: the first
        triple of each of the most frequent relations. What training says is left out.

        Args:
            split (str, optional): The split. (default: :obj:`"test"`)
            num (int, optional): The number of questions. (default: :obj:`5`)
            top (int, optional): The number of answers. (default: :obj:`3`)

        Returns:
            List[Dict[str, Any]]: The labels ``'head'``, ``'relation'`` and ``'tail'`` of the
            triple, and the ``'answers'``, see :func:`~pyg_mmkgc.evaluation.predict`.
        """
        head_index, rel_type, tail_index = (x.tolist() for x in get_triples(self.data, split))
        entities, relations = self.data['entity'].label, self.data[EDGE].label
        first = {r: i for i, r in reversed(list(enumerate(rel_type)))}
        out = []
        for r in sorted(first, key=lambda r: (-rel_type.count(r), r))[:num]:
            head, tail = head_index[first[r]], tail_index[first[r]]
            answers = self.predict(head=head, relation=r, top=top, exclude=['train'])
            out.append({'head': entities[head], 'relation': relations[r], 'tail': entities[tail],
                        'answers': answers})
        return out

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({str(self.path)!r}, {self.model})'


def train_run(
    dataset: Union[str, 'os.PathLike[str]', GraphDataset] = 'atlas',
    model: str = 'mocme',
    *,
    root: Optional[PathLike] = None,
    mirror: Optional[PathLike] = None,
    epochs: Optional[int] = None,
    seed: Optional[int] = None,
    device: Optional[str] = None,
    devices: Optional[int] = None,
    out: Optional[PathLike] = None,
    overrides: Overrides = (),
    dataset_options: Optional[Mapping[str, Any]] = None,
    profile: Optional[PathLike] = None,
    log: bool = False,
) -> Run:
    r"""Train a model by its recipe, the structure-only baseline beside it, evaluate both, and keep
    everything in a new folder:

    ======================== ==================================================================
    `config.yaml`            all options, versions, and hashes of the data
    `history.jsonl`          one line for each epoch, written as it goes
    `model.safetensors`      the best weights
    `curves.png`             loss and validation MRR
    `modality_weights.png`   how much each modality counts under each relation
    `calibration.json`       the temperature of probabilities, and how far these can be relied on
    `reliability.png`        the same as a picture
    `metrics.json`           the metrics on test; written last, so that it marks a finished run
    `metrics-<split>.json`   the same for each further test split
    ======================== ==================================================================

    Each file appears whole or not at all. A folder that exists is never written into; one that no
    weights came into is removed again. After Ctrl-C the best weights so far are kept, and after an
    epoch where memory does not suffice, too.

    Until the run is finished, the folder `checkpoints` holds the last two states of the training,
    with which :func:`resume_run` goes on after whatever ended it. Ctrl-C and SIGTERM write one more
    at the end of the step; a second Ctrl-C does not wait for that.

    Several processes train together if there are several :obj:`devices`, or if `torchrun` has
    started them. The first one writes all files, trains the baseline and returns; the others end
    here, by :class:`SystemExit`, when the training does.

    Args:
        dataset (str or os.PathLike or GraphDataset, optional): The name of a dataset, a folder,
            or a dataset. (default: :obj:`"atlas"`)
        model (str, optional): The name of the model, whose recipe for the dataset is used, or that
            of a recipe, or its file, see :func:`load_recipe`. (default: :obj:`"mocme"`)
        root (str, optional): The folder of all datasets. (default: `$PYG_MMKGC_ROOT`, else
            `./datasets`)
        mirror (str, optional): A folder or an address that holds `<NAME>/<file>`.
            (default: `$PYG_MMKGC_MIRROR`, else none)
        epochs (int, optional): The largest number of epochs, which the baseline must not exceed
            either. (default: as the recipes say)
        seed (int, optional): The seed. (default: as the recipe says)
        device (str, optional): ``'cpu'``, ``'cuda'`` or ``'auto'``. (default: as the recipe says)
        devices (int, optional): Processes on each machine. (default: as the recipe says)
        out (str or os.PathLike, optional): The folder to make.
            (default: `runs/<model>-<dataset>-<seed>-<time>`)
        overrides (Mapping[str, Any] or Sequence[str], optional): Other values of options, see
            :meth:`Recipe.override`. (default: none)
        dataset_options (Mapping[str, Any], optional): Further arguments of a dataset that is given
            by its name, such as ``splits='clean'``; what YAML can hold. (default: none)
        profile (str or os.PathLike, optional): Where to write a profile of the first steps, see
            :class:`Trainer`. (default: none)
        log (bool, optional): Whether to show progress bars. (default: :obj:`False`)

    Raises:
        ValueError: If a name, an option or the data is wrong.
        FileExistsError: If the folder exists.
        OSError: If it cannot be written.
        FloatingPointError: If the loss is not finite.
        MemoryError: If memory does not suffice; the message says what to lower.
        LostProcessError: If another process has ended or does not answer.
    """
    if is_first_process():
        if out is not None:
            _check_new(Path(out))
        if profile is not None and Path(profile).exists():
            raise FileExistsError(f"The profile '{profile}' exists and is not overwritten")
    dataset_options = dict(dataset_options or {})
    explicit = {key: value for key, value in [
        ('train.epochs', epochs), ('train.seed', seed), ('train.device', device),
        ('train.devices', devices)] if value is not None}
    processes = Processes()
    if isinstance(dataset, GraphDataset):
        if dataset_options:
            raise ValueError(f"'dataset_options' are for a dataset that is given by its name (got "
                             f'{dataset_options} and {dataset})')
    else:
        name = os.fspath(dataset)
        # What is wrong with them is found early.
        recipe = load_recipe(model, name).override(overrides).override(explicit)
        root, mirror = _absolute(root), _absolute(mirror)
        processes = _launch(recipe)
        with processes.first():
            dataset = get_dataset(name, root=root, mirror=mirror, **dataset_options)
    data, name = dataset[0], _name(dataset)
    recipe = load_recipe(model, name).override(overrides).override(explicit)
    _check_device(recipe.train_config().device)
    processes = _launch(recipe)
    if 'test' not in split_names(data):
        raise ValueError(f"The data has no split 'test' (got {split_names(data)})")
    if not processes.is_first:
        _help(recipe, data)
    baseline = None if recipe.model['name'] == BASELINE else _baseline(recipe, name, epochs)
    config = {
        'name': name,
        'recipe': recipe.name,
        'root': root,
        'mirror': mirror,
        'dataset_options': dataset_options,
        **recipe.to_dict(),
        'dataset': _absolute(dataset.path) if isinstance(dataset, MMKGFolder) else name,
        'baseline': None if baseline is None else baseline.to_dict(),
        'versions': _versions(),
        'data': fingerprint(data),
    }
    fit = Fit(recipe, data, log, profile=profile)

    seed = recipe.train_config().seed
    default = f'{recipe.model["name"]}-{name}-{seed}-{time.strftime("%Y%m%d-%H%M%S")}'
    with stop_signals() as stop, _new_folder(out, default) as path, lock_folder(path):
        _write_config(path, config)
        run = Run(path, config, fit.model, data, dataset=dataset)
        _check_space(path, run.model)
        logger.info('Training %s on %s, run folder %s', recipe.model['name'], name, path)
        _complete(run, fit, baseline, stop, log)
    return run


def resume_run(path: PathLike, *, data: Optional[HeteroData] = None,
               root: Optional[PathLike] = None, mirror: Optional[PathLike] = None,
               devices: Optional[int] = None, log: bool = False) -> Run:
    r"""Go on with a run that was stopped, or killed, from its last checkpoint (from the beginning
    if there is none). On CPU, with the same number of threads, the result is bit for bit that of a
    run which nothing has stopped. Another number of processes than before may go on, see
    :func:`train_run`; the result is then the same within rounding.

    Args:
        path (str or os.PathLike): The folder. That of a finished run is loaded, with a warning.
        data (HeteroData, optional): The graph, if it was none that has a name or a folder.
            (default: :obj:`None`, loaded anew)
        root (str, optional): The folder of all datasets. (default: as in training)
        mirror (str, optional): See :func:`train_run`. (default: as in training)
        devices (int, optional): Processes on each machine. (default: as in training)
        log (bool, optional): Whether to show progress bars. (default: :obj:`False`)

    Raises:
        FileNotFoundError: If the folder or a file that it must have is missing.
        ValueError: If a file is damaged, the data or an option is not what it was, the checkpoint
            is of another format, or another process is training in the folder.
        FloatingPointError: If the loss is not finite.
        MemoryError: If memory does not suffice; the message says what to lower.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"There is no run folder '{path}'")
    if not is_first_process():
        _help_resume(path, data, root, mirror, devices)
    with stop_signals() as stop, lock_folder(path):
        config, recipe = _read_config(path / CONFIG)
        remove_temporaries(path)
        if (path / METRICS).exists():
            shutil.rmtree(path / CHECKPOINTS, ignore_errors=True)
            logger.warning('The run in %s is finished: there is nothing to resume', path)
            return load_run(path, data=data, root=root, mirror=mirror,
                            device=recipe.train_config().device)
        device, baseline = recipe.train_config().device, _read_baseline(path / CONFIG, config)
        _check_device(device)
        dataset = None
        if data is None:
            dataset = _run_dataset(config, root, mirror)
            data = dataset[0]
        _check_fingerprint(path / CONFIG, config['data'], data)
        with _telling_how_to_go_on(path):
            if config.get('result', {'interrupted': True})['interrupted']:
                if devices is not None:  # Else one alone would start those that there were.
                    recipe = recipe.override({'train.devices': devices})
                _launch(recipe)
                fit = Fit(recipe, data, log)
                run = Run(path, config, fit.model, data, dataset=dataset)
                logger.info('Going on with the training in %s', path)
                _complete(run, fit, baseline, stop, log)
            else:
                run = Run(path, config, _load_model(path, recipe, data, device), data,
                          history=_read_history(path), dataset=dataset)
                logger.info('Going on behind the training in %s', path)
                _conclude(run, baseline, stop, log)
    return run


def load_run(path: PathLike, *, data: Optional[HeteroData] = None, root: Optional[PathLike] = None,
             mirror: Optional[PathLike] = None, device: str = 'auto') -> Run:
    r"""Load a run from its folder. Nothing is unpickled.

    Args:
        path (str or os.PathLike): The folder.
        data (HeteroData, optional): The graph, if it was none that has a name or a folder.
            (default: :obj:`None`, loaded anew)
        root (str, optional): The folder of all datasets. (default: as in training)
        mirror (str, optional): See :func:`train_run`. (default: as in training)
        device (str, optional): ``'cpu'``, ``'cuda'`` or ``'auto'``. (default: :obj:`"auto"`)

    Raises:
        FileNotFoundError: If the folder or a file that it must have is missing.
        ValueError: If a file is damaged or does not fit, or the data is not what the model was
            trained on. The message names the file.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"There is no run folder '{path}'")
    _check_device(device)
    config, recipe = _read_config(path / CONFIG)
    dataset = None
    if data is None:
        dataset = _run_dataset(config, root, mirror)
        data = dataset[0]
    _check_fingerprint(path / CONFIG, config['data'], data)
    model = _load_model(path, recipe, data, device)
    metrics = {}
    for file in sorted(path.glob(f'{Path(METRICS).stem}*.json')):
        values = _read_json(file, file.read_text(encoding='utf-8'))
        metrics[str(values.get('split'))] = values
    calibration = {}
    if (path / CALIBRATION).is_file():
        calibration = _read_json(path / CALIBRATION, (path / CALIBRATION).read_text('utf-8'))
    return Run(path, config, model, data, metrics, _read_history(path),
               METRICS not in {file.name for file in path.iterdir()}, calibration, dataset)


def fingerprint(data: HeteroData) -> Dict[str, str]:
    r"""The SHA-256 of the triples (of each split, in order), of the labels and of the features
    (with their masks) of a graph.

    Args:
        data (HeteroData): The graph.
    """
    triples, labels, features = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    for split in split_names(data):
        index = torch.stack(get_triples(data, split)).long().cpu().contiguous()
        triples.update(f'{split} {list(index.shape)}'.encode())
        triples.update(index.numpy().data)
    for store in (data['entity'], data[EDGE]):
        labels.update(json.dumps(list(store.label)).encode())
    for name, x in modality_dicts(data)[0].items():
        x = x.float().cpu().contiguous()
        features.update(f'{name} {list(x.shape)}'.encode())
        features.update(x.numpy().data)
        features.update(data['entity'][f'{name}_mask'].cpu().contiguous().numpy())
    return {'triples': triples.hexdigest(), 'labels': labels.hexdigest(),
            'features': features.hexdigest()}


# The parts of a run #############################################################################


def _baseline(recipe: Recipe, dataset: str, epochs: Optional[int]) -> Recipe:
    # By its own recipe, so that it is as strong as it can be.
    baseline = find_recipe(BASELINE, dataset)
    overrides = {'train.seed': recipe.train_config().seed,
                 'train.device': recipe.train_config().device}
    if epochs is not None:
        overrides['train.epochs'] = min(epochs, baseline.train_config().epochs)
    return baseline.override(overrides)


def _launch(recipe: Recipe, devices: Optional[int] = None) -> Processes:
    config = recipe.train_config()
    devices, num_nodes = world(devices or config.devices, config.num_nodes)
    return launch(config.device, devices, num_nodes, config.timeout_minutes)


def _help(recipe: Recipe, data: HeteroData) -> NoReturn:
    # All that a further process does: it trains, and the first one keeps what comes of it.
    logging.getLogger(pyg_mmkgc.__name__).setLevel(logging.ERROR)  # The first one says it.
    with stop_signals() as stop:
        Fit(recipe, data, checkpoints=Checkpoints(stop=stop))()
    sys.exit(0)  # After Ctrl-C, too: the first one has still to save.


def _help_resume(path: Path, data: Optional[HeteroData], root: Optional[PathLike],
                 mirror: Optional[PathLike], devices: Optional[int]) -> NoReturn:
    config, recipe = _read_config(path / CONFIG)
    if (path / METRICS).exists() or not config.get('result', {'interrupted': True})['interrupted']:
        sys.exit(0)  # Nothing is left to train.
    data = _run_dataset(config, root, mirror)[0] if data is None else data
    _check_fingerprint(path / CONFIG, config['data'], data)
    _launch(recipe, devices)
    _help(recipe, data)


def _complete(run: Run, fit: Fit, baseline: Optional[Recipe], stop: StopRequest,
              log: bool) -> None:
    # The training, from its beginning or its last checkpoint, and all that follows.
    fit.checkpoints = _checkpoints(run, 'model', fit.recipe, stop)
    history = _History(run)
    result = _fit(run, fit, history)
    run.interrupted = result.interrupted
    run.config['result'] = {
        'best_epoch': result.best_epoch,
        'best_val_mrr': result.best_mrr,
        'epochs': len(result.history),
        'interrupted': result.interrupted,
        'seconds': round(history.seconds(), 2),
    }
    _write_config(run.path, run.config)
    if not run.interrupted and fit.checkpoints.folder is not None:
        shutil.rmtree(fit.checkpoints.folder, ignore_errors=True)
    close()  # The other processes have nothing left to do.
    _conclude(run, baseline, stop, log)


def _conclude(run: Run, baseline: Optional[Recipe], stop: StopRequest, log: bool) -> None:
    # What follows the training.
    try:
        with explain_out_of_memory('drawing', "lower 'model.hidden_channels'"):
            _draw(run)
        if not run.interrupted:
            _finish(run, baseline, stop, log)
            shutil.rmtree(run.path / CHECKPOINTS, ignore_errors=True)
    except KeyboardInterrupt:  # Later than the training, so the weights are safe.
        run.interrupted = True
    except OutOfMemoryError as error:
        raise OutOfMemoryError(f"{error}; the weights are in '{run.path / WEIGHTS}'") from error
    if run.interrupted:
        logger.warning('Interrupted after %d epochs: the best weights so far are in %s; to go on: '
                       '%s', len(run.history), run.path / WEIGHTS, _resume_command(run.path))


def _checkpoints(run: Run, name: str, recipe: Recipe, stop: StopRequest) -> Checkpoints:
    options = {part: recipe.to_dict()[part] for part in ('model', 'sampler', 'train')}
    # Any number of processes may go on.
    options['train'] = {key: value for key, value in options['train'].items()
                        if key not in PROCESS_OPTIONS}
    return Checkpoints(run.path / CHECKPOINTS / name, recipe.train_config().checkpoint_minutes,
                       {**options, 'data': run.config['data']}, stop)


class _History:
    r"""The history of a run, in its file as it is made; a part of the checkpoints, too."""
    def __init__(self, run: Run):
        self.path, self.entries, self.start = run.path / HISTORY, run.history, time.perf_counter()
        self.whole = False  # Whether the file has all entries.
        self.rewrite()

    def append(self, entry: Dict[str, Any]) -> None:
        self.entries.append(entry)
        try:
            if self.whole:
                self.whole = False
                with open(self.path, 'a', encoding='utf-8', newline='\n') as f:
                    f.write(json.dumps(entry) + '\n')
                self.whole = True
            else:
                self.rewrite()
        except OSError as error:
            logger.warning("The history in '%s' is not complete (%s); training goes on", self.path,
                           error)

    def rewrite(self) -> None:
        self.whole = False
        with atomic_write(self.path) as f:
            f.writelines(json.dumps(entry) + '\n' for entry in self.entries)
        self.whole = True

    def seconds(self) -> float:
        r"""How long the training has taken, in all processes."""
        return time.perf_counter() - self.start

    def state_dict(self) -> Dict[str, Any]:
        return {'entries': list(self.entries), 'seconds': self.seconds()}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        self.entries[:] = state['entries']
        self.start -= state['seconds']
        self.rewrite()


def _fit(run: Run, fit: Fit, history: _History) -> TrainResult:
    fit.on_epoch = history.append
    fit.checkpoints.attach('history', history)
    try:
        result = fit()
    except (FloatingPointError, OutOfMemoryError) as error:
        if any(isinstance(table, ShardedEmbedding) for table in fit.model.entity_tables()):
            raise  # Each process has a part of the weights.
        run.model = fit.model
        # Weights of an epoch that nobody looked at are as good as after Ctrl-C, or not finite.
        kept = fit.kept or isinstance(error, MemoryError) and len(run.history) > 0
        latest = None if kept else fit.checkpoints.latest()
        if latest is not None:
            run.model.load_state_dict(latest['training']['model'])
            kept = True
        if not kept:
            raise
        save_weights(run.path / WEIGHTS, run.model)
        raise type(error)(f"{error}; the best weights before that are in "
                          f"'{run.path / WEIGHTS}'") from error
    if not history.whole:
        history.rewrite()
    run.model = fit.model
    save_weights(run.path / WEIGHTS, run.model)
    return result


def _draw(run: Run) -> None:
    plot_curves(run.history, run.path / CURVES)
    model, entity = run.model, torch.zeros(1, dtype=torch.long, device=_device(run))
    if not isinstance(model, MultiModalModel) or model.modality_weights(entity) is None:
        return
    plot_modality_weights(relation_modality_weights(model, run.data), model.modalities,
                          run.data[EDGE].label, run.path / MODALITY_WEIGHTS)


def _finish(run: Run, baseline: Optional[Recipe], stop: StopRequest, log: bool) -> None:
    _calibrate(run)
    # The metrics of `'test'` are written last: their file says that the run is finished.
    splits = sorted(set(split_names(run.data)) - {'train', 'val', 'test'}) + ['test']
    metrics = {split: run.evaluate(split) for split in splits}
    if baseline is None:
        for values in metrics.values():  # The model is the structure-only one itself.
            values['baseline'] = dict(values)
    else:
        logger.info('Training the structure-only baseline %s', baseline.model['name'])
        fit = Fit(baseline, run.data, log,
                  checkpoints=_checkpoints(run, 'baseline', baseline, stop))
        if fit().interrupted:
            run.interrupted = True
            return
        name = run.config['name'], baseline.model['name'], baseline.train_config().seed
        for split, values in metrics.items():
            values['baseline'] = _metrics(name, fit.model, run.data, split)
    for split, values in metrics.items():
        stem, suffix = os.path.splitext(METRICS)
        with atomic_write(run.path / (METRICS if split == 'test' else f'{stem}-{split}{suffix}')
                          ) as f:
            json.dump(values, f, indent=2, ensure_ascii=False)
            f.write('\n')
    run.metrics = metrics


def _calibrate(run: Run) -> None:
    run.calibration, parts = calibrate(run.model, run.data)
    if parts:
        plot_reliability(parts, run.path / RELIABILITY)
    else:
        logger.warning('Probabilities are not calibrated: %s', run.calibration['reason'])
    with atomic_write(run.path / CALIBRATION) as f:
        json.dump(run.calibration, f, indent=2)
        f.write('\n')


def _metrics(name: Tuple[str, str, int], model: KGModel, data: HeteroData, split: str,
             log: bool = False, batch_size: Optional[int] = None) -> Dict[str, Any]:
    return {'dataset': name[0], 'model': name[1], 'seed': name[2],
            **evaluate(model, data, split, batch_size=batch_size, log=log).to_dict()}


def _device(run: Run) -> torch.device:
    return next(run.model.parameters()).device


# Files ##########################################################################################


@contextmanager
def _new_folder(out: Optional[PathLike], default: str) -> Iterator[Path]:
    # A new folder, which goes away again if it fails before it holds any weights.
    path = Path('runs', default) if out is None else Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        try:
            path.mkdir()
            break
        except FileExistsError:
            if out is not None:
                _check_new(path)
                raise
            number += 1  # Another run of the same second.
            path = Path('runs', f'{default}-{number}')
    try:
        with _telling_how_to_go_on(path):
            yield path
    except BaseException:
        if not ((path / WEIGHTS).exists() or _has_checkpoint(path)):
            shutil.rmtree(path / CHECKPOINTS, ignore_errors=True)
            for name in (CONFIG, HISTORY):
                (path / name).unlink(missing_ok=True)
            with suppress(OSError):  # Not empty: somebody else wrote into it.
                path.rmdir()
        raise


@contextmanager
def _telling_how_to_go_on(path: Path) -> Iterator[None]:
    # Where the reason lies outside of the training.
    try:
        yield
    except (OSError, MemoryError, KeyboardInterrupt):
        if _has_checkpoint(path):
            logger.warning('To go on from the last checkpoint: %s', _resume_command(path))
        raise


def _resume_command(path: Path) -> str:
    return f'pyg-mmkgc train --resume {shlex.quote(str(path))}'


def _has_checkpoint(path: Path) -> bool:
    return any((path / CHECKPOINTS).glob('*/[0-9]*.safetensors'))


def _check_new(path: Path) -> None:
    if os.path.lexists(path):
        raise FileExistsError(f"The run folder '{path}' exists; a run is never overwritten, name "
                              f'another one')


def _check_space(path: Path, model: KGModel) -> None:
    # Before the training rather than after it.
    needed = SPARE_BYTES + sum(x.numel() * x.element_size() for x in model.state_dict().values())
    free = shutil.disk_usage(path).free
    if free < needed:
        raise OSError(errno.ENOSPC, f'No space left for a run (needed: {needed / 2**20:.0f} MiB, '
                                    f'free: {free / 2**20:.0f} MiB)', str(path))


def _check_device(device: str) -> None:
    available = {'auto': True, 'cpu': True, 'cuda': torch.cuda.is_available(),
                 'mps': torch.backends.mps.is_available()}
    if not available.get(device, False):
        raise ValueError(f"'device' {device!r} is unknown or not there (expected one of "
                         f'{[name for name, there in available.items() if there]})')


def _write_config(path: Path, config: Dict[str, Any]) -> None:
    with atomic_write(path / CONFIG) as f:
        yaml.safe_dump(config, f, sort_keys=False, allow_unicode=True)


def _read_config(path: Path) -> Tuple[Dict[str, Any], Recipe]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}', so this is no run folder")
    try:
        config = load_yaml(path.read_text(encoding='utf-8'))
        if not isinstance(config, dict) or not isinstance(config.get('data'), dict):
            raise ValueError("it needs a mapping with a mapping 'data'")
        missing = {'name', 'dataset', 'model', 'sampler', 'train'} - set(config)
        if missing:
            raise ValueError(f'{sorted(missing)[0]!r} is missing')
        parts = ('model', 'sampler', 'train')
        recipe = Recipe.from_dict(config['name'], {part: config[part] for part in parts})
        return {**config, **{part: recipe.to_dict()[part] for part in parts}}, recipe
    except ValueError as error:
        raise ValueError(f"'{path}' is damaged or of another version ({error})") from error


def _read_baseline(path: Path, config: Dict[str, Any]) -> Optional[Recipe]:
    if config.get('baseline') is None:
        return None
    try:
        return Recipe.from_dict(BASELINE, config['baseline'])
    except ValueError as error:
        raise ValueError(f"'{path}' is damaged or of another version ({error})") from error


def _read_history(path: Path) -> List[Dict[str, Any]]:
    return [_read_json(path / HISTORY, line)
            for line in (path / HISTORY).read_text(encoding='utf-8').splitlines()]


def _run_dataset(config: Dict[str, Any], root: Optional[PathLike],
                 mirror: Optional[PathLike]) -> GraphDataset:
    return get_dataset(config['dataset'], root=_absolute(root) or config.get('root'),
                       mirror=_absolute(mirror) or config.get('mirror'),
                       **config.get('dataset_options', {}))


def _load_model(path: Path, recipe: Recipe, data: HeteroData, device: str) -> KGModel:
    with explain_out_of_memory(f"loading '{path}'", "take device 'cpu'"):
        model = recipe.build(data)
        load_weights(path / WEIGHTS, model, path / CONFIG)
        return model.to(torch_geometric.device(device)).eval()


def _check_fingerprint(path: Path, expected: Dict[str, str], data: HeteroData) -> None:
    changed = [part for part, value in fingerprint(data).items() if expected.get(part) != value]
    if changed:
        raise ValueError(f"The {' and '.join(changed)} of the dataset are not those that the model "
                         f"was trained on (hashes in '{path}')")


def _read_json(path: Path, text: str) -> Dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{path}' is damaged ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"'{path}' is damaged (expected a mapping, got {value!r})")
    return value


# What is noted down #############################################################################


def _name(dataset: GraphDataset) -> str:
    if isinstance(dataset, MMKGFolder):
        return dataset.path.resolve().name
    return normalize_name(dataset.__class__.__name__)


def _absolute(path: Optional[PathLike]) -> Optional[str]:
    # So that the run finds its data from any folder; an address stays as it is.
    if path is None:
        return None
    path = os.fspath(path)
    return path if '://' in path else os.path.abspath(os.path.expanduser(path))


def _versions() -> Dict[str, Optional[str]]:
    return {
        'python': platform.python_version(),
        'torch': str(torch.__version__),
        'torch-geometric': torch_geometric.__version__,
        'pyg_mmkgc': pyg_mmkgc.__version__,
        'git': _git_hash(),
    }


def _git_hash() -> Optional[str]:
    # Of the package's own repository: an installed one may lie inside that of somebody else.
    folder = Path(pyg_mmkgc.__file__).parent

    def git(*args: str) -> str:
        return subprocess.run(['git', '-C', str(folder), *args], check=True, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.strip()

    try:
        git('ls-files', '--error-unmatch', '__init__.py')
        changed = bool(git('status', '--porcelain', '--untracked-files=no'))
        return git('rev-parse', 'HEAD') + ('-dirty' if changed else '')
    except (OSError, subprocess.CalledProcessError):
        return None
