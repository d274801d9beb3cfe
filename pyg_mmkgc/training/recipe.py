r"""Recipes: everything that a training run is made of, as one checked YAML file.

This is the one place where strings become classes, and where options are compared with the real
signatures of what they are for.
"""
import collections.abc
import copy
import difflib
import re
import types
import typing
from dataclasses import dataclass, field, replace
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Type, Union

import yaml
from torch_geometric.data import HeteroData

from pyg_mmkgc.data import (
    EDGE,
    STRUCTURE,
    build_index,
    get_triples,
    modality_names,
    seen_entities,
)
from pyg_mmkgc.data.io import PathLike
from pyg_mmkgc.datasets import normalize_name
from pyg_mmkgc.nn import (
    AdditiveComplEx,
    ComplEx,
    DistMult,
    KGModel,
    LateFusion,
    MoCME,
    MoMoK,
    NearestNeighbour,
    RotatE,
    TransE,
    TuckER,
)
from pyg_mmkgc.nn.models.mocme import JOINT
from pyg_mmkgc.sampler import (
    EGNS,
    Bernoulli,
    SelfAdversarial,
    TripleNegativeSampling,
    Uniform,
)
from pyg_mmkgc.training.trainer import TrainConfig

MODELS: Dict[str, Type[KGModel]] = {
    'additive': AdditiveComplEx,
    'complex': ComplEx,
    'distmult': DistMult,
    'late_fusion': LateFusion,
    'mocme': MoCME,
    'momok': MoMoK,
    'nearest': NearestNeighbour,
    'rotate': RotatE,
    'transe': TransE,
    'tucker': TuckER,
}
SAMPLERS: Dict[str, Type[TripleNegativeSampling]] = {
    'bernoulli': Bernoulli,
    'egns': EGNS,
    'self_adversarial': SelfAdversarial,
    'uniform': Uniform,
}
#: The model that knows the structure only, which is always trained beside another.
BASELINE = 'complex'

FOLDER = Path(__file__).parents[1] / 'recipes'
SECTIONS = ('model', 'sampler', 'train')
#: What a recipe says about itself and nothing reads.
NOTES = ('expected', 'protocol', 'machine', 'time')
#: Arguments that are no options: the graph determines them, or another part of the recipe.
NO_OPTIONS = ('neg_sampling', 'known', 'candidates', 'generator', 'mode', 'amount')

Overrides = Union[Mapping[str, Any], Sequence[str]]


@dataclass(frozen=True)
class Option:
    r"""One option of a model, a sampler or the training.

    Args:
        name (str): Its name.
        default (Any): Its default.
        hint (Any): The type hint that values have to agree with; :class:`typing.Any` if unknown.
    """
    name: str
    default: Any
    hint: Any


