r"""Entities that come to a graph after its model was trained."""
import copy
import csv
import json
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_mmkgc.data.hetero import modality_dicts, set_modality
from pyg_mmkgc.data.io import PathLike, check_archive
from pyg_mmkgc.data.labels import Labels

Inputs = Tuple[Dict[str, Tensor], Dict[str, Tensor]]


def complete_features(features: Mapping[str, Tensor], masks: Optional[Mapping[str, Tensor]],
                      channels: Mapping[str, int]) -> Inputs:
    r"""Features and masks of :math:`n` entities for all modalities that there are. A modality that
    is not named is missing: masked and zero.

    Args:
        features (Mapping[str, torch.Tensor]): For each modality at hand, features :math:`(n, C_m)`.
        masks (Mapping[str, torch.Tensor], optional): For some of these, which of the entities have
            the modality, boolean :math:`(n)`. (default: all of them)
        channels (Mapping[str, int]): For each modality that there is, :math:`C_m`.

    Returns:
        (Dict[str, torch.Tensor], Dict[str, torch.Tensor]): Features :math:`(n, C_m)` and masks
        :math:`(n)` of each modality.

    Raises:
        ValueError: If there are no features, a modality is unknown, shapes or types are wrong, or a
            number is not finite.
    """
    masks = {} if masks is None else masks
    if not features:
        raise ValueError(f"'features' is empty (expected some of {list(channels)})")
    for m in [*features, *masks]:
        if m not in channels or m not in features:
            raise ValueError(f'Unknown modality {m!r} of a new entity (expected some of '
                             f'{list(channels if m in features else features)})')
    num = {m: x.size(0) if x.dim() == 2 else None for m, x in features.items()}
    first = next(iter(num.values()))
    x_dict, mask_dict = {}, {}
    for m, size in channels.items():
        x = features.get(m)
        if x is None:
            x_dict[m] = torch.zeros(first or 0, size)
            mask_dict[m] = torch.zeros(first or 0, dtype=torch.bool)
            continue
        if not x.is_floating_point() or num[m] is None or x.shape != (first, size):
            raise ValueError(f'modality {m!r} of new entities needs floating-point features of '
                             f'shape [{"n" if first is None else first}, {size}] (got {x.dtype}, '
                             f'{list(x.shape)})')
        mask = masks.get(m, torch.ones(x.size(0), dtype=torch.bool, device=x.device))
        if mask.dtype != torch.bool or mask.shape != (first, ):
            raise ValueError(f'mask of modality {m!r} of new entities needs to be boolean of shape '
                             f'[{first}] (got {mask.dtype}, {list(mask.shape)})')
        x = torch.where(mask.unsqueeze(-1), x, x.new_zeros(()))
        if not bool(torch.isfinite(x).all()):
            raise ValueError(f'modality {m!r} of new entities has NaN or infinite values')
        x_dict[m], mask_dict[m] = x, mask
    return x_dict, mask_dict


