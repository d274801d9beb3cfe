r"""A folder of one's own as a dataset."""
import os
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Tuple, Union

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_mmkgc.data.hetero import build_data, set_modality
from pyg_mmkgc.datasets.base import GraphDataset
from pyg_mmkgc.datasets.openke import SPLIT_FILES, read_openke, read_text

#: The stems that each split's file of label triples may have, and its suffixes.
SPLIT_STEMS = {'train': ['train'], 'val': ['val', 'valid'], 'test': ['test']}
SUFFIXES = ['.tsv', '.txt']
#: A split that a folder may have beside the three that it must have.
INDUCTIVE = 'inductive_test'
HEADER = ['head', 'relation', 'tail']

Rows = List[Tuple[int, List[str]]]


class MMKGFolder(GraphDataset):
    r"""A multi-modal knowledge graph from a folder of one's own, read anew each time.

    Triples stand in one of two layouts:

    - OpenKE: `entity2id.txt`, `relation2id.txt`, `train2id.txt`, `valid2id.txt` and
      `test2id.txt`, see :func:`~pyg_mmkgc.datasets.openke.read_openke`;
    - labels: `train.tsv`, `val.tsv` (or `valid.tsv`) and `test.tsv` with the columns head,
      relation, tail, separated by tabs, with or without that header (`.txt` will do, too);
      optionally `inductive_test.tsv`. Entities and relations are sorted by label, unless
      `entities.txt` or `relations.txt` lists them, one label a line.

    Each further file of one of these kinds is a modality (several of them):

    - `<modality>.npy`: floating-point features with one row for each entity in order, and
      optionally `<modality>_mask.npy`, boolean, False where an entity lacks them. The label
      layout then needs `entities.txt`, which says what the order is;
    - `*.safetensors`: tensors named `<modality>`, each optionally with a `<modality>_mask`.

    Args:
        path (str or os.PathLike): The folder.
        transform (callable, optional): Applied at each access. (default: :obj:`None`)
        pre_transform (callable, optional): Applied once. (default: :obj:`None`)

    Raises:
        FileNotFoundError: If the folder or a file that it must have is missing.
        ValueError: If a file is malformed, a split is empty, a label is not listed, or features
            do not match the entities or are not finite. The message names the file.
    """
    def __init__(self, path: Union[str, 'os.PathLike[str]'], transform: Optional[Callable] = None,
                 pre_transform: Optional[Callable] = None):
        self.path = Path(path).expanduser()
        if not self.path.is_dir():
            raise FileNotFoundError(f"There is no folder '{path}'")
        super().__init__(transform=transform, pre_transform=pre_transform)
        openke = (self.path / 'entity2id.txt').exists()
        data = _openke_graph(self.path) if openke else _label_graph(self.path)
        files = _feature_files(self.path)
        if files and not openke and not (self.path / 'entities.txt').exists():
            raise FileNotFoundError(f"There is no file '{self.path / 'entities.txt'}', so the "
                                    f"order of the rows in '{files[0].name}' is unknown")
        for file in files:
            for name, x, mask in _read_features(file):
                try:
                    set_modality(data, name, x, mask)
                except ValueError as error:
                    raise ValueError(f'{file}: {error}') from error
        data.candidates = 'all'
        self.data = data if pre_transform is None else pre_transform(data)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({str(self.path)!r})'


def _openke_graph(folder: Path) -> HeteroData:
    entities, relations, splits = read_openke(folder)
    for split, triples in splits.items():
        _check_split(folder / SPLIT_FILES[split], split, len(triples))
    return build_data(splits, entities, relations)


