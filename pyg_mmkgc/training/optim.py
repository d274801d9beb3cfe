r"""Optimisers of tables of which a step looks up a few rows, and touches no other."""
from typing import Any, Callable, Dict, Iterable, Optional, Tuple

import torch
from torch import Tensor


class RowOptimizer(torch.optim.Optimizer):
    r"""The base class of optimisers that change the rows which a step has looked up, and no other:
    neither time nor memory of a step depends on the size of the table.

    They take the gradients that :class:`torch.nn.Embedding` gives with :obj:`sparse=True`, of
    *distinct* rows, as :meth:`KGModel.prepare` finds them; unlike those of :mod:`torch.optim`, they
    need not merge rows, for which a GPU waits for its host. Numbers are in single precision,
    whatever the table holds. A table in half precision is rounded at random, up or down such that
    the mean is exact: most updates are smaller than its last bit, and would be lost otherwise.

    Args:
        params (Iterable[torch.Tensor]): The tables :math:`(N, C)`.
        lr (float): The learning rate.
        **defaults (optional): Further options of the groups.
    """
    def __init__(self, params: Iterable[Tensor], lr: float, **defaults: Any):
        super().__init__(params, {'lr': lr, **defaults})
        for group in self.param_groups:
            for p in group['params']:
                self.state[p] = self._new_state(p)

    def _new_state(self, p: Tensor) -> Dict[str, Any]:
        return {}

    def _new_row(self, group: Dict[str, Any], state: Dict[str, Any], index: Tensor, row: Tensor,
                 grad: Tensor) -> Tensor:
        r"""What rows ``[n, C]`` become, in single precision."""
        raise NotImplementedError

    # The base class has overloads, which the optimisers of torch leave out, too.
    @torch.no_grad()
    def step(self, closure: Optional[Callable[[], Tensor]] = None,  # type: ignore[override]
             ) -> Optional[Tensor]:
        r"""Changes the rows that have a gradient.

        Args:
            closure (Callable, optional): Computes the loss once more. (default: :obj:`None`)
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group['params']:
                if p.grad is None:
                    continue
                index, grad = p.grad._indices()[0], p.grad._values().float()
                row = self._new_row(group, self.state[p], index, p[index].float(), grad)
                p.index_copy_(0, index, round_at_random(row, p.dtype))
        return loss

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        r"""Restores what :meth:`state_dict` gave, in single precision as it was.

        Args:
            state_dict (Dict): The state.
        """
        super().load_state_dict(state_dict)  # Which gives numbers the type of the table.
        params = [p for group in self.param_groups for p in group['params']]
        for i, values in state_dict['state'].items():
            self.state[params[i]] = {
                name: value.to(params[i].device) if isinstance(value, Tensor) else value
                for name, value in values.items()}


class RowSGD(RowOptimizer):
    r"""Plain gradient descent, see :class:`RowOptimizer`."""
    def _new_row(self, group: Dict[str, Any], state: Dict[str, Any], index: Tensor, row: Tensor,
                 grad: Tensor) -> Tensor:
        return row.sub_(grad, alpha=group['lr'])


class RowAdagrad(RowOptimizer):
    r"""Adagrad, see :class:`RowOptimizer`. It is what :class:`torch.optim.Adagrad` does with dense
    gradients, since that leaves rows as they are whose gradient is zero.

    Args:
        params (Iterable[torch.Tensor]): The tables.
        lr (float): The learning rate.
        eps (float, optional): Added to the root of the sum of squares. (default: :obj:`1e-10`)
    """
    def __init__(self, params: Iterable[Tensor], lr: float, eps: float = 1e-10):
        super().__init__(params, lr, eps=eps)

    def _new_state(self, p: Tensor) -> Dict[str, Any]:
        return {'sum': torch.zeros_like(p, dtype=torch.float)}

    def _new_row(self, group: Dict[str, Any], state: Dict[str, Any], index: Tensor, row: Tensor,
                 grad: Tensor) -> Tensor:
        total = state['sum'][index].addcmul_(grad, grad)
        state['sum'].index_copy_(0, index, total)
        return row.addcdiv_(grad, total.sqrt_().add_(group['eps']), value=-group['lr'])


class RowAdam(RowOptimizer):
    r"""Adam whose moments of a row stand still while the row is not looked up, as those of
    :class:`torch.optim.SparseAdam`, see :class:`RowOptimizer`.

    Args:
        params (Iterable[torch.Tensor]): The tables.
        lr (float): The learning rate.
        betas (Tuple[float, float], optional): Decay of the two moments.
            (default: :obj:`(0.9, 0.999)`)
        eps (float, optional): Added to the root of the second. (default: :obj:`1e-8`)
    """
    def __init__(self, params: Iterable[Tensor], lr: float,
                 betas: Tuple[float, float] = (0.9, 0.999), eps: float = 1e-8):
        super().__init__(params, lr, betas=betas, eps=eps)

    def _new_state(self, p: Tensor) -> Dict[str, Any]:
        return {'step': 0, 'mean': torch.zeros_like(p, dtype=torch.float),
                'square': torch.zeros_like(p, dtype=torch.float)}

    def _new_row(self, group: Dict[str, Any], state: Dict[str, Any], index: Tensor, row: Tensor,
                 grad: Tensor) -> Tensor:
        first, second = group['betas']
        state['step'] += 1
        mean = state['mean'][index].lerp_(grad, 1 - first)
        square = state['square'][index].lerp_(grad * grad, 1 - second)
        state['mean'].index_copy_(0, index, mean)
        state['square'].index_copy_(0, index, square)
        scale = (1 - second**state['step'])**0.5 / (1 - first**state['step'])
        return row.addcdiv_(mean, square.sqrt_().add_(group['eps']), value=-group['lr'] * scale)


def round_at_random(x: Tensor, dtype: torch.dtype) -> Tensor:
    r"""Numbers in a narrower type, rounded up or down with probabilities that keep their mean.

    Args:
        x (torch.Tensor): Numbers in single precision.
        dtype (torch.dtype): The type to round to; one that is not narrower changes nothing.
    """
    info = torch.finfo(dtype)
    if info.eps <= torch.finfo(x.dtype).eps:
        return x.to(dtype)
    lowest = torch.frexp(torch.tensor(info.smallest_normal)).exponent
    # The distance between the two neighbours in the type, a power of two:
    unit = torch.ldexp(torch.full_like(x, info.eps / 2),
                       torch.frexp(x).exponent.clamp(min=int(lowest)))
    lower = (x / unit).floor()
    return ((lower + (torch.rand_like(x) < x / unit - lower)) * unit).to(dtype)


#: By the names of :class:`TrainConfig`, for tables with sparse gradients.
ROW_OPTIMIZERS = {'adagrad': RowAdagrad, 'adam': RowAdam, 'sgd': RowSGD}
