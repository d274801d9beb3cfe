from collections import Counter
from collections.abc import Sequence
from typing import Any, Iterable, List, Optional


class Labels(Sequence[Any]):
    r"""An immutable sequence of names, one for each entity or relation.

    PyG takes a list or tuple as long as there are nodes for a node feature, and its loaders fail
    when they try to slice it; this is neither, so that they leave it alone.

    Args:
        names (Iterable[str], optional): The names; None stands for no name.
    """
    __slots__ = ('_names', )

    def __init__(self, names: Iterable[Optional[str]]):
        self._names = tuple(names)

    def __getitem__(self, index: Any) -> Any:
        out = self._names[index]
        return Labels(out) if isinstance(index, slice) else out

    def __len__(self) -> int:
        return len(self._names)

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, (Labels, list, tuple)):
            return NotImplemented
        return self._names == tuple(other)

    def __hash__(self) -> int:
        return hash(self._names)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({len(self)})'


def unique_labels(labels: List[str], names: List[str]) -> List[str]:
    r"""Labels, of which those that several share get their (unique) name appended."""
    count = Counter(labels)
    return [f'{label} ({name})' if count[label] > 1 else label
            for label, name in zip(labels, names, strict=True)]
