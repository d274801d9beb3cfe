r"""Graphs from and to what other tools hold: arrays, tables, and PyKEEN's triples factories."""
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_mmkgc.data.hetero import EDGE, build_data, get_triples, set_modality, split_names
from pyg_mmkgc.data.labels import Labels
from pyg_mmkgc.data.splits import split_triples

#: What PyKEEN calls the splits, and what this package does.
PYKEEN_SPLITS = {'training': 'train', 'validation': 'val', 'testing': 'test'}
#: What pandas calls columns of numbers.
NUMBERS = ('integer', 'floating', 'mixed-integer-float', 'boolean')
#: Ids may leave out many, but not so many that they are names rather than ids.
_MAX_SPARSITY = 10

Triples = Union[Tensor, np.ndarray, Sequence[Tuple[str, str, str]]]
Modality = Union[Tensor, np.ndarray, Tuple[Tensor, Tensor], Mapping[Any, Any]]


def from_triples(
    triples: Union[Triples, Mapping[str, Triples]],
    entity_labels: Optional[Sequence[str]] = None,
    relation_labels: Optional[Sequence[str]] = None,
    modalities: Optional[Mapping[str, Modality]] = None,
    ratios: Optional[Sequence[float]] = None,
    seed: int = 0,
) -> HeteroData:
    r"""Make a graph from triples in memory.

    Args:
        triples (torch.Tensor, numpy.ndarray, sequence or Mapping): Triples ``[T, 3]`` in columns
            head, relation, tail: either ids, which stay as they are, or labels (an array of
            strings, or a list of tuples), which get ids in sorted order or in that of
            :obj:`entity_labels` and :obj:`relation_labels`. A mapping holds those of each split
            and needs ``'train'``.
        entity_labels (Sequence[str], optional): The label of each entity. Needed for entities
            that no triple has. (default: the labels that there are, for ids ``'0'``, ``'1'``, ...)
        relation_labels (Sequence[str], optional): The label of each relation. (default: as for
            entities)
        modalities (Mapping, optional): For each modality features ``[N, C]``; or these and a mask
            ``[N]``; or a mapping from the label (or the id) of an entity to its vector ``[C]``,
            in which an entity without that modality is left out. (default: none)
        ratios (Sequence[float], optional): The shares of ``'train'``, ``'val'`` and ``'test'``
            into which :func:`split_triples` divides the triples. (default: all are ``'train'``)
        seed (int, optional): The seed of that split. (default: :obj:`0`)

    Raises:
        ValueError: If triples, labels or features are malformed or do not fit together, or
            :obj:`ratios` is given though there are splits.
        ImportError: If there are labels and pandas is not installed.

    .. code-block:: python

        data = from_triples([('Ada', 'knows', 'Bob'), ('Bob', 'knows', 'Cleo')],
                            modalities={'image': {'Ada': [0.1, 0.7], 'Cleo': [0.3, 0.2]}})
    """
    columns = {split: _columns(split, part) for split, part in _splits(triples, ratios).items()}
    return _build(columns, entity_labels, relation_labels, modalities, ratios, seed)[0]


