r"""The vectors of entities and relations, and files of them."""
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Union

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_mmkgc.data import EDGE
from pyg_mmkgc.data.io import PathLike, atomic_folder
from pyg_mmkgc.data.labels import unique_labels
from pyg_mmkgc.evaluation.evaluator import _evaluating
from pyg_mmkgc.evaluation.prediction import find_label
from pyg_mmkgc.nn import JointDecision, KGModel, MultiModalModel
from pyg_mmkgc.nn.models.base import ENCODE_CHUNK

#: What stands behind the label of a relation that is asked the other way round.
INVERSE = ' (inverse)'


@dataclass(frozen=True)
class Vectors:
    r"""Vectors of entities or relations under one view.

    Args:
        labels (List[str]): The label of each row.
        x (torch.Tensor): The vectors :math:`(N, F)` on CPU; zero where there is none.
        mask (torch.Tensor): Which rows have one, boolean :math:`(N)`.
    """
    labels: List[str]
    x: Tensor
    mask: Tensor


@torch.no_grad()
def entity_vectors(model: KGModel, data: HeteroData) -> Dict[str, Vectors]:
    r"""The vectors of all entities as answers, by view: ``'joint'`` is what the score compares
    (:class:`~pyg_mmkgc.nn.LateFusion`, which adds scores, has none), and each modality, structure
    included, has what the model makes of it alone. An entity has no vector of a modality that it
    lacks, and no joint one without any.

    Args:
        model (KGModel): The model.
        data (HeteroData): The graph with labels.
    """
    parts: List[Dict[str, Tensor]] = []
    masks: List[Dict[str, Tensor]] = []
    with _evaluating(model):
        for index in torch.arange(model.num_entities, device=model.seen.device).split(ENCODE_CHUNK):
            views = model.candidate_views(model.encode(index))
            has = {} if not isinstance(model, MultiModalModel) else model.inputs(index)[1]
            joint = torch.stack(list(has.values())).any(dim=0) if has else model.seen[index]
            parts.append({name: x.float().cpu() for name, x in views.items()})
            masks.append({name: has.get(name, joint).cpu() for name in views})
    out = {}
    for name in parts[0]:
        mask = torch.cat([part[name] for part in masks])
        x = torch.cat([part[name] for part in parts])
        out[name] = Vectors(_labels(data['entity'], model.num_entities),
                            torch.where(mask.unsqueeze(1), x, 0.0), mask)
    return out


@torch.no_grad()
def relation_vectors(model: KGModel, data: HeteroData) -> Dict[str, Vectors]:
    r"""The vectors of all relations and, behind them, of their inverses (relation :math:`r + R`),
    by view: one for each decoder that the model has.

    Args:
        model (KGModel): The model.
        data (HeteroData): The graph with labels.
    """
    decoders = (dict(model.decoder.decoders.items()) if isinstance(model.decoder, JointDecision)
                else {'joint': model.decoder})
    labels = _labels(data[EDGE], model.num_relations)
    labels = labels + [f'{label}{INVERSE}' for label in labels]
    return {name: Vectors(labels, decoder.rel_emb.weight.detach().float().cpu(),
                          torch.ones(len(labels), dtype=torch.bool))
            for name, decoder in decoders.items()}


@torch.no_grad()
def neighbours(model: KGModel, data: HeteroData, entity: Union[str, int], view: str = 'joint',
               top: int = 10) -> List[Dict[str, Any]]:
    r"""The entities whose vectors are most similar to that of one, by the cosine, best first.

    Args:
        model (KGModel): The model.
        data (HeteroData): The graph with labels.
        entity (str or int): The label or id of the entity.
        view (str, optional): ``'joint'`` or a modality, see :func:`entity_vectors`.
            (default: :obj:`"joint"`)
        top (int, optional): The number of neighbours. (default: :obj:`10`)

    Returns:
        List[Dict[str, Any]]: For each its label ``'entity'`` and the ``'similarity'``.

    Raises:
        ValueError: If the entity or the view is unknown, or the entity has no such vector.
    """
    if top < 1:
        raise ValueError(f"'top' needs to be at least 1 (got {top})")
    views = entity_vectors(model, data)
    if view not in views:
        raise ValueError(f'Unknown view {view!r} of {type(model).__name__} (expected one of '
                         f'{list(views)})')
    found = views[view]
    index = find_label('entity', found.labels, entity)
    if not bool(found.mask[index]):
        raise ValueError(f'entity {found.labels[index]!r} has no vector of view {view!r}')
    x = torch.nn.functional.normalize(found.x, dim=1)
    allowed = found.mask.clone()
    allowed[index] = False
    similarity = (x @ x[index]).masked_fill(~allowed, float('-inf'))
    best = similarity.argsort(descending=True, stable=True)[:min(top, int(allowed.sum()))]
    return [{'entity': found.labels[i], 'similarity': float(similarity[i])} for i in best.tolist()]


# Files ##########################################################################################