def add_entities(data: HeteroData, labels: Sequence[str], features: Mapping[str, Tensor],
                 masks: Optional[Mapping[str, Tensor]] = None) -> HeteroData:
    r"""A graph with further entities behind its own, which no triple names.
    :meth:`~pyg_mmkgc.nn.KGModel.extend` makes the model for it.

    Modalities of the graph are copied, those that lie in a file, too; what else it says of each
    entity is unknown of the new ones (names are None) or left out.

    Args:
        data (HeteroData): The graph; not changed.
        labels (Sequence[str]): The names of the :math:`n` entities.
        features (Mapping[str, torch.Tensor]): For each modality that they have, features
            :math:`(n, C_m)`.
        masks (Mapping[str, torch.Tensor], optional): For some of these, which of the entities have
            the modality, boolean :math:`(n)`. (default: all of them)

    Raises:
        ValueError: If a label is not new, or features do not fit.
    """
    known = set(data['entity'].label)
    for i, label in enumerate(labels):
        if label in known or label in labels[:i]:
            raise ValueError(f'the new entity {label!r} is in the graph already (expected another '
                             f'name)')
    old_x, old_mask = modality_dicts(data)
    x_dict, mask_dict = complete_features(features, masks,
                                          {m: x.size(1) for m, x in old_x.items()})
    num_entities = data['entity'].num_nodes
    num_new = next(iter(x_dict.values())).size(0)
    if num_new != len(labels):
        raise ValueError(f"'features' is of {num_new} entities (expected {len(labels)}, one for "
                         f'each label)')

    out = copy.copy(data)
    store = out['entity']
    for key, value in list(store.items()):
        if isinstance(value, Labels) and len(value) == num_entities:
            store[key] = Labels([*value, *(labels if key == 'label' else [None] * num_new)])
        elif isinstance(value, Tensor) and value.dim() > 0 and value.size(0) == num_entities:
            del store[key]
    store.num_nodes = num_entities + num_new
    for m, x in old_x.items():
        set_modality(out, m, torch.cat([x[:], x_dict[m].to(x.device, x.dtype)]),
                     torch.cat([old_mask[m], mask_dict[m].to(old_mask[m].device)]))
    return out


def read_features(path: PathLike) -> Dict[str, Tensor]:
    r"""Read the features of one entity: a vector for each modality.

    - `.npz`: an array :math:`(C_m)` or :math:`(1, C_m)` under the name of each modality;
    - `.json`: a mapping from names to lists of numbers;
    - `.csv`: a line for each modality, its name and then its numbers.

    Args:
        path (str or os.PathLike): The file.

    Returns:
        Dict[str, torch.Tensor]: For each modality its features :math:`(1, C_m)`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such file; the message names it, and the line or modality.
    """
    path = Path(path)
    readers = {'.npz': _read_npz, '.json': _read_json, '.csv': _read_csv}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path}: expected a file of features, one of {sorted(readers)} (got "
                         f"'{path.suffix}')")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}'")
    out = {}
    for where, name, values in readers[path.suffix.lower()](path):
        try:
            x = torch.as_tensor(np.asarray(values, dtype=np.float32))
        except (TypeError, ValueError) as error:
            raise ValueError(f'{where}: expected numbers of modality {name!r} ({error})') from error
        if x.dim() == 2 and x.size(0) == 1:
            x = x[0]
        if x.dim() != 1 or x.numel() == 0:
            raise ValueError(f'{where}: expected one vector of modality {name!r} (got shape '
                             f'{list(x.shape)})')
        if name in out:
            raise ValueError(f'{where}: modality {name!r} occurs twice (expected once)')
        out[name] = x.unsqueeze(0)
    if not out:
        raise ValueError(f'{path}: expected at least one modality (got none)')
    return out


def _read_npz(path: Path) -> Iterator[Tuple[str, str, Any]]:
    check_archive(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # Damaged files make numpy and zipfile raise about anything.
        raise ValueError(f'{path}: damaged or no npz archive ({error})') from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise ValueError(f'{path}: damaged or no npz archive (expected arrays alone, and '
                             f'{name!r} is none)')
        yield str(path), name, array


def _read_json(path: Path) -> Iterator[Tuple[str, str, Any]]:
    try:
        values = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path}: expected JSON ({error})') from error
    if not isinstance(values, dict):
        raise ValueError(f'{path}: expected a mapping from modalities to lists of numbers (got '
                         f'{type(values).__name__})')
    for name, vector in values.items():
        yield str(path), name, vector


def _read_csv(path: Path) -> Iterator[Tuple[str, str, Any]]:
    try:
        with open(path, encoding='utf-8-sig', newline='') as f:
            for row in (reader := csv.reader(f)):
                if row:
                    yield f'{path}:{reader.line_num}', row[0].strip(), row[1:]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f'{path}: expected a table in UTF-8 ({error})') from error
