r"""A context that fails on whatever makes a GPU wait for its host."""
from typing import Any, Collection, Dict, Optional, Tuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

#: Operators whose result, or the shape of it, the host has to read.
SYNC_OPS = frozenset({
    'aten::_local_scalar_dense', 'aten::item', 'aten::is_nonzero', 'aten::equal', 'aten::allclose',
    'aten::nonzero', 'aten::nonzero_numpy', 'aten::argwhere', 'aten::masked_select',
    'aten::unique_consecutive', 'aten::unique_dim', 'aten::unique_dim_consecutive',
    'aten::_unique', 'aten::_unique2', 'aten::bincount', 'aten::_bincount',
})
#: Index operators that select, and therefore count, when an index is boolean.
INDEX_OPS = frozenset({'aten::index', 'aten::_unsafe_index', 'aten::index_put',
                       'aten::index_put_', 'aten::_index_put_impl_', 'aten::_unsafe_index_put'})
#: Methods that copy to the host without any operator that a dispatch mode would see on CPU.
HOST_METHODS = frozenset({'tolist', 'numpy', 'cpu', '__array__'})


class NoSync(TorchDispatchMode):
    r"""Raise a :class:`RuntimeError` that names the operation if code within synchronises.

    It works on CPU, where such code is only slow on other people's machines, and sees backward
    passes, too:

    .. code-block:: python

        with NoSync():
            loss = model.loss(head_index, rel_type, tail_index)
            loss.backward()

    It fails on reading a value (:obj:`item()`, :obj:`bool(tensor)`, :obj:`tolist()`,
    :obj:`numpy()`, :obj:`cpu()`), on shapes that depend on values (:obj:`nonzero`,
    :obj:`masked_select`, :obj:`unique`, :obj:`bincount`, :obj:`repeat_interleave` without
    :obj:`output_size`, indexing with a boolean tensor), on comparing tensors as a whole
    (:obj:`torch.equal`), and on copies to the CPU from elsewhere.

    Args:
        allow (Collection[str], optional): Names to let through, as the error names them, e.g.
            :obj:`"aten::_local_scalar_dense"` for an optimiser that keeps its step on the host.
            (default: :obj:`()`)
    """
    def __init__(self, allow: Collection[str] = ()):
        super().__init__()
        self.allow = frozenset(allow)
        self._methods = _NoHostMethods(self.allow)

    def __enter__(self) -> 'NoSync':
        super().__enter__()
        self._methods.__enter__()
        return self

    def __exit__(self, *args: Any) -> None:
        self._methods.__exit__(*args)
        super().__exit__(*args)

    def __torch_dispatch__(self, func: Any, types: Tuple[Any, ...], args: Tuple[Any, ...] = (),
                           kwargs: Optional[Dict[str, Any]] = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        if name not in self.allow:
            why = _reason(name, args, kwargs)
            if why is not None:
                raise RuntimeError(f'{name} synchronises with the host: {why}')
        return func(*args, **kwargs)


class _NoHostMethods(TorchFunctionMode):
    def __init__(self, allow: Collection[str]):
        super().__init__()
        self.allow = allow

    def __torch_function__(self, func: Any, types: Tuple[Any, ...], args: Tuple[Any, ...] = (),
                           kwargs: Optional[Dict[str, Any]] = None) -> Any:
        name = getattr(func, '__name__', '')
        if (name in HOST_METHODS and f'Tensor.{name}' not in self.allow
                and getattr(Tensor, name, None) is func):
            raise RuntimeError(f'Tensor.{name} synchronises with the host: it reads all values')
        return func(*args, **(kwargs or {}))


def _reason(name: str, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Optional[str]:
    if name in SYNC_OPS:
        return 'its result depends on values'
    if name in INDEX_OPS:
        indices = args[1] if len(args) > 1 else kwargs['indices']
        if any(index is not None and index.dtype in (torch.bool, torch.uint8)
               for index in indices):
            return 'a boolean index has to be counted'
    if name == 'aten::where' and len(args) == 1:
        return 'its result depends on values'
    if name == 'aten::repeat_interleave' and kwargs.get('output_size') is None:
        return "it has no 'output_size'"
    source, target = _copy_devices(name, args, kwargs)
    if source is not None and source.type != 'cpu' and target.type == 'cpu':
        return f'it copies from {source.type} to cpu'
    return None


def _copy_devices(name: str, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Tuple[Any, ...]:
    r"""From where to where an operator copies; two times :obj:`None` if it is no copy."""
    if name == 'aten::copy_':  # (target, source)
        return args[1].device, args[0].device
    if name in ('aten::_to_copy', 'aten::to'):  # (source, ..., device=...); `to` if in inference.
        target = kwargs.get('device')
        for arg in args[1:]:
            if isinstance(arg, torch.device):
                target = arg
            elif isinstance(arg, Tensor):
                target = arg.device
        return args[0].device, target or args[0].device
    return None, None
