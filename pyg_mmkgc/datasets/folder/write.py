r"""Writing a graph as a folder that reads back as the same graph."""
import logging
import os
import secrets
import shutil
from pathlib import Path
from typing import Any, Dict, List, Union

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_mmkgc.data.hetero import EDGE, get_triples, modality_names, split_names
from pyg_mmkgc.data.io import atomic_write
from pyg_mmkgc.data.labels import Labels
from pyg_mmkgc.data.tables import label_error
from pyg_mmkgc.datasets.folder.config import SPLITS, FolderConfig, read_config, write_config
from pyg_mmkgc.datasets.folder.read import read_folder

_CHUNK = 1 << 20  # Triples written at a time.

logger = logging.getLogger(__name__)


def write_folder(data: HeteroData, path: Union[str, 'os.PathLike[str]']) -> None:
    r"""Write a graph in the layout of :class:`~pyg_mmkgc.datasets.MMKGFolder`, its exact inverse.

    Splits, labels and their order, texts, numbers, paths of files, features with their masks and
    the candidates come back as they were, which is checked by reading the folder before it
    appears. Triples are written by label, unless one cannot stand in a line of a `.tsv` file as it
    is; then by id. Files that paths lead to are not copied. What else the graph holds is left out,
    and named in a warning.

    The folder holds `<split>.tsv`, `entities.csv`, `relations.csv`, `features.safetensors` and
    `dataset.yaml`.

    Args:
        data (HeteroData): The graph. Features are of type ``float32``.
        path (str or os.PathLike): The folder. It must not be there, or be empty; it is written
            whole or not at all.

    Raises:
        FileExistsError: If the folder is there and not empty.
        ValueError: If something cannot be written such that it reads back the same: a label that
            is empty or occurs twice, say, or features of type ``float64``.
    """
    path = Path(path).expanduser()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"'{path}' exists and is no empty folder; nothing is overwritten")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}-{secrets.token_hex(4)}')
    temporary.mkdir()
    try:
        _write(data, temporary)
        _check_same(data, temporary)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write(data: HeteroData, folder: Path) -> None:
    entity, edge = data['entity'], data[EDGE]
    names = {'entity': _names('entity', entity), 'relation': _names('relation', edge)}
    splits = split_names(data)
    for split in splits:
        if split not in SPLITS:
            raise ValueError(f'split {split!r} cannot be written (expected one of '
                             f'{list(SPLITS)})')
        _write_triples(folder / f'{split}.tsv', get_triples(data, split), names)

    config = FolderConfig(triples={split: f'{split}.tsv' for split in splits}, header=True,
                          candidates=data.get('candidates', 'all'))
    columns = _texts(entity)
    config.texts = list(columns)
    if 'numeric_value' in entity:
        config.numbers = list(entity.numeric_attribute)
        for name, values in zip(config.numbers, entity.numeric_value.t(), strict=True):
            if name in columns:
                raise ValueError(f'{name!r} is a text and a number, and cannot be written')
            columns[name] = values
    _write_attributes(folder / 'entities.csv', names['entity'], entity, columns)
    _write_attributes(folder / 'relations.csv', names['relation'], edge, _texts(edge))

    modalities = modality_names(data)
    tensors = {key: entity[key].detach().cpu().contiguous().clone()
               for m in modalities for key in (m, f'{m}_mask')}
    if tensors:
        save_file(tensors, folder / 'features.safetensors')
    # Nothing is to be encoded that was not.
    sources = {'text': True, 'numeric': 'numeric_value' in entity,
               **{kind: f'{kind}_path' in entity for kind in ('audio', 'image', 'video')}}
    config.modalities = {kind: {'encoder': None} for kind, there in sources.items()
                         if there and kind not in modalities}
    write_config(config, folder)


def _names(kind: str, store: Any) -> List[str]:
    # What stands for entities or relations in the files: labels where these can stand in a line.
    seen: Dict[str, int] = {}
    for i, label in enumerate(store.label):
        if not label or label in seen:
            problem = f'also that of {seen[label]}' if label else 'empty'
            raise ValueError(f'the label of {kind} {i} cannot be written: {label!r} is {problem}')
        seen[label] = i
    try:
        ''.join([*seen, *store.get('name', [])]).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f'the labels of kind {kind!r} cannot be written ({error})') from error
    if 'name' in store:
        return list(store.name)
    plain = all(label_error(label) is None for label in seen)
    return list(seen) if plain else [str(i) for i in range(len(seen))]


def _texts(store: Any) -> Dict[str, Any]:
    return {key: value for key, value in store.items()
            if isinstance(value, Labels) and key not in ('label', 'name')}


def _write_triples(path: Path, triples: Any, names: Dict[str, List[str]]) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    entities, relations = (pa.array(names[kind], pa.string()) for kind in ('entity', 'relation'))
    with atomic_write(path, 'wb') as f:
        f.write(b'head\trelation\ttail\n')
        for part in zip(*(index.cpu().split(_CHUNK) for index in triples), strict=True):
            head, relation, tail = (labels.take(pa.array(index.numpy())) for labels, index in
                                    zip((entities, relations, entities), part, strict=True))
            lines = pc.binary_join_element_wise(
                pc.binary_join_element_wise(head, relation, tail, '\t'), '', '\n')
            f.write(lines.buffers()[2])  # The texts of an array lie behind one another.


def _write_attributes(path: Path, names: List[str], store: Any, columns: Dict[str, Any]) -> None:
    import pyarrow as pa
    from pyarrow import csv

    if 'name' in store:
        columns = {'name': names, 'label': store.label, **columns}
    elif names == list(store.label):
        columns = {'name': names, **columns}
    else:
        columns = {'id': names, 'label': store.label, **columns}
    arrays = []
    for key, values in columns.items():
        if isinstance(values, Tensor):
            array = pa.array(values.detach().cpu().numpy(), from_pandas=True)  # NaN is null.
        else:
            try:
                array = pa.array(list(values), pa.string())
            except (UnicodeEncodeError, pa.ArrowException) as error:
                raise ValueError(f'{key!r} cannot be written ({error})') from error
        arrays.append(array)
    with atomic_write(path, 'wb') as f:
        csv.write_csv(pa.table(arrays, list(columns)), f)


def _check_same(data: HeteroData, folder: Path) -> None:
    back = read_folder(folder, read_config(folder))
    left_out = []
    for where, store, other in [('data', data._global_store, back._global_store),
                                ("data['entity']", data['entity'], back['entity']),
                                ('data[EDGE]', data[EDGE], back[EDGE])]:
        for key, value in store.items():
            if key not in other:
                left_out.append(f'{where}.{key}')
            elif not _equal(value, other[key]):
                raise ValueError(f'{where}.{key} cannot be written such that it reads back the '
                                 f'same (it is {_describe(value)}, and would be '
                                 f'{_describe(other[key])})')
    if left_out:
        logger.warning('%s left out, since a folder has no place for it', ', '.join(left_out))


def _equal(value: Any, other: Any) -> bool:
    if isinstance(value, Tensor) and isinstance(other, Tensor):
        return value.dtype == other.dtype and value.shape == other.shape and bool(
            torch.equal(torch.nan_to_num(value.cpu()), torch.nan_to_num(other))
            and torch.equal(torch.isnan(value.cpu()), torch.isnan(other)))
    return type(value) is type(other) and value == other


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f'a tensor of {value.dtype} and shape {list(value.shape)}'
    return repr(value)[:100]