def write_vectors(views: Mapping[str, Mapping[str, Vectors]], folder: PathLike,
                  file_format: str) -> Path:
    r"""Write vectors into a new folder, whole or not at all.

    ================ ==============================================================================
    ``'parquet'``    `<what>.parquet`: id, label, and a column of vectors for each view, null where
                     there is none
    ``'npy'``        `<what>-<view>.npy` (zero where there is none), `<what>-<view>-mask.npy`, and
                     `<what>.json`, the labels in the order of rows
    ``'word2vec'``   `<what>-<view>.txt`: the number of vectors and their size, then in each line a
                     token and its numbers; who has no vector is left out. A token is the label with
                     `_` for each white space; those that several labels share, or that are empty,
                     get `#<id>` behind them
    ``'faiss'``      `<what>-<view>.faiss`: an index of inner products of normalised vectors, which
                     are cosines, by id; and `<what>.json`. Needs the extra `faiss`
    ================ ==============================================================================

    Args:
        views (Mapping[str, Mapping[str, Vectors]]): For each of ``'entities'`` and ``'relations'``
            that is wanted, what :func:`entity_vectors` or :func:`relation_vectors` returned.
        folder (str or os.PathLike): A new folder, or an empty one.
        file_format (str): One of :obj:`FORMATS`.

    Raises:
        ValueError: If the format is unknown.
        FileExistsError: If there is something of that name that is no empty folder.
        ImportError: If the format needs a package that is not installed.
    """
    if file_format not in FORMATS:
        raise ValueError(f"Unknown 'file_format' {file_format!r} (expected one of "
                         f'{list(FORMATS)})')
    with atomic_folder(folder) as path:
        for what, by_name in views.items():
            FORMATS[file_format](path, what, by_name)
    return Path(folder)


def _write_parquet(path: Path, what: str, views: Mapping[str, Vectors]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels = _first(views).labels
    columns = {'id': pa.array(range(len(labels)), pa.int64()),
               'label': pa.array(labels, pa.string())}
    for name, vectors in views.items():
        flat = pa.array(vectors.x.numpy().reshape(-1), pa.float32())
        columns[name] = pa.FixedSizeListArray.from_arrays(
            flat, vectors.x.size(1), mask=pa.array(~vectors.mask.numpy()))
    pq.write_table(pa.table(columns), path / f'{what}.parquet')


def _write_npy(path: Path, what: str, views: Mapping[str, Vectors]) -> None:
    for name, vectors in views.items():
        np.save(path / f'{what}-{name}.npy', vectors.x.numpy(), allow_pickle=False)
        np.save(path / f'{what}-{name}-mask.npy', vectors.mask.numpy(), allow_pickle=False)
    _write_labels(path, what, views)


def _write_word2vec(path: Path, what: str, views: Mapping[str, Vectors]) -> None:
    labels = _first(views).labels
    tokens = unique_tokens(labels)
    for name, vectors in views.items():
        rows = vectors.mask.nonzero().view(-1).tolist()
        with open(path / f'{what}-{name}.txt', 'w', encoding='utf-8', newline='\n') as f:
            f.write(f'{len(rows)} {vectors.x.size(1)}\n')
            for i, x in zip(rows, vectors.x[rows].tolist(), strict=True):
                f.write(f'{tokens[i]} {" ".join(map(_number, x))}\n')


def _write_faiss(path: Path, what: str, views: Mapping[str, Vectors]) -> None:
    try:
        import faiss
    except ImportError as error:
        raise ImportError("format 'faiss' needs faiss: pip install 'pyg-mmkgc[faiss]'") from error
    for name, vectors in views.items():
        index = faiss.IndexIDMap2(faiss.IndexFlatIP(vectors.x.size(1)))
        rows = vectors.mask.nonzero().view(-1)
        x = torch.nn.functional.normalize(vectors.x[rows], dim=1)
        index.add_with_ids(x.numpy(), rows.numpy())
        faiss.write_index(index, str(path / f'{what}-{name}.faiss'))
    _write_labels(path, what, views)


#: For each format what writes it.
FORMATS: Dict[str, Callable[[Path, str, Mapping[str, Vectors]], None]] = {
    'parquet': _write_parquet,
    'npy': _write_npy,
    'word2vec': _write_word2vec,
    'faiss': _write_faiss,
}


def unique_tokens(labels: Sequence[str]) -> List[str]:
    r"""Labels as tokens of word2vec's text format, in which white space ends a token, see
    :func:`write_vectors`.

    Args:
        labels (Sequence[str]): The labels.
    """
    tokens = [''.join('_' if c.isspace() else c for c in label) for label in labels]
    shared = unique_labels(tokens, list(map(str, range(len(labels)))))
    out = [f'{token}#{i}' if token != other or not token else token
           for i, (token, other) in enumerate(zip(tokens, shared, strict=True))]
    taken = set(out)
    # A label may look like what another one became:
    return out if len(taken) == len(out) else [f'{token}#{i}' for i, token in enumerate(tokens)]


def _number(value: float) -> str:
    # Nine digits bring back every number in single precision.
    return f'{value:.9g}'


def _write_labels(path: Path, what: str, views: Mapping[str, Vectors]) -> None:
    with open(path / f'{what}.json', 'w', encoding='utf-8', newline='\n') as f:
        json.dump(_first(views).labels, f, indent=0)
        f.write('\n')


def _first(views: Mapping[str, Vectors]) -> Vectors:
    return next(iter(views.values()))


def _labels(store: Any, size: int) -> List[str]:
    labels: Optional[Sequence[Optional[str]]] = store.label if 'label' in store else None
    if labels is None:
        return [str(i) for i in range(size)]
    return [str(i) if label is None else label for i, label in enumerate(labels)]
