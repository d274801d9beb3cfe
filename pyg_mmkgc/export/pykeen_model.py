from typing import Any, Optional

import torch
from torch import Tensor

from pyg_mmkgc.nn import KGModel


class PyKEENModel(torch.nn.Module):
    r"""A model as PyKEEN's evaluators ask it, for a comparison by their figures:

    .. code-block:: python

        from pykeen.evaluation import RankBasedEvaluator

        factories = to_pykeen(data)
        results = RankBasedEvaluator().evaluate(
            PyKEENModel(model), factories['test'].mapped_triples,
            additional_filter_triples=[factories['train'].mapped_triples,
                                       factories['val'].mapped_triples])
        results.get_metric('both.realistic.inverse_harmonic_mean_rank')  # The MRR of `evaluate`.

    It needs nothing of PyKEEN. Candidates are all entities there: a graph that says
    ``data.candidates = 'seen'`` is to be compared with ``evaluate(..., candidates='all')``.

    Args:
        model (KGModel): The model.
    """
    can_slice_h = can_slice_r = can_slice_t = False
    use_inverse_triples = False

    def __init__(self, model: KGModel):
        super().__init__()
        self.model = model
        self.num_entities = model.num_entities
        self.num_relations = model.num_relations

    @property
    def device(self) -> torch.device:
        r"""Where the model is."""
        return self.model.seen.device

    @torch.no_grad()
    def predict(self, hrt_batch: Tensor, target: str, slice_size: Optional[int] = None,
                mode: Optional[Any] = None, **kwargs: Any) -> Tensor:
        r"""The scores of all entities in place of one end, :math:`(B, N)`.

        Args:
            hrt_batch (torch.Tensor): Triples :math:`(B, 3)` in columns head, relation, tail.
            target (str): ``'head'`` or ``'tail'``.
            slice_size (int, optional): Not used. (default: :obj:`None`)
            mode (Any, optional): Not used. (default: :obj:`None`)
            **kwargs (optional): Not used.

        Raises:
            ValueError: If relations are asked for.
        """
        if target not in ('head', 'tail'):
            raise ValueError(f"'target' needs to be 'head' or 'tail' (got {target!r})")
        self.model.eval()
        head_index, rel_type, tail_index = hrt_batch.to(self.device).t()
        if target == 'head':
            return self.model.score_all(tail_index, rel_type + self.num_relations)
        return self.model.score_all(head_index, rel_type)