def from_dataframe(
    triples: Any,
    entities: Any = None,
    *,
    head: str = 'head',
    relation: str = 'relation',
    tail: str = 'tail',
    entity: str = 'entity',
    modalities: Optional[Mapping[str, Modality]] = None,
    ratios: Optional[Sequence[float]] = None,
    seed: int = 0,
) -> HeteroData:
    r"""Make a graph from tables, :class:`pandas.DataFrame` or :class:`pyarrow.Table`.

    A column of strings becomes :class:`Labels` of the same name, with :obj:`None` where an entity
    has none or a blank one. All columns of numbers (and truth values) become
    ``data['entity'].numeric_value`` ``[N, A]`` of type :obj:`torch.float64`, NaN where missing,
    with their names in ``numeric_attribute``: what
    :class:`~pyg_mmkgc.transforms.EncodeText` and :class:`~pyg_mmkgc.transforms.EncodeNumeric`
    make modalities of.

    Args:
        triples (DataFrame, Table or Mapping): One row for each triple, with labels or ids. A
            mapping holds those of each split and needs ``'train'``.
        entities (DataFrame or Table, optional): One row for each entity, with its label (or id)
            and attributes. Entities that no triple has are part of the graph, too.
            (default: :obj:`None`)
        head (str, optional): The column of heads. (default: :obj:`'head'`)
        relation (str, optional): The column of relations. (default: :obj:`'relation'`)
        tail (str, optional): The column of tails. (default: :obj:`'tail'`)
        entity (str, optional): The column of :obj:`entities` with their labels.
            (default: :obj:`'entity'`)
        modalities (Mapping, optional): As in :func:`from_triples`. (default: none)
        ratios (Sequence[float], optional): As in :func:`from_triples`. (default: all triples
            are ``'train'``)
        seed (int, optional): The seed of that split. (default: :obj:`0`)

    Raises:
        ValueError: If a column is missing or of another type, an entity has two rows, or triples
            or features are malformed.
        ImportError: If pandas is not installed.
    """
    columns = {}
    for split, frame in _splits(triples, ratios).items():
        what = f'split {split!r}'
        columns[split] = tuple(_table(what, frame, [head, relation, tail]).values())
    if entities is None:
        return _build(columns, None, None, modalities, ratios, seed)[0]
    attributes = _table("'entities'", entities)
    if entity not in attributes:
        raise ValueError(f"'entities' needs exactly one column {entity!r} "
                         f'(got {list(attributes)})')
    described = attributes.pop(entity)
    data, index = _build(columns, None, None, modalities, ratios, seed, described)
    _add_attributes(data, index, attributes)
    return data


def to_pykeen(data: HeteroData, create_inverse_triples: bool = False) -> Dict[str, Any]:
    r"""The splits of a graph as PyKEEN's triples factories.

    Triples keep their order and their repeats, and ids stay as they are. Modalities are left out:
    PyKEEN takes them as the initialisation of a representation.

    Args:
        data (HeteroData): The graph with labels.
        create_inverse_triples (bool, optional): Whether the factory of ``'train'`` shall add
            inverse triples when it is trained on; PyKEEN wants it of no other.
            (default: :obj:`False`)

    Returns:
        Dict[str, pykeen.triples.TriplesFactory]: The factory of each split.

    Raises:
        ValueError: If two entities or two relations share a label, since PyKEEN finds them by it.
        ImportError: If PyKEEN is not installed.
    """
    try:
        from pykeen.triples import TriplesFactory
    except ImportError as error:
        raise ImportError("'to_pykeen' needs PyKEEN: pip install 'pyg-mmkgc[pykeen]'") from error
    ids = {'entity': _label_ids('entity', data['entity'].label),
           'relation': _label_ids('relation', data[EDGE].label)}
    return {
        split: TriplesFactory(
            mapped_triples=torch.stack(get_triples(data, split), dim=1).cpu(),
            entity_to_id=ids['entity'],
            relation_to_id=ids['relation'],
            create_inverse_triples=create_inverse_triples and split == 'train',
        )
        for split in split_names(data)
    }