@dataclass(frozen=True)
class Recipe:
    r"""How a model is built and trained.

    .. code-block:: yaml

        dataset: db15k                 # or null: for any
        model: {name: complex, hidden_channels: 400}
        sampler: null                  # or {name: egns, num_negatives: 64}
        train: {epochs: 10, select: null}
        expected: null                 # figures to compare with
        protocol: null                 # what they were measured by
        machine: null                  # where, and
        time: null                     # how long it took

    Args:
        name (str): The recipe's name.
        model (Dict[str, Any]): The model's name (a key of :obj:`MODELS`) as ``'name'``, and its
            options.
        sampler (Dict[str, Any], optional): The same for the negative sampler (:obj:`SAMPLERS`).
            (default: :obj:`None`)
        train (Dict[str, Any], optional): Options of :class:`TrainConfig`.
            (default: :obj:`{}`)
        dataset (str, optional): The dataset that it is for. (default: :obj:`None`, any)
        expected (Any, optional): Figures to compare with. (default: :obj:`None`)
        protocol (Any, optional): What they were measured by. (default: :obj:`None`)
        machine (Any, optional): Where they were measured. (default: :obj:`None`)
        time (Any, optional): How long that took. (default: :obj:`None`)

    Raises:
        ValueError: If a name or an option is unknown, or a value has the wrong type.
    """
    name: str
    model: Dict[str, Any]
    sampler: Optional[Dict[str, Any]] = None
    train: Dict[str, Any] = field(default_factory=dict)
    dataset: Optional[str] = None
    expected: Any = None
    protocol: Any = None
    machine: Any = None
    time: Any = None

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, 'model', self._section('model', MODELS))
        if self.sampler is not None:
            set_(self, 'sampler', self._section('sampler', SAMPLERS))
        set_(self, 'train', self._checked('train', {} if self.train is None else self.train))
        self.train_config()

    def _section(self, section: str, classes: Mapping[str, type]) -> Dict[str, Any]:
        values = getattr(self, section)
        if not isinstance(values, Mapping) or not isinstance(values.get('name'), str):
            raise ValueError(f"Recipe {self.name!r} needs {section!r} as a mapping with a 'name' "
                             f'(got {values!r})')
        _check_name(section, values['name'], classes)
        options = {k: v for k, v in values.items() if k != 'name'}
        return {'name': values['name'], **self._checked(section, options)}

    def _checked(self, section: str, values: Any) -> Dict[str, Any]:
        if not isinstance(values, Mapping):
            raise ValueError(f'Recipe {self.name!r} needs {section!r} as a mapping '
                             f'(got {values!r})')
        options, out = self.options(section), {}
        for key, value in values.items():
            if key not in options:
                raise ValueError(f'Unknown option {section}.{key} in recipe {self.name!r}'
                                 f'{_near(str(key), list(options))}')
            out[key] = _coerce(f'{section}.{key}', value, options[key].hint)
        return out

    # Files ######################################################################################

    @classmethod
    def from_dict(cls, name: str, values: Any) -> 'Recipe':
        r"""Make a recipe of what a YAML file holds.

        Raises:
            ValueError: If it does not have the shape of a recipe.
        """
        keys = {'dataset', *SECTIONS, *NOTES}
        if not isinstance(values, Mapping) or 'model' not in values or set(values) - keys:
            got = sorted(map(str, values)) if isinstance(values, Mapping) else values
            raise ValueError(f"Recipe {name!r} needs a mapping with 'model' and possibly "
                             f"{sorted(keys - {'model'})} (got {got})")
        return cls(name, **copy.deepcopy(dict(values)))

    @classmethod
    def from_file(cls, path: PathLike) -> 'Recipe':
        r"""Read a recipe.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no recipe; the message names the file.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"There is no file '{path}'")
        try:
            return cls.from_dict(path.stem, load_yaml(path.read_text(encoding='utf-8')))
        except ValueError as error:
            raise ValueError(f"'{path}': {error}") from error

    def to_dict(self) -> Dict[str, Any]:
        r"""All options with their values, defaults included, ready for YAML."""
        out: Dict[str, Any] = {'dataset': self.dataset}
        for section in SECTIONS:
            values = getattr(self, section)
            if values is None:
                out[section] = None
                continue
            out[section] = {'name': values['name']} if 'name' in values else {}
            out[section].update({name: values.get(name, option.default)
                                 for name, option in self.options(section).items()})
        return _plain({**out, **{note: getattr(self, note) for note in NOTES}})

    # Options ####################################################################################

    def options(self, section: str) -> Dict[str, Option]:
        r"""The options of ``'model'``, ``'sampler'`` or ``'train'``, by name."""
        if section == 'train':
            return {name: Option(name, default, typing.get_type_hints(TrainConfig)[name])
                    for name, default in TrainConfig.options().items()}
        values = getattr(self, section)
        if values is None:
            return {}
        return class_options((MODELS if section == 'model' else SAMPLERS)[values['name']])

    def override(self, overrides: Overrides) -> 'Recipe':
        r"""A recipe with other values of some options.

        A key is dotted, ``model.hidden_channels``, or the name alone where only one section has
        it. ``sampler=NAME`` changes the sampler, and keeps the options that both of them have;
        ``sampler=null`` leaves it out.

        Args:
            overrides (Mapping[str, Any] or Sequence[str]): Values by key, or strings
                ``'key=value'`` whose values are read as YAML.

        Raises:
            ValueError: If a key is unknown or ambiguous, or a value has the wrong type.
        """
        recipe = self
        items = overrides.items() if isinstance(overrides, Mapping) else map(_split, overrides)
        # The sampler first, since its options depend on it.
        for key, value in sorted(items, key=lambda item: item[0] != 'sampler'):
            if key == 'sampler':
                recipe = recipe._with_sampler(value)
                continue
            section, name = recipe._find_option(key)
            changed: Dict[str, Any] = {section: {**getattr(recipe, section), name: value}}
            recipe = replace(recipe, **changed)
        return recipe

    def _with_sampler(self, name: Any) -> 'Recipe':
        if name is None:
            return replace(self, sampler=None)
        if not isinstance(name, str):
            raise ValueError(f"'sampler' needs a name or null (got {name!r})")
        _check_name('sampler', name, SAMPLERS)
        options = class_options(SAMPLERS[name])
        kept = {key: value for key, value in (self.sampler or {}).items() if key in options}
        return replace(self, sampler={'name': name, **kept})

    def _find_option(self, key: str) -> typing.Tuple[str, str]:
        known = {f'{section}.{name}': (section, name) for section in SECTIONS
                 for name in self.options(section)}
        if key in known:
            return known[key]
        found = [full for full, (_, name) in known.items() if name == key]
        if len(found) == 1:
            return known[found[0]]
        if found:
            raise ValueError(f'Option {key!r} is ambiguous (expected one of {found})')
        hint = _near(key, [*known, *{name for _, name in known.values()}])
        if key.startswith('sampler.') and self.sampler is None:
            hint = f"; recipe {self.name!r} has no sampler, name one first: 'sampler=egns'"
        raise ValueError(f'Unknown option {key!r}{hint}')

    # What it makes ##############################################################################

    def train_config(self) -> TrainConfig:
        r"""The options of the training.

        Raises:
            ValueError: If one is out of range.
        """
        return TrainConfig(**self.train)

    def build(self, data: HeteroData) -> KGModel:
        r"""Build the model for a graph, with its sampler, whose filter knows training triples
        only and which draws entities seen in training only.

        Raises:
            ValueError: If an option does not fit the graph, as one that names a modality that the
                graph lacks.
        """
        self._check_modalities(data)
        kwargs = self._arguments('model')
        if self.sampler is not None:
            kwargs['neg_sampling'] = self._build_sampler(data, SAMPLERS[self.sampler['name']])
        return MODELS[self.model['name']].from_data(data, **kwargs)

    def _check_modalities(self, data: HeteroData) -> None:
        there = modality_names(data)
        for key, value in self.model.items():
            # A mapping of a model's options has a value for each modality or head.
            names = value if isinstance(value, Mapping) or key in ('modalities', 'heads') else ()
            for name in names or ():
                if name not in (*there, STRUCTURE, JOINT):
                    raise ValueError(f'Unknown modality {name!r} (expected some of {there}): '
                                     f"recipe {self.name!r} names it in 'model.{key}', and the "
                                     f'graph lacks it')

    def _build_sampler(self, data: HeteroData,
                       cls: Type[TripleNegativeSampling]) -> TripleNegativeSampling:
        num_entities = data['entity'].num_nodes
        kwargs = {**self._arguments('sampler'), 'known': build_index(data, ['train']),
                  'candidates': seen_entities(data)}
        if issubclass(cls, Bernoulli):
            return cls.from_triples(*get_triples(data, 'train'), num_entities,
                                    data[EDGE].num_relations, **kwargs)
        return cls(num_entities, **kwargs)

    def _arguments(self, section: str) -> Dict[str, Any]:
        # What equals a default is left out: a class may pass it on to its base class itself.
        options = self.options(section)
        return {key: copy.deepcopy(value) for key, value in getattr(self, section).items()
                if key != 'name' and _plain(value) != _plain(options[key].default)}


def recipe_names() -> List[str]:
    r"""The names of all recipes that ship with the package."""
    return sorted(path.stem for path in FOLDER.glob('*.yaml'))


def find_recipe(model: str, dataset: Optional[str] = None) -> Recipe:
    r"""The recipe of a model for a dataset, `<model>-<dataset>`, else that of the model,
    `<model>`.

    Args:
        model (str): The model's name; case does not matter.
        dataset (str, optional): The dataset's name; case and hyphens do not matter.
            (default: :obj:`None`)

    Raises:
        ValueError: If there is no such model.
    """
    model = model.lower()
    _check_name('model', model, MODELS)
    name = model if dataset is None else f'{model}-{normalize_name(dataset)}'
    return Recipe.from_file(FOLDER / f'{name if name in recipe_names() else model}.yaml')


def get_recipe(name: str) -> Recipe:
    r"""The recipe of a name, as it ships with the package.

    Args:
        name (str): One of :func:`recipe_names`; case does not matter.

    Raises:
        ValueError: If there is no such recipe.
    """
    if name.lower() not in recipe_names():
        raise ValueError(f'Unknown recipe {name!r} (expected one of {recipe_names()}'
                         f'{_near(name.lower(), recipe_names())})')
    return Recipe.from_file(FOLDER / f'{name.lower()}.yaml')


def load_recipe(name: str, dataset: Optional[str] = None) -> Recipe:
    r"""The recipe that a user means: a file, one of :func:`recipe_names`, or a model, whose recipe
    for the dataset is taken.

    Args:
        name (str): A path that ends in ``.yaml``, the name of a recipe, or that of a model.
        dataset (str, optional): The dataset's name. (default: :obj:`None`)

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there is no such recipe or model.
    """
    if name.lower().endswith(('.yaml', '.yml')):
        return Recipe.from_file(name)
    return get_recipe(name) if '-' in name else find_recipe(name, dataset)


def class_options(cls: type) -> Dict[str, Option]:
    r"""The options of a model or a sampler: all arguments with a default that the constructor,
    its base classes as far as it passes ``**kwargs`` on, and `from_data` take.

    Args:
        cls (type): The class.
    """
    out: Dict[str, Option] = {}
    for method in ('__init__', 'from_data'):
        for base in cls.__mro__:
            if method not in vars(base):
                continue
            function = getattr(vars(base)[method], '__func__', vars(base)[method])
            hints = typing.get_type_hints(function)
            parameters = signature(function).parameters.values()
            for p in parameters:
                if p.default is Parameter.empty or p.name in NO_OPTIONS:
                    continue
                hint = hints.get(p.name, Any)
                if p.name not in out:
                    out[p.name] = Option(p.name, p.default, hint)
                elif out[p.name].hint is Any:  # The base class knows more about it.
                    out[p.name] = replace(out[p.name], hint=hint)
            if all(p.kind != Parameter.VAR_KEYWORD for p in parameters):
                break
    return {name: option if option.hint is not Any else
            replace(option, hint=Any if option.default is None else type(option.default))
            for name, option in out.items()}


# YAML ###########################################################################################


class _Loader(yaml.SafeLoader):
    r"""YAML 1.1 without its two traps: `1e-3` is a number, and a key may not occur twice."""
    def construct_mapping(self, node: Any, deep: bool = False) -> Dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [key for i, key in enumerate(keys) if key in keys[:i]]
        if twice:
            raise ValueError(f'malformed YAML (key {twice[0]!r} occurs twice in the mapping of '
                             f'line {node.start_mark.line + 1})')
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver('tag:yaml.org,2002:float',
                              re.compile(r'[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$'),
                              list('-+0123456789'))


def load_yaml(text: str) -> Any:
    r"""Read YAML, without running anything that it may name.

    Raises:
        ValueError: If it is malformed.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"malformed YAML ({' '.join(str(error).split())})") from error


