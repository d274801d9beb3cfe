r"""Models as folders that stand on their own, without pickle."""
import json
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

import pyg_mmkgc
from pyg_mmkgc.data.hetero import (
    EDGE,
    HAS_LOOPS,
    SEEN,
    get_triples,
    set_modality,
    set_triples,
    split_names,
)
from pyg_mmkgc.data.io import PathLike, atomic_folder, read_tensors, write_tensors
from pyg_mmkgc.data.labels import Labels
from pyg_mmkgc.evaluation import predict

CONFIG, WEIGHTS, LABELS = 'config.json', 'model.safetensors', 'labels.json'
GRAPH, CARD = 'graph.safetensors', 'README.md'
#: What the weights are, in a run folder as well, and what is known of the graph.
WEIGHTS_FORMAT, GRAPH_FORMAT = 'KGModel 1', 'Graph 1'
#: The version of the folder. With another one comes a step in :data:`MIGRATIONS`; so it does with
#: another default of a base class, since only the defaults of a model itself are written down.
FORMAT_VERSION = 2
#: What has to stand in `config.json`, and its type.
KEYS = {'class': str, 'arguments': dict, 'num_entities': int, 'num_relations': int,
        'modalities': dict, 'splits': list, 'candidates': str, 'features': bool}


class Pretrained:
    r"""What makes a model a folder and back; a part of :class:`KGModel`.

    It notes down the arguments that a model was built with, whatever its class.
    """
    #: The temperature of probabilities that came with the folder.
    temperature: Optional[float] = None
    _arguments: Dict[str, Any]
    #: The labels of entities and relations of the folder, which other data has to have as well.
    _labels: Optional[Tuple[Labels, Labels]] = None

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if '__init__' in vars(cls):
            cls.__init__ = _recording(cls.__init__)  # type: ignore[method-assign]

    def save_pretrained(self, folder: PathLike, features: bool = False,
                        triples: bool = True) -> Path:
        r"""Write a folder that the model can be loaded from, whole or not at all:

        ===================== ====================================================================
        `config.json`         class, arguments, sizes, and the version of the format
        `model.safetensors`   the weights
        `labels.json`         labels of entities and relations in the order of their ids
        `graph.safetensors`   which entities training names, which relations it has loops of, and
                              triples and features if asked for
        `README.md`           the model card
        ===================== ====================================================================

        Nothing in there is pickled. The sampler of negatives is left out.

        Args:
            folder (str or os.PathLike): A new folder, or an empty one.
            features (bool, optional): Whether features and masks go with it, so that the model
                answers without the data. (default: :obj:`False`)
            triples (bool, optional): Whether the triples go with it, by which answers are marked
                as known and metrics are filtered. (default: :obj:`True`)

        Raises:
            ValueError: If the model knows no graph, has an argument that is not JSON, or looks
                triples up that are to be left out.
            FileExistsError: If there is something of that name that is no empty folder.
        """
        return write_pretrained(self, folder, features, triples, self.temperature)

    @classmethod
    def from_pretrained(cls, folder: PathLike, neg_sampling: Optional[Any] = None) -> Any:
        r"""Load what :meth:`save_pretrained` wrote, on CPU and in evaluation mode. Nothing is
        unpickled, and nothing that a file names is imported.

        A model that sees no modality, or whose features are in the folder, is ready for
        :meth:`predict`. Another one needs :meth:`attach` first.

        Args:
            folder (str or os.PathLike): The folder.
            neg_sampling (TripleNegativeSampling, optional): The sampler, to train on.
                (default: :obj:`None`)

        Raises:
            FileNotFoundError: If the folder or a file of it is missing.
            ValueError: If a file is damaged, of a newer version, or of another class than this
                one and those derived from it.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no folder '{folder}'")
        config = _read_config(folder / CONFIG)
        labels = _read_labels(folder / LABELS, config)
        model = _build(folder, config, _find_class(cls, folder / CONFIG, config['class']),
                       neg_sampling)
        model._labels = labels
        model.temperature = config['temperature']
        graph = _read_graph(folder / GRAPH, config, labels)
        if config['features'] or not config['modalities']:
            try:
                model.attach(graph)
            except ValueError as error:
                raise ValueError(f"'{folder / GRAPH}' does not fit '{folder / CONFIG}' "
                                 f'({error})') from error
        return model.eval()

    def predict(self, **kwargs: Any) -> List[Dict[str, Any]]:
        r"""Answer a question in words, by the graph that the model was given last, or was loaded
        with. The arguments are those of :func:`~pyg_mmkgc.evaluation.predict` but
        :obj:`features`.

        Raises:
            ValueError: If the model knows no graph, or an argument is invalid.
        """
        graph = _graph(self, 'answer')
        kwargs.setdefault('temperature', self.temperature)
        return predict(self, graph, **kwargs)

    def _check_labels(self, data: HeteroData) -> None:
        if self._labels is None:
            return
        for kind, own, store in zip(('entity', 'relation'), self._labels,
                                    (data['entity'], data[EDGE]), strict=True):
            other = store.label if 'label' in store else own
            for i, (expected, found) in enumerate(zip(own, other, strict=False)):
                if expected != found:
                    raise ValueError(f"{kind} {i} of 'data' is {found!r} (expected {expected!r}, "
                                     f'as the model was saved)')


# Files ##########################################################################################


def save_weights(path: PathLike, model: torch.nn.Module) -> None:
    r"""Write the weights of a model into a safetensors file, atomically."""
    state = {name: x.detach().cpu().contiguous().clone() for name, x in model.state_dict().items()}
    write_tensors(path, state, WEIGHTS_FORMAT)


def load_weights(path: PathLike, model: torch.nn.Module, config: PathLike) -> None:
    r"""Read what :func:`save_weights` wrote.

    Args:
        path (str or os.PathLike): The file.
        model (torch.nn.Module): The model, changed in place.
        config (str or os.PathLike): The file that the model was built by, for the message.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or does not fit the model.
    """
    _fill(path, _read_weights(path), model, config)


def _read_weights(path: PathLike) -> Dict[str, Tensor]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file '{path}': the run has no weights")
    return read_tensors(path, WEIGHTS_FORMAT, 'holds no weights of this package')


def _fill(path: PathLike, state: Dict[str, Tensor], model: torch.nn.Module, config: PathLike,
          assign: bool = False) -> None:
    try:
        model.load_state_dict(state, assign=assign)
    except RuntimeError as error:
        message = ' '.join(str(error).split())
        raise ValueError(f"'{path}' does not fit the model of '{config}' ({message})") from error


def write_pretrained(model: Any, folder: PathLike, features: bool, triples: bool,
                     temperature: Optional[float] = None,
                     notes: Optional[Mapping[str, str]] = None,
                     files: Optional[Mapping[str, str]] = None) -> Path:
    r"""Write a model as a folder, see :meth:`Pretrained.save_pretrained`.

    Args:
        model (KGModel): The model.
        folder (str or os.PathLike): A new folder, or an empty one.
        features (bool): Whether features go with it.
        triples (bool): Whether triples go with it.
        temperature (float, optional): The temperature of probabilities. (default: :obj:`None`)
        notes (Mapping[str, str], optional): Further sections of the model card, by their titles.
            (default: none)
        files (Mapping[str, str], optional): Further text files, by their names. (default: none)
    """
    graph = _graph(model, 'be saved')
    if not triples and type(model).__name__ == 'NearestNeighbour':
        raise ValueError("'NearestNeighbour' looks training triples up (expected 'triples' to be "
                         'True)')
    for kind, store in (('entities', graph['entity']), ('relations', graph[EDGE])):
        if 'label' not in store:
            raise ValueError(f'the {kind} of the graph have no labels to save')
    channels = dict(getattr(model, 'in_channels', {}))
    config = {
        'format': FORMAT_VERSION,
        'pyg_mmkgc': pyg_mmkgc.__version__,
        'class': type(model).__name__,
        'arguments': _arguments(model),
        'num_entities': model.num_entities,
        'num_relations': model.num_relations,
        'hidden_channels': model.hidden_channels,
        'modalities': channels,
        'splits': split_names(graph) if triples else [],
        'candidates': graph.get('candidates') or 'all',
        'features': bool(features and channels),
        'temperature': temperature,
    }
    labels = {'entities': list(graph['entity'].label), 'relations': list(graph[EDGE].label)}
    texts = {CONFIG: _dump(config, indent=2), LABELS: _dump(labels, indent=0),
             CARD: _card(model, config, labels, notes or {}), **(files or {})}
    with atomic_folder(folder) as path:
        for name, text in texts.items():
            (path / name).write_text(text, encoding='utf-8', newline='\n')
        save_weights(path / WEIGHTS, model)
        write_tensors(path / GRAPH, _graph_tensors(model, config), GRAPH_FORMAT)
    return Path(folder)


def _dump(value: Any, indent: int) -> str:
    return json.dumps(value, indent=indent) + '\n'


def _graph_tensors(model: Any, config: Mapping[str, Any]) -> Dict[str, Tensor]:
    out = {'seen': model.seen, 'has_loops': model.has_loops}
    for split in config['splits']:
        out[f'triples/{split}'] = torch.stack(get_triples(model._triples, split))
    for m in config['modalities'] if config['features'] else ():
        x = getattr(model, f'x_{m}')
        out[f'x/{m}'] = model._mapped[m][:] if x is None else x
        out[f'mask/{m}'] = getattr(model, f'mask_{m}')
    return {key: x.detach().cpu().contiguous().clone() for key, x in out.items()}


def _arguments(model: Any) -> Dict[str, Any]:
    out = {**model._arguments, 'num_entities': model.num_entities}
    for key, value in out.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f'argument {key!r} of {type(model).__name__!r} cannot be saved '
                             f'(expected what JSON can hold, got {type(value).__name__})'
                             ) from error
    return out


def _recording(init: Callable[..., None]) -> Callable[..., None]:
    # Base classes come first and are overwritten, so that those of the class itself remain.
    @wraps(init)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        bound = signature(init).bind(self, *args, **kwargs)
        bound.apply_defaults()
        out: Dict[str, Any] = {}
        for name, parameter in list(signature(init).parameters.items())[1:]:
            value = bound.arguments[name]
            out.update(value if parameter.kind == Parameter.VAR_KEYWORD else {name: value})
        out.pop('neg_sampling', None)
        self._arguments = out

    return wrapper


# Reading ########################################################################################


def _upgrade_1(config: Dict[str, Any]) -> Dict[str, Any]:
    # Version 1 knew neither probabilities nor that features may be left out, and had the sizes of
    # modalities among the arguments alone.
    modalities = config.get('arguments', {}).get('in_channels', {})
    return {**config, 'modalities': modalities, 'features': bool(modalities), 'temperature': None}


#: For each older version, what makes the next one of it.
MIGRATIONS: Dict[int, Callable[[Dict[str, Any]], Dict[str, Any]]] = {1: _upgrade_1}


def upgrade(config: Dict[str, Any]) -> Dict[str, Any]:
    r"""What `config.json` of an older version is in this one.

    Args:
        config (Dict[str, Any]): What the file holds.

    Raises:
        ValueError: If its version is none, or newer than this package.
    """
    version = config.get('format')
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(f"expected 'format' to be a version from 1 to {FORMAT_VERSION} (got "
                         f'{version!r})')
    if version > FORMAT_VERSION:
        raise ValueError(f'format {version} is newer than this version of pyg_mmkgc, which reads '
                         f'up to {FORMAT_VERSION}; upgrade pyg_mmkgc (written by '
                         f'{config.get("pyg_mmkgc")!r})')
    for step in range(version, FORMAT_VERSION):
        config = MIGRATIONS[step](config)
    return {**config, 'format': FORMAT_VERSION}


def _read_json(path: Path) -> Dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}', so this is no folder of a model")
    try:
        value = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{path}' is damaged or no JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"'{path}' is damaged (expected a mapping, got {type(value).__name__})")
    return value


def _read_config(path: Path) -> Dict[str, Any]:
    try:
        config = upgrade(_read_json(path))
        for key, kind in KEYS.items():
            value = config.get(key)
            if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
                raise ValueError(f'{key!r} needs to be of type {kind.__name__} (got {value!r})')
        temperature = config.get('temperature')
        if temperature is not None and not (isinstance(temperature, float) and temperature > 0):
            raise ValueError(f"'temperature' needs to be positive (got {temperature!r})")
    except ValueError as error:
        message = str(error)
        raise ValueError(message if message.startswith(f"'{path}'") else
                         f"'{path}': {message}") from error
    return config


def _read_labels(path: Path, config: Mapping[str, Any]) -> Tuple[Labels, Labels]:
    values = _read_json(path)
    out = []
    for key, size in (('entities', config['num_entities']), ('relations', config['num_relations'])):
        names = values.get(key)
        if not isinstance(names, list) or len(names) != size or not all(
                name is None or isinstance(name, str) for name in names):
            raise ValueError(f"'{path}' needs the labels of {size} {key} (got "
                             f'{len(names) if isinstance(names, list) else names!r})')
        out.append(Labels(names))
    return out[0], out[1]


def _find_class(cls: type, path: Path, name: str) -> type:
    known: Dict[str, type] = {}
    todo = [cls]
    for found in todo:
        known.setdefault(found.__name__, found)
        todo += found.__subclasses__()
    if name not in known:
        raise ValueError(f"'{path}' is of class {name!r} (expected one of {sorted(known)}; a class "
                         f'of your own has to be imported first)')
    return known[name]


def _build(folder: Path, config: Mapping[str, Any], cls: type,
           neg_sampling: Optional[Any]) -> Any:
    arguments = dict(config['arguments'])
    # A model that samples negatives asks for a sampler, even if it is not to be trained.
    if neg_sampling is not None or arguments.get('objective') == 'sampled':
        arguments['neg_sampling'] = object() if neg_sampling is None else neg_sampling
    path, config_path = folder / WEIGHTS, folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}', so this is no folder of a model")
    state = _read_weights(path)
    try:
        with torch.device('meta'):  # Sizes are compared before memory is taken for them.
            model = cls(**arguments)
        sizes = model.num_entities, model.num_relations
        if sizes != (config['num_entities'], config['num_relations']):
            raise ValueError(f"'arguments' are of {sizes[0]} entities and {sizes[1]} relations "
                             f'(expected {config["num_entities"]} and {config["num_relations"]})')
    except (TypeError, ValueError, RuntimeError, AttributeError, OverflowError) as error:
        raise ValueError(f"'{config_path}' holds no arguments of {cls.__name__!r} "
                         f'({" ".join(str(error).split())})') from error
    _fill(path, state, model, config_path, assign=True)
    model = cls(**arguments)
    _fill(path, state, model, config_path)
    model.neg_sampling = neg_sampling
    return model


def _read_graph(path: Path, config: Mapping[str, Any],
                labels: Tuple[Labels, Labels]) -> HeteroData:
    tensors = read_tensors(path, GRAPH_FORMAT, 'holds no graph of a model')
    out = HeteroData()
    out['entity'].num_nodes, out['entity'].label = config['num_entities'], labels[0]
    out[EDGE].num_relations, out[EDGE].label = config['num_relations'], labels[1]
    out.candidates = config['candidates']
    try:
        for split in config['splits']:
            set_triples(out, split, tensors[f'triples/{split}'].t())
        if 'train' not in config['splits']:
            out[EDGE].edge_index = torch.empty(2, 0, dtype=torch.long)
            out[EDGE].edge_type = torch.empty(0, dtype=torch.long)
            for store, key, name, size in (
                    (out['entity'], SEEN, 'seen', config['num_entities']),
                    (out[EDGE], HAS_LOOPS, 'has_loops', 2 * config['num_relations'])):
                if tensors[name].dtype != torch.bool or tensors[name].shape != (size, ):
                    raise ValueError(f'{name!r} needs to be boolean of shape [{size}]')
                store[key] = tensors[name][:size if key == SEEN else config['num_relations']]
        for m in config['modalities'] if config['features'] else ():
            set_modality(out, m, tensors[f'x/{m}'], tensors[f'mask/{m}'])
    except KeyError as error:
        raise ValueError(f"'{path}' is damaged (it lacks {error})") from error
    except ValueError as error:
        raise ValueError(f"'{path}' is damaged ({error})") from error
    return out


def _graph(model: Any, what: str) -> HeteroData:
    if model._triples is None:
        raise ValueError(f'the model knows no graph and cannot {what}; build it by `from_data`, '
                         f'call `attach(data)`, or save it with features=True')
    return model._triples


# The model card #################################################################################


def _card(model: Any, config: Mapping[str, Any], labels: Mapping[str, List[str]],
          notes: Mapping[str, str]) -> str:
    modalities = ', '.join(f'{code(m)} ({size} channels)'
                           for m, size in config['modalities'].items()) or 'none'
    ready = config['features'] or not config['modalities']
    attach = '' if ready else ("model.attach(data)  # The graph with its features, which are not "
                               'in this folder.\n')
    head, relation, _ = (int(x[0]) if x.numel() > 0 else 0
                         for x in get_triples(model._triples, 'train'))
    usage = ('```python\nfrom pyg_mmkgc.nn import KGModel\n\n'
             "model = KGModel.from_pretrained('.')  # This folder.\n" + attach +
             f'model.predict(head={_name(labels["entities"], head)!r}, '
             f'relation={_name(labels["relations"], relation)!r}, top=5)\n```')
    seen = int(model.seen.sum())
    holds = {'`config.json`': 'class, arguments, sizes, version of the format',
             '`model.safetensors`': 'the weights',
             '`labels.json`': 'labels of entities and relations in the order of their ids',
             '`graph.safetensors`': 'which entities training names' + (
                 ', all triples' if config['splits'] else '') + (
                 ', features and masks' if config['features'] else '')}
    sections = {
        'Use': usage,
        'What it knows': f'{config["num_entities"]} entities, {seen} of them in training triples; '
                         f'{config["num_relations"]} relations; modalities: {modalities}.',
        **notes,
        'Files': '\n'.join(f'- {name}: {what}' for name, what in holds.items()) +
                 '\n\nNothing is pickled.',
    }
    body = '\n\n'.join(f'## {title}\n\n{text}' for title, text in sections.items())
    return (f'---\nlibrary_name: pyg_mmkgc\ntags:\n- knowledge-graph-completion\n---\n\n'
            f'# {type(model).__name__}\n\nA model of the Python package `pyg_mmkgc`: it answers '
            f'which facts of a multi-modal knowledge graph are missing.\n\n{body}\n')


def _name(labels: Sequence[Optional[str]], index: int) -> Union[str, int]:
    label = labels[index]
    return index if label is None else label


def code(text: Any) -> str:
    r"""A text as Markdown's code, in one line, whatever it holds."""
    return '`' + ' '.join(str(text).replace('`', "'").split()) + '`'
