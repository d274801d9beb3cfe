from typing import TYPE_CHECKING, Generic, ItemsView, Mapping, TypeVar, ValuesView

import torch

M = TypeVar('M', bound=torch.nn.Module)

if TYPE_CHECKING:

    class ModuleDict(torch.nn.ModuleDict, Generic[M]):
        r"""A :class:`torch.nn.ModuleDict` that tells type checkers the class of its modules."""
        def __init__(self, modules: Mapping[str, M]) -> None: ...
        def __getitem__(self, key: str) -> M: ...
        def items(self) -> ItemsView[str, M]: ...
        def values(self) -> ValuesView[M]: ...
else:
    ModuleDict = torch.nn.ModuleDict