def _split(item: str) -> typing.Tuple[str, Any]:
    key, equals, value = item.partition('=')
    if not equals or not key.strip():
        raise ValueError(f"expected an option as 'key=value' (got {item!r})")
    try:
        return key.strip(), load_yaml(value)
    except ValueError as error:
        raise ValueError(f'the value of {key.strip()!r} is {error}') from error


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


# Types ##########################################################################################


def _coerce(key: str, value: Any, hint: Any) -> Any:
    # As YAML gives it: integers stand for floating-point numbers, and lists for tuples.
    if not _fits(value, hint):
        raise ValueError(f'{key!r} needs {_describe(hint)} (got {value!r})')
    return float(value) if hint in (float, Optional[float]) and value is not None else value


def _fits(value: Any, hint: Any) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin is typing.Literal:
        return value in args
    if origin in (Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if hint in (int, float) and isinstance(value, bool):
        return False
    if hint is float:
        return isinstance(value, (int, float))
    kind = origin or hint
    if kind in (dict, collections.abc.Mapping):
        return isinstance(value, Mapping) and (not args or all(
            _fits(k, args[0]) and _fits(v, args[1]) for k, v in value.items()))
    if kind is tuple:
        if args and args[-1] is Ellipsis:
            args = args[:1] * len(value) if isinstance(value, (list, tuple)) else args
        return (isinstance(value, (list, tuple)) and (not args or len(value) == len(args))
                and all(map(_fits, value, args)))
    if kind in (list, collections.abc.Sequence):
        return isinstance(value, (list, tuple)) and (not args
                                                     or all(_fits(v, args[0]) for v in value))
    return isinstance(value, kind)


def _describe(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is type(None):
        return 'null'
    if origin is typing.Literal:
        return f'one of {list(args)}'
    if origin in (Union, types.UnionType):
        return ' or '.join(map(_describe, args))
    kind = origin or hint
    if kind in (dict, collections.abc.Mapping):
        return 'a mapping' + (f' of {_describe(args[0])} to {_describe(args[1])}' if args else '')
    if kind in (tuple, list, collections.abc.Sequence):
        many = args and kind is tuple and args[-1] is not Ellipsis
        return f'a list of {len(args)}' if many else 'a list'
    return {int: 'an integer', float: 'a number', bool: 'true or false', str: 'a string'}.get(
        kind, getattr(kind, '__name__', str(kind)))


# Messages #######################################################################################


def _check_name(kind: str, name: str, classes: Mapping[str, type]) -> None:
    if name not in classes:
        raise ValueError(f'Unknown {kind} {name!r} (expected one of {sorted(classes)}'
                         f'{_near(name, list(classes))})')


def _near(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=3) or [x for x in names if name in x][:3]
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ''
