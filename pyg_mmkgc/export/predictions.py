r"""Answers to all questions of a split, and files of them."""
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence
from urllib.parse import quote

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from tqdm import tqdm

from pyg_mmkgc.data import EDGE, build_index, get_triples, seen_entities
from pyg_mmkgc.data.io import PathLike, atomic_path, atomic_write
from pyg_mmkgc.evaluation.evaluator import CANDIDATES, _device, _evaluating
from pyg_mmkgc.evaluation.prediction import filtered_softmax, known_by
from pyg_mmkgc.nn import KGModel

#: Scores that are held at once.
MAX_NUMEL = 2**24
SUFFIXES = ('.parquet', '.nt')
#: What stands before a label that is no IRI itself.
BASE = 'urn:pyg-mmkgc:'
#: What N-Triples lets no IRI hold, and what ends one's scheme.
_SAFE = "/:#?&=+,;@!$*()'~%"


@torch.no_grad()
def predict_split(model: KGModel, data: HeteroData, split: str = 'test', top: int = 10,
                  exclude: Sequence[str] = ('train', ), temperature: Optional[float] = None,
                  min_probability: float = 0.0, log: bool = False) -> Dict[str, List[Any]]:
    r"""The best answers to every question that a split asks, :math:`(h, r, ?)` and
    :math:`(?, r, t)`, each question once, best answer first.

    Args:
        model (KGModel): The model.
        data (HeteroData): The graph with labels.
        split (str, optional): The split. (default: :obj:`"test"`)
        top (int, optional): The number of answers to each question. (default: :obj:`10`)
        exclude (Sequence[str], optional): Splits whose triples are no answers.
            (default: :obj:`('train', )`)
        temperature (float, optional): See :func:`~pyg_mmkgc.evaluation.predict`.
            (default: :obj:`None`)
        min_probability (float, optional): The same. (default: :obj:`0.0`)
        log (bool, optional): Whether to show a progress bar. (default: :obj:`False`)

    Returns:
        Dict[str, List]: Columns of equal length: the labels ``'head'``, ``'relation'`` and
        ``'tail'`` of the predicted triple; ``'side'``, the end that was asked for; ``'rank'`` of
        the answer from 1; ``'score'``; ``'probability'``; and ``'known'``, as
        :func:`~pyg_mmkgc.evaluation.predict` has them.

    Raises:
        ValueError: If the split is unknown or an argument is out of range.
    """
    if top < 1:
        raise ValueError(f"'top' needs to be at least 1 (got {top})")
    if not 0 <= min_probability <= 1:
        raise ValueError(f"'min_probability' needs to be in [0, 1] (got {min_probability})")
    num_entities, num_relations = model.num_entities, model.num_relations
    head_index, rel_type, tail_index = (x.cpu() for x in get_triples(data, split))
    queries = torch.stack([torch.cat([rel_type, rel_type + num_relations]),
                           torch.cat([head_index, tail_index])], dim=1).unique(dim=0)
    candidates = getattr(data, 'candidates', 'all')
    if candidates not in CANDIDATES:
        raise ValueError(f"'data.candidates' needs to be 'seen' or 'all' (got {candidates!r})")
    seen = seen_entities(data)
    known = build_index(data, exclude) if exclude else None
    device, found = _device(model), []
    with _evaluating(model):
        scorer = model.scorer()
        for part in tqdm(queries.split(max(1, MAX_NUMEL // num_entities)), disable=not log):
            relation, entity = part.t()
            score = scorer(entity.to(device), relation.to(device), 0, num_entities).cpu()
            # Who asks about an unseen entity may get any answer, as in `predict`.
            allowed = torch.ones_like(score, dtype=torch.bool)
            if candidates == 'seen':
                allowed = seen | ~seen[entity].unsqueeze(1)
            if known is not None:
                allowed = allowed.index_put(known.answers(entity, relation), torch.tensor(False))
            score = score.masked_fill(~allowed, float('-inf'))
            if temperature is not None:
                probability = filtered_softmax(score / temperature, data, entity, relation)
            else:
                probability = (score.softmax(1) if model.objective == 'softmax' else
                               score.sigmoid())
            # Ties among the best come in the order of ids.
            answer = score.topk(min(top, num_entities), dim=1).indices.sort(dim=1).values
            best = score.gather(1, answer).argsort(dim=1, descending=True, stable=True)
            answer = answer.gather(1, best)
            kept = score.gather(1, answer) > float('-inf')
            kept &= probability.gather(1, answer) >= min_probability
            row, column = kept.nonzero(as_tuple=True)
            answer = answer[row, column]
            found.append((entity[row], relation[row], answer, column + 1,
                          score[row, answer], probability[row, answer]))
    return _columns(data, *(torch.cat(parts) for parts in zip(*found, strict=True)))


def _columns(data: HeteroData, entity: Tensor, relation: Tensor, answer: Tensor, rank: Tensor,
             score: Tensor, probability: Tensor) -> Dict[str, List[Any]]:
    num_relations = data[EDGE].num_relations
    inverse = relation >= num_relations
    entities, relations = data['entity'].label, data[EDGE].label
    return {
        'head': [entities[i] for i in torch.where(inverse, answer, entity).tolist()],
        'relation': [relations[i] for i in (relation % num_relations).tolist()],
        'tail': [entities[i] for i in torch.where(inverse, entity, answer).tolist()],
        'side': ['head' if i else 'tail' for i in inverse.tolist()],
        'rank': rank.tolist(),
        'score': score.tolist(),
        'probability': probability.tolist(),
        'known': known_by(data, entity, relation, answer),
    }


def write_predictions(predictions: Dict[str, List[Any]], path: PathLike) -> Path:
    r"""Write predictions into a file, whole or not at all: with all columns as `.parquet`, or as
    N-Triples, `.nt`, those that no split knows, each triple once, with its best probability as a
    comment behind it.

    A label that is an IRI (`http:`, `https:` or `urn:`) stays one; another one becomes
    `urn:pyg-mmkgc:entity:<label>` or `urn:pyg-mmkgc:relation:<label>`, percent-encoded.

    Args:
        predictions (Dict[str, List]): From :func:`predict_split`.
        path (str or os.PathLike): The file.

    Raises:
        ValueError: If the suffix is another one.
        FileExistsError: If the file exists.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected a file of predictions, one of {list(SUFFIXES)} (got "
                         f"'{path.suffix}')")
    if path.exists():
        raise FileExistsError(f"'{path}' exists and is not overwritten")
    if path.suffix == '.nt':
        with atomic_write(path) as f:
            f.writelines(_statements(predictions))
        return path
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = ('head', 'relation', 'tail', 'side', 'known')
    types = {key: pa.string() if key in texts else pa.int64() if key == 'rank' else pa.float64()
             for key in predictions}
    with atomic_path(path) as temporary:
        pq.write_table(pa.table({key: pa.array(values, types[key])
                                 for key, values in predictions.items()}), temporary)
    return path


def _statements(predictions: Dict[str, List[Any]]) -> Iterator[str]:
    # Both sides may predict the same triple.
    best: Dict[Any, float] = {}
    triples = zip(*(predictions[key] for key in ('head', 'relation', 'tail')), strict=True)
    for triple, probability, known in zip(triples, predictions['probability'],
                                          predictions['known'], strict=True):
        if known in (None, 'new'):
            best[triple] = max(probability, best.get(triple, 0.0))
    for (head, relation, tail), probability in best.items():
        yield (f'{_iri("entity", head)} {_iri("relation", relation)} {_iri("entity", tail)} . '
               f'# {probability:.4g}\n')


def _iri(kind: str, label: str) -> str:
    if label.lower().startswith(('http://', 'https://', 'urn:')):
        return f'<{quote(label, safe=_SAFE)}>'
    return f'<{BASE}{kind}:{quote(label, safe="")}>'