def _label_graph(folder: Path) -> HeteroData:
    paths = {split: _find(folder, stems) for split, stems in SPLIT_STEMS.items()}
    if any((folder / f'{INDUCTIVE}{suffix}').exists() for suffix in SUFFIXES):
        paths[INDUCTIVE] = _find(folder, [INDUCTIVE])
    rows = {split: _read_rows(path) for split, path in paths.items()}
    for split, path in paths.items():
        _check_split(path, split, len(rows[split]))

    everything = [row for part in rows.values() for _, row in part]
    entities = _read_list(folder / 'entities.txt') or sorted(
        {row[0] for row in everything} | {row[2] for row in everything})
    relations = _read_list(folder / 'relations.txt') or sorted({row[1] for row in everything})
    entity_id = {label: i for i, label in enumerate(entities)}
    rel_id = {label: i for i, label in enumerate(relations)}
    splits = {split: _to_ids(paths[split], part, entity_id, rel_id) for split, part in rows.items()}
    return build_data(splits, entities, relations)


def _to_ids(path: Path, rows: Rows, entity_id: Dict[str, int], rel_id: Dict[str, int]) -> Tensor:
    triples = []
    for i, (head, relation, tail) in rows:
        for kind, label, ids in [('entity', head, entity_id), ('relation', relation, rel_id),
                                 ('entity', tail, entity_id)]:
            if label not in ids:
                listing = 'entities.txt' if kind == 'entity' else 'relations.txt'
                raise ValueError(f"{path}:{i}: {kind} {label!r} is not listed in '{listing}'")
        triples.append([entity_id[head], rel_id[relation], entity_id[tail]])
    return torch.tensor(triples)


def _find(folder: Path, stems: List[str]) -> Path:
    names = [f'{stem}{suffix}' for stem in stems for suffix in SUFFIXES]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"There is no file '{folder / names[0]}' (nor {names[1:]}, nor "
                            f"'entity2id.txt' of the OpenKE layout)")


def _read_rows(path: Path) -> Rows:
    rows = []
    for i, line in enumerate(read_text(path).split('\n'), 1):
        if line.strip():
            row = [cell.strip() for cell in line.split('\t')]
            if len(row) != 3 or not all(row):
                raise ValueError(f'{path}:{i}: expected head, relation and tail, separated by '
                                 f'tabs (got {line!r})')
            rows.append((i, row))
    if rows and [cell.lower() for cell in rows[0][1]] == HEADER:
        del rows[0]
    return rows


def _read_list(path: Path) -> Optional[List[str]]:
    if not path.exists():
        return None
    first: Dict[str, int] = {}
    for i, line in enumerate(read_text(path).split('\n'), 1):
        label = line.strip()
        if label in first:
            raise ValueError(f'{path}:{i}: {label!r} occurs twice (first in line {first[label]})')
        if label:
            first[label] = i
    if not first:
        raise ValueError(f'{path}: the file is empty')
    return list(first)


def _check_split(path: Path, split: str, num_triples: int) -> None:
    if num_triples == 0:
        raise ValueError(f'{path}: split {split!r} is empty')


def _feature_files(folder: Path) -> List[Path]:
    masks = {path.with_name(f'{path.stem}_mask.npy') for path in folder.glob('*.npy')}
    return sorted({path for path in folder.glob('*.npy') if path not in masks}
                  | set(folder.glob('*.safetensors')))


def _read_features(path: Path) -> Iterator[Tuple[str, Tensor, Optional[Tensor]]]:
    if path.suffix == '.npy':
        mask_path = path.with_name(f'{path.stem}_mask.npy')
        yield (path.stem, _as_features(_load_npy(path)),
               _load_npy(mask_path) if mask_path.exists() else None)
        return
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f'{path}: damaged or no safetensors file ({error})') from error
    masks = {f'{name}_mask' for name in tensors}
    for name in sorted(set(tensors) - masks):
        yield name, _as_features(tensors[name]), tensors.get(f'{name}_mask')


def _load_npy(path: Path) -> Tensor:
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False))
    except (ValueError, TypeError, EOFError) as error:
        raise ValueError(f'{path}: damaged or no array of numbers ({error})') from error


def _as_features(x: Tensor) -> Tensor:
    # Other dtypes are left as they are, for `set_modality` to refuse.
    return x.float() if x.is_floating_point() else x
