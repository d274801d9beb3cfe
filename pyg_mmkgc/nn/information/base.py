from typing import Any, Callable, Optional, Tuple

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import Module, Parameter
from torch.utils.checkpoint import checkpoint

#: Elements of the largest intermediate tensor of an estimate (256 MB in float32), and of one that
#: fits the cache of a CPU.
MAX_NUMEL, CACHE_NUMEL = 2**26, 2**18


class MutualInformation(Module):
    r"""The base class of estimators of pointwise mutual information between views.

    For each entity :math:`e` and each ordered pair of its :math:`V` views, :meth:`forward`
    returns :math:`\hat I(v_i; v_j)(e)` in nats: a quantity whose mean over entities estimates
    (or bounds) the mutual information of the two views. It contrasts view :math:`j` of the
    entity with that of a *bank* of reference entities, and depends on nothing else: not on the
    other entities of the batch. The bank may hold the entity itself.

    Two roles are kept apart, so that one backward pass serves both: :meth:`forward` gives
    gradients to its inputs but none to the estimator, :meth:`learning_loss` gives gradients to
    the estimator but none to its inputs.

    Args:
        num_views (int): The number of views :math:`V`.
        channels (int): Size of each view :math:`C`.
        hidden_channels (int, optional): Size of the hidden layers (default: :obj:`32`).

    Raises:
        ValueError: If a size is not positive.
    """
    #: Whether the loss belongs to an optimiser of its own, stepped in turn with the model's.
    alternating: bool

    def __init__(self, num_views: int, channels: int, hidden_channels: int = 32):
        super().__init__()
        for name, size in (('num_views', num_views), ('channels', channels),
                           ('hidden_channels', hidden_channels)):
            if size < 1:
                raise ValueError(f"{name!r} needs to be positive in '{self.__class__.__name__}' "
                                 f"(got {size})")
        self.num_views = num_views
        self.channels = channels
        self.hidden_channels = hidden_channels

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module."""
        raise NotImplementedError

    def forward(self, views: Tensor, reference: Tensor, mask: Optional[Tensor] = None,
                reference_mask: Optional[Tensor] = None,
                generator: Optional[torch.Generator] = None) -> Tensor:
        r"""The estimate for each entity and ordered pair of views.

        Zero on the diagonal, where the entity lacks one of the two views, and where no
        reference has view :math:`j`. What a missing view holds does not matter.

        Args:
            views (torch.Tensor): The views of the entities to estimate for.
            reference (torch.Tensor): The views of the bank.
            mask (torch.Tensor, optional): Which views exist (default: all).
            reference_mask (torch.Tensor, optional): Which views of the bank exist
                (default: all).
            generator (torch.Generator, optional): The source of randomness of estimators
                that sample (default: the global one).

        Shapes:
            - **views:** :math:`(N, V, C)`, **mask:** :math:`(N, V)`, boolean
            - **reference:** :math:`(n, V, C)`, **reference_mask:** :math:`(n, V)`, boolean
            - **output:** :math:`(N, V, V)`, in nats

        Raises:
            ValueError: If a shape or the type of a mask is wrong, or the bank is empty.
        """
        views, mask = self._prepare('views', views, mask)
        reference, reference_mask = self._prepare('reference', reference, reference_mask)
        out = self.estimate(views, reference, reference_mask, frozen, generator)
        pair = self._pairs(mask) & reference_mask.any(dim=0)  # [N, V, V]
        return torch.where(pair, out, out.new_zeros(()))

    def learning_loss(self, views: Tensor, reference: Tensor, mask: Optional[Tensor] = None,
                      reference_mask: Optional[Tensor] = None) -> Tensor:
        r"""The scalar loss that trains the estimator and nothing else.

        Takes the tensors of :meth:`forward`, which are detached in here.
        """
        raise NotImplementedError

    def estimate(self, views: Tensor, reference: Tensor, reference_mask: Tensor,
                 apply: Callable[..., Any], generator: Optional[torch.Generator]) -> Tensor:
        r"""The estimate where it is defined, anything finite elsewhere, ``[N, V, V]``.

        Called with missing views set to zero. Sub-modules have to be called as
        ``apply(module, x)``, through which :meth:`forward` holds their parameters fixed.
        """
        raise NotImplementedError

    def _prepare(self, name: str, views: Tensor, mask: Optional[Tensor]) -> Tuple[Tensor, Tensor]:
        if views.dim() != 3 or views.shape[1:] != (self.num_views, self.channels):
            raise ValueError(f"{name!r} needs shape [*, {self.num_views}, {self.channels}] in "
                             f"'{self.__class__.__name__}' (got {list(views.shape)})")
        if name == 'reference' and views.size(0) == 0:
            raise ValueError(f"{name!r} needs at least one row in '{self.__class__.__name__}'")
        if mask is None:
            return views, views.new_ones(views.shape[:2], dtype=torch.bool)
        if mask.dtype != torch.bool or mask.shape != views.shape[:2]:
            raise ValueError(f"The mask of {name!r} needs to be boolean of shape "
                             f"{list(views.shape[:2])} (got {mask.dtype}, {list(mask.shape)})")
        # Not a product, which would let NaN through.
        return torch.where(mask.unsqueeze(-1), views, views.new_zeros(())), mask

    def _pairs(self, mask: Tensor) -> Tensor:
        # Which pairs of different views exist, [N, V, V].
        other = ~torch.eye(self.num_views, dtype=torch.bool, device=mask.device)
        return mask.unsqueeze(2) & mask.unsqueeze(1) & other

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}(num_views={self.num_views}, '
                f'channels={self.channels}, hidden_channels={self.hidden_channels})')


class ViewMLP(Module):
    r"""One perceptron with a hidden layer for each view, all in two batched products.

    Shapes:
        - **input:** :math:`(N, V, C)`
        - **output:** :math:`(N, V, C_{\textrm{out}})`
    """
    def __init__(self, num_views: int, channels: int, hidden_channels: int, out_channels: int):
        super().__init__()
        self.weight1 = Parameter(torch.empty(num_views, channels, hidden_channels))
        self.bias1 = Parameter(torch.empty(num_views, 1, hidden_channels))
        self.weight2 = Parameter(torch.empty(num_views, hidden_channels, out_channels))
        self.bias2 = Parameter(torch.empty(num_views, 1, out_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for weight, bias in ((self.weight1, self.bias1), (self.weight2, self.bias2)):
            bound = weight.size(1)**-0.5
            torch.nn.init.uniform_(weight, -bound, bound)
            torch.nn.init.uniform_(bias, -bound, bound)

    def forward(self, views: Tensor) -> Tensor:
        hidden = torch.baddbmm(self.bias1, views.transpose(0, 1), self.weight1).relu()
        return torch.baddbmm(self.bias2, hidden, self.weight2).transpose(0, 1)


def trained(module: Module, x: Tensor) -> Any:
    r"""Apply a module."""
    return module(x)


def frozen(module: Module, x: Tensor) -> Any:
    r"""Apply a module with gradients to its input but none to its parameters."""
    return functional_call(module, {k: p.detach() for k, p in module.named_parameters()}, (x, ))


def by_chunk(function: Callable[..., Tensor], row_numel: int, *args: Tensor) -> Tensor:
    r"""Apply a function of rows to as many rows at a time as memory allows.

    With more than one chunk, intermediate tensors are computed again in a backward pass. Where
    none can follow, that costs nothing, and chunks on a CPU are made to fit its cache.

    Args:
        function (Callable): Maps rows to rows.
        row_numel (int): Elements of the largest intermediate tensor for each row.
        *args (torch.Tensor): Arguments of the function, of equal length.
    """
    in_cache = args[0].device.type == 'cpu' and not torch.is_grad_enabled()
    size = max(1, (CACHE_NUMEL if in_cache else MAX_NUMEL) // row_numel)
    if args[0].size(0) <= size:
        return function(*args)
    chunks = zip(*(arg.split(size) for arg in args), strict=True)
    return torch.cat([checkpoint(function, *chunk, use_reentrant=False, preserve_rng_state=False)
                      for chunk in chunks])


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    r"""The mean where :obj:`mask` is set, zero if that is nowhere."""
    return torch.where(mask, x, x.new_zeros(())).sum() / mask.sum().clamp(min=1)