def from_pykeen(factories: Any, modalities: Optional[Mapping[str, Modality]] = None,
                ) -> HeteroData:
    r"""Make a graph from PyKEEN's triples factories.

    Inverse triples need no care: a factory with ``create_inverse_triples`` holds the original
    ones and adds inverse ones in training only, as the models of this package do by themselves.

    Args:
        factories (TriplesFactory, Mapping or Dataset): One factory, whose triples become
            ``'train'``; those of several splits by name, where PyKEEN's names ``'training'``,
            ``'validation'`` and ``'testing'`` will do, too; or a dataset of PyKEEN. Entities and
            relations of a factory without labels get their ids as labels.
        modalities (Mapping, optional): As in :func:`from_triples`. (default: none)

    Raises:
        ValueError: If the factories differ in entities or relations, their ids are not
            :math:`0` to :math:`N - 1`, or features do not fit.
    """
    factories = getattr(factories, 'factory_dict', factories)
    if not isinstance(factories, Mapping):
        factories = {'train': factories}
    splits: Dict[str, Tensor] = {}
    labels: Dict[str, List[str]] = {}
    for name, factory in factories.items():
        split = PYKEEN_SPLITS.get(name, name)
        if split in splits:
            raise ValueError(f'split {split!r} is given twice (got {list(factories)})')
        if not hasattr(factory, 'mapped_triples'):
            raise ValueError(f'split {name!r} needs a triples factory of PyKEEN '
                             f'(got {type(factory).__name__})')
        splits[split] = factory.mapped_triples
        # Relations that PyKEEN makes up for inverse triples have neither label nor triple.
        for kind, size in [('entity', factory.num_entities),
                           ('relation', factory.real_num_relations)]:
            own = _factory_labels(name, kind, factory, size)
            if labels.setdefault(kind, own) != own:
                raise ValueError(f'split {name!r} has other {kind} labels or ids than '
                                 f'{next(iter(factories))!r}')
    return from_triples(splits, labels.get('entity'), labels.get('relation'), modalities)


def _factory_labels(split: str, kind: str, factory: Any, size: int) -> List[str]:
    ids = getattr(factory, f'{kind}_to_id', None)
    if ids is None:
        return [str(i) for i in range(size)]
    labels = sorted(ids, key=ids.get)
    if sorted(ids.values()) != list(range(size)):
        raise ValueError(f'split {split!r} of PyKEEN needs {kind} ids from 0 to {size - 1}, each '
                         f'with one label (got {len(ids)} labels)')
    return labels


def _label_ids(kind: str, labels: Sequence[str]) -> Dict[str, int]:
    ids = {label: i for i, label in enumerate(labels)}
    if len(ids) < len(labels):
        label = next(label for i, label in enumerate(labels) if ids[label] != i)
        raise ValueError(f'{kind} label {label!r} stands for several ids (expected one)')
    return ids


# Triples to ids ##################################################################################


def _splits(triples: Any, ratios: Optional[Sequence[float]]) -> Mapping[str, Any]:
    if not isinstance(triples, Mapping):
        return {'train': triples}
    if 'train' not in triples:
        raise ValueError(f"'triples' has no split 'train' (got {sorted(triples)})")
    if ratios is not None:
        raise ValueError(f"'ratios' divides triples without splits (got those of "
                         f'{sorted(triples)})')
    return triples


def _columns(split: str, triples: Triples) -> Tuple[Any, ...]:
    if isinstance(triples, Tensor):
        triples = triples.detach().cpu().numpy()
    elif not isinstance(triples, np.ndarray):
        # Otherwise NumPy would turn a number among strings into a string.
        triples = np.array(list(triples), dtype=object)
    if triples.ndim != 2 or triples.shape[1] != 3:
        raise ValueError(f'split {split!r} needs triples of shape [T, 3] '
                         f'(got {list(triples.shape)})')
    return tuple(triples.T)


def _build(columns: Mapping[str, Tuple[Any, ...]], entity_labels: Optional[Sequence[str]],
           relation_labels: Optional[Sequence[str]],
           modalities: Optional[Mapping[str, Modality]], ratios: Optional[Sequence[float]],
           seed: int, described: Any = ()) -> Tuple[HeteroData, Tensor]:
    # The graph, and the ids of the entities that are described in a table.
    ends = {('labels', 'entities'): described}
    links = {}
    for split, (heads, relations, tails) in columns.items():
        ends['heads', split], ends['tails', split] = heads, tails
        links['relations', split] = relations
    ends, entity_labels = _to_ids('entity', ends, entity_labels)
    links, relation_labels = _to_ids('relation', links, relation_labels)
    splits = {split: torch.stack([ends['heads', split], links['relations', split],
                                  ends['tails', split]], dim=1) for split in columns}
    if ratios is not None:
        splits = split_triples(splits['train'], ratios, seed)
    data = build_data(splits, entity_labels, relation_labels)
    for name, value in (modalities or {}).items():
        set_modality(data, name, *_features(name, value, entity_labels))
    data.candidates = 'all'
    return data, ends['labels', 'entities']


