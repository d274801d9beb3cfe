r"""A scorer that needs torch alone."""
import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_mmkgc.data import EDGE
from pyg_mmkgc.data.io import PathLike, atomic_write
from pyg_mmkgc.nn import JointDecision, KGModel, TuckERDecoder
from pyg_mmkgc.nn.decoders.base import MetricDecoder

#: Candidates that are compared by distance at once.
ROWS = 1024
#: The file of labels within the archive.
LABELS = 'labels.json'


class _Scorer(torch.nn.Module):
    # All that depends on no question is computed here; what is left has no branch on a size.
    def __init__(self, model: KGModel):
        super().__init__()
        encoded = model.encode()
        # No sub-module and no buffer, so that nothing is written but what is asked for.
        self.parts = [model, encoded, model.candidate_vectors(encoded)]

    def forward(self, head_index: Tensor, rel_type: Tensor) -> Tensor:
        model, encoded, table = self.parts
        head = model.head_vectors(encoded, head_index, rel_type)
        query = _query(model.decoder, head, rel_type, None)
        out = _score_all(model.decoder, query, table)  # [B, N]
        if not model.exclude_loops:
            return out
        own = head_index.unsqueeze(1)
        loop = ~model.has_loops[rel_type].unsqueeze(1)
        return out.scatter(1, own, out.gather(1, own).masked_fill(loop, torch.finfo(out.dtype).min))


def _query(decoder: Any, head: Tensor, rel_type: Tensor, distinct: None) -> Tensor:
    if isinstance(decoder, JointDecision):
        return decoder.join([partial(_query, part) for part in decoder.decoders.values()], head,
                            rel_type)
    if isinstance(decoder, TuckERDecoder):
        return decoder.query_by_channel(head, rel_type)
    return decoder.query(head, rel_type)


def _score_all(decoder: Any, query: Tensor, candidates: Tensor) -> Tensor:
    if isinstance(decoder, JointDecision):
        return decoder.decide(_score_all, query, candidates)
    if isinstance(decoder, MetricDecoder):
        return torch.cat([decoder.score(query.unsqueeze(1), rows)
                          for rows in candidates.split(ROWS)], dim=1)
    return decoder.score_all(query, candidates)


@torch.no_grad()
def export_scorer(model: KGModel, data: HeteroData, path: PathLike) -> Path:
    r"""Write the scores of all entities as a program of :func:`torch.export.export`, which runs
    where there is torch and nothing else:

    .. code-block:: python

        files = {'labels.json': ''}
        scorer = torch.export.load('scorer.pt2', extra_files=files).module()
        labels = json.loads(files['labels.json'])  # {'entities': [...], 'relations': [...]}
        score = scorer(head_index, rel_type)       # [B, N]

    The batch may be of any size. The table of entities is a part of the program, and so are the
    features that it was made of as far as a relation changes how they are seen. Scores are those
    of :meth:`~pyg_mmkgc.nn.KGModel.score_all` within rounding. The container is torch's own; load
    one only from where you would take a program.

    Args:
        model (KGModel): The model.
        data (HeteroData): The graph with labels.
        path (str or os.PathLike): The file, `.pt2`.

    Shapes:
        - **input:** head ids :math:`(B)` and relations below :math:`2R`, :math:`(B)`, int64
        - **output:** scores :math:`(B, N)`

    Raises:
        ValueError: If the model looks triples up, as
            :class:`~pyg_mmkgc.nn.NearestNeighbour` does, or the file does not end in `.pt2`.
        FileExistsError: If the file exists.
    """
    path = Path(path)
    if path.suffix != '.pt2':
        raise ValueError(f"'path' needs to end in '.pt2' (got '{path}')")
    if path.exists():
        raise FileExistsError(f"'{path}' exists and is not overwritten")
    if type(model).scorer is not KGModel.scorer:
        raise ValueError(f'{type(model).__name__!r} looks triples up and cannot be exported '
                         f'(expected a model that compares vectors)')
    modes = {module: module.training for module in model.modules()}
    device = model.seen.device
    try:
        scorer = _Scorer(model.eval())
        # Two questions of two relations: a size of one would be taken for a constant.
        index = torch.zeros(2, dtype=torch.long, device=device)
        batch = torch.export.Dim('batch')
        program = torch.export.export(
            scorer, (index, index.clone()),
            dynamic_shapes={'head_index': {0: batch}, 'rel_type': {0: batch}}, strict=False)
    finally:
        for module, mode in modes.items():
            module.training = mode
    labels = {'entities': list(data['entity'].label), 'relations': list(data[EDGE].label)}
    # To a buffer, since the archive would carry the temporary name.
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={LABELS: json.dumps(labels)})
    with atomic_write(path, 'wb') as f:
        f.write(content.getbuffer())
    return path