def _to_ids(kind: str, columns: Mapping[Tuple[str, str], Any], labels: Optional[Sequence[str]],
            ) -> Tuple[Dict[Tuple[str, str], Tensor], Sequence[str]]:
    is_id = {part: _holds_ids(part, column) for part, column in columns.items() if len(column) > 0}
    if len(set(is_id.values())) > 1:
        (what, of), (other, of_other) = (next(part for part in is_id if is_id[part] is value)
                                         for value in (True, False))
        raise ValueError(f'expected either ids or labels (got ids in the {what} of {of!r}, labels '
                         f'in the {other} of {of_other!r})')
    if all(is_id.values()):
        ids = {part: _as_ids(part, column) for part, column in columns.items()}
        if labels is None:
            size = max((int(index.max()) + 1 for index in ids.values() if len(index) > 0),
                       default=0)
            num_values = sum(map(len, ids.values()))
            if size > _MAX_SPARSITY * num_values + 1000:
                raise ValueError(f'{kind} id {size - 1} is too large for one that counts from 0 '
                                 f'({num_values} ids in all); hand it over as a string')
            labels = [str(i) for i in range(size)]
        return ids, labels

    pd = _pandas()
    values = pd.concat([pd.Series(column, dtype=object) for column in columns.values()],
                       ignore_index=True)
    code, distinct = pd.factorize(values)
    if labels is None:
        labels = sorted(map(str, distinct))
    known = pd.Index(np.array(list(labels), dtype=object))
    if not known.is_unique:
        raise ValueError(f"'{kind}_labels' holds {known[known.duplicated()][0]!r} twice")
    position = known.get_indexer(distinct)
    if (position < 0).any():
        raise ValueError(f"{kind} {distinct[int((position < 0).argmax())]!r} is not in "
                         f"'{kind}_labels'")
    index = torch.from_numpy(position.astype(np.int64)[code])
    return dict(zip(columns, index.split([len(column) for column in columns.values()]),
                    strict=True)), labels


def _holds_ids(part: Tuple[str, str], column: Any) -> bool:
    if isinstance(column, np.ndarray) and column.dtype.kind in 'iu':
        return True
    pd = _pandas()
    kind = pd.api.types.infer_dtype(column, skipna=False)
    missing = pd.isna(column)
    wrong = np.asarray(missing)
    if kind == 'integer' and not missing.any():
        return True
    if not missing.any() and kind == 'string':
        wrong = np.asarray(column, dtype=object) == ''
        if not wrong.any():
            return False
    elif not missing.any():
        wrong = np.array([not isinstance(value, str) for value in column])
    row = int(wrong.argmax())
    raise ValueError(f'the {part[0]} of {part[1]!r} need to be all ids or all labels '
                     f'(got {list(column)[row]!r} in row {row})')


def _as_ids(part: Tuple[str, str], column: Any) -> Tensor:
    try:
        return torch.from_numpy(np.array(column, dtype=np.int64))
    except OverflowError:
        raise ValueError(f'the {part[0]} of {part[1]!r} hold an id beyond 64 bits') from None


# Attributes and features #########################################################################


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise ImportError("labels and tables need pandas: pip install 'pyg-mmkgc[frames]'"
                          ) from error
    return pandas


def _table(what: str, frame: Any, names: Optional[Sequence[str]] = None) -> Dict[str, Any]:
    # The columns by name, of pandas.
    found = list(getattr(frame, 'column_names', getattr(frame, 'columns', ())))
    names = found if names is None else names
    for name in names:
        if found.count(name) != 1:
            raise ValueError(f'{what} needs exactly one column {name!r} (got {found})')
    if hasattr(frame, 'to_pandas'):  # A table of Arrow.
        frame = frame.select(list(names)).to_pandas()
    columns = {name: frame[name] for name in names}
    # A category knows its value only, not that it is a string.
    return {name: column.astype(column.cat.categories.dtype) if hasattr(column, 'cat') else column
            for name, column in columns.items()}


def _add_attributes(data: HeteroData, index: Tensor, attributes: Mapping[str, Any]) -> None:
    store = data['entity']
    count = torch.bincount(index, minlength=store.num_nodes)
    if bool((count > 1).any()):
        raise ValueError(f"'entities' has several rows of {store.label[int(count.argmax())]!r}")
    # The row of each entity; those without one get one more, in which all is missing.
    row = torch.full((store.num_nodes, ), index.numel()).scatter(
        0, index, torch.arange(index.numel())).numpy()

    infer_dtype = _pandas().api.types.infer_dtype
    kinds = {name: infer_dtype(column, skipna=True) for name, column in attributes.items()}
    numbers = [name for name, kind in kinds.items() if kind in NUMBERS]
    if numbers:
        value = np.full((index.numel() + 1, len(numbers)), np.nan)
        for i, name in enumerate(numbers):
            value[:-1, i] = attributes[name].to_numpy(dtype=np.float64, na_value=np.nan)
            if np.isinf(value[:, i]).any():
                raise ValueError(f"column {name!r} of 'entities' holds an infinite number")
        store.numeric_value = torch.from_numpy(value[row])  # [num_entities, num_attributes]
        store.numeric_attribute = list(map(str, numbers))

    for name, column in attributes.items():
        if name in numbers:
            continue
        if kinds[name] not in ('string', 'empty'):
            raise ValueError(f"column {name!r} of 'entities' needs to hold strings or numbers "
                             f'(got {kinds[name]})')
        if not str(name).isidentifier() or name in store or name.endswith('_mask'):
            raise ValueError(f"column {name!r} of 'entities' is taken or no usable name (expected "
                             f'a Python identifier other than {list(store.keys())}, "*_mask")')
        texts = np.array([*column.astype(object), None], dtype=object)
        texts[:-1][column.isna() | (column.str.strip() == '')] = None
        store[name] = Labels(texts[row].tolist())


def _features(name: str, value: Modality, labels: Sequence[str],
              ) -> Tuple[Tensor, Optional[Tensor]]:
    mask = None
    if isinstance(value, Mapping):
        return _stack(name, value, labels)
    if isinstance(value, tuple):
        if len(value) != 2:
            raise ValueError(f'modality {name!r} needs features, or features and a mask (got '
                             f'{len(value)} things)')
        value, mask = value[0], torch.as_tensor(value[1])
    return _as_float(torch.as_tensor(value)), mask


def _stack(name: str, vectors: Mapping[Any, Any], labels: Sequence[str]) -> Tuple[Tensor, Tensor]:
    position = {label: i for i, label in enumerate(labels)}
    if len(position) < len(labels):
        raise ValueError(f'modality {name!r} cannot be given by label, since entities share one')
    index = [key if isinstance(key, int) and 0 <= key < len(labels) else position.get(key, -1)
             for key in vectors]
    if -1 in index:
        raise ValueError(f'modality {name!r} has a vector of '
                         f'{list(vectors)[index.index(-1)]!r}, which is no entity')
    rows = [_as_float(torch.as_tensor(vector)) for vector in vectors.values()]
    shapes = {tuple(row.shape) for row in rows}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise ValueError(f'modality {name!r} needs vectors of one size '
                         f'(got shapes {sorted(map(list, shapes))})')
    stacked = torch.stack(rows)
    x = stacked.new_zeros(len(labels), stacked.size(1))
    x[index] = stacked
    mask = torch.zeros(len(labels), dtype=torch.bool)
    mask[index] = True
    return x, mask


def _as_float(x: Tensor) -> Tensor:
    # Other dtypes are left as they are, for `set_modality` to refuse.
    return x.float() if x.is_floating_point() else x
