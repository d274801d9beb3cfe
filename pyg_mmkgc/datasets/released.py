r"""Released feature files: where they are, how to read them safely, and the fill in them."""
import math
import pickle
import re
import zipfile
from pathlib import Path
from typing import Dict, Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

#: The names of each modality's file: NativE's first, then MoMoK's.
RELEASED_FILES = {
    'image': ('{name}-visual.pth', 'img_features.pth'),
    'text': ('{name}-textual.pth', 'text_features.pth'),
    'numeric': ('{name}-numeric.pth', 'numeric_features.pth'),
    'audio': ('{name}-audio.pth', ),
    'video': ('{name}-video.pth', ),
}
#: Narrower features are never searched for fill: there, equal rows and zeros are ordinary values.
MIN_CHANNELS = 16
#: In narrower features random rows cannot be told from others.
MIN_RANDOM_CHANNELS = 256
_RANK = 4
_CHUNK = 1024  # Rows at a time, so that no copy of all of them is made.
_GLOBAL = re.compile(r'GLOBAL ([\w.]+)')


def find_released(folders: Iterable[Path], names: Sequence[str]) -> Dict[str, Path]:
    r"""The released feature file of each modality.

    Args:
        folders (Iterable[Path]): Where to look; a folder before another one wins.
        names (Sequence[str]): The names under which the dataset was published.

    Returns:
        Dict[str, Path]: For each modality that has one, its file. Within a folder NativE's wins
        over MoMoK's.
    """
    out: Dict[str, Path] = {}
    for folder in folders:
        for modality, patterns in RELEASED_FILES.items():
            for file in (pattern.format(name=name) for pattern in patterns for name in names):
                if modality not in out and (folder / file).is_file():
                    out[modality] = folder / file
    return out


def read_released(path: Path, num_entities: int) -> Tensor:
    r"""Read one released feature file: a tensor that :func:`torch.save` wrote, whose rows are in
    the order of the ids in `entity2id.txt`. Nothing is unpickled but tensors.

    Args:
        path (Path): The file.
        num_entities (int): The number of entities.

    Returns:
        torch.Tensor: Features ``[num_entities, channels]`` of type :obj:`torch.float32`; further
        dimensions are flattened.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or holds any other object than one dense floating-point
            tensor, the number of rows is another, or a value is not finite.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}'")
    try:
        # Mapped, so that the file and its copy in the graph do not both take memory.
        x = torch.load(path, map_location='cpu', weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, IndexError,
            AttributeError, TypeError, AssertionError) as error:
        kind = _GLOBAL.search(str(error))
        if kind is None:
            raise ValueError(f'{path}: damaged, or not written by torch.save') from error
        raise ValueError(
            f'{path}: expected a tensor (got a pickled {kind[1]}, which is refused since '
            f'unpickling can run any code). If you trust it, convert it once: '
            f'torch.save(torch.as_tensor(x), path), where x is its array') from error
    if not isinstance(x, Tensor):
        raise ValueError(f'{path}: expected a tensor (got {type(x).__name__})')
    if x.layout != torch.strided or not x.is_floating_point():
        raise ValueError(f'{path}: expected a dense floating-point tensor (got {x.dtype}, '
                         f'{x.layout})')
    if x.dim() < 2 or x.size(0) != num_entities or x[:1].numel() == 0:
        raise ValueError(f'{path}: expected one row for each of {num_entities} entities, in '
                         f'order of their ids (got shape {list(x.shape)})')
    x = x.detach().flatten(1).float()
    bad = torch.cat([~part.isfinite().all(dim=1) for part in x.split(_CHUNK)])
    if bool(bad.any()):
        raise ValueError(f'{path}: {int(bad.sum())} rows have values that are NaN or infinite as '
                         f'32-bit numbers (first: row {int(bad.nonzero()[0, 0])})')
    return x


def find_fill(x: Tensor) -> Tensor:
    r"""Which rows are not features of their entity, but what the publishers put where there was
    none.

    - *Zeros*: the row is zero.
    - *Mean*: at least two rows are identical and, up to 1 % of the mean squared distance, equal
      the mean of all rows.
    - *Random*: the row is one of independent draws, normal or uniform about zero. It lies hardly
      more in the span of the four principal directions of all (unit) rows than chance has it,
      :math:`40 / C`; at most one in a thousand of the other rows has less than twice of that;
      the moments of its entries are those of such draws; and all such rows together have no
      direction of their own. Needs at least 256 channels.

    What cannot be found: a single mean row; random rows among features that have no common
    directions (contrastive or whitened ones), or that were drawn around the features' mean or
    copied from other entities; the same text or picture for all entities that lack one, which is
    as a genuine repeat. Features of fewer than 16 channels are left alone.

    Args:
        x (torch.Tensor): Finite features ``[N, C]``.

    Returns:
        torch.Tensor: Boolean ``[N]``.
    """
    fill = torch.zeros(x.size(0), dtype=torch.bool)
    if x.size(1) < MIN_CHANNELS:
        return fill
    fill |= torch.cat([(part == 0).all(dim=1) for part in x.split(_CHUNK)])
    for find in (_find_mean, _find_random):
        rows = (~fill).nonzero().view(-1)
        if rows.numel() > 0:
            fill[rows[find(x, rows)]] = True
    return fill


def _find_mean(x: Tensor, rows: Tensor) -> Tensor:
    mean = sum(x[index].double().sum(dim=0) for index in rows.split(_CHUNK)) / rows.numel()
    distance = torch.cat([(x[index] - mean).square().sum(dim=1) for index in rows.split(_CHUNK)])
    near = (distance < 0.01 * distance.mean()).nonzero().view(-1)
    out = torch.zeros(rows.numel(), dtype=torch.bool)
    if near.numel() > 1:
        _, inverse, count = torch.unique(x[rows[near]], dim=0, return_inverse=True,
                                         return_counts=True)
        out[near[count[inverse] > 1]] = True
    return out


def _find_random(x: Tensor, rows: Tensor) -> Tensor:
    channels = x.size(1)
    none = torch.zeros(rows.numel(), dtype=torch.bool)
    if channels < MIN_RANDOM_CHANNELS:
        return none
    basis = _principal_directions(x, rows, _RANK)
    share = torch.cat([(part @ basis).square().sum(dim=1) for part in _unit_rows(x, rows)])
    # Of a random direction it is chi-squared over C; four degrees reach 40 once in 10^7.
    low = share < 40 / channels
    between = ~low & (share < 80 / channels)
    if not bool(low.any()) or int(between.sum()) > rows.numel() // 1000 or \
            int((~low).sum()) < rows.numel() // 10:
        return none

    suspects = rows[low]
    moments = torch.cat([_moments(part) for part in _unit_rows(x, suspects)])
    location, kurtosis = moments.unbind(dim=1)
    drawn = location.abs() * math.sqrt(channels) < 5
    drawn &= (kurtosis > 1.5) & (kurtosis < 3 + 8 * math.sqrt(24 / channels))
    suspects = suspects[drawn]
    if suspects.numel() == 0:
        return none
    # The largest eigenvalue that independent draws have (Marchenko and Pastur), with some leeway.
    first = _principal_directions(x, suspects, 1)
    largest = sum(float((part @ first).square().sum()) for part in _unit_rows(x, suspects))
    count = suspects.numel()
    if largest > 1.5 * count / channels * (1 + math.sqrt(channels / count))**2:
        return none
    out = none.clone()
    out[low.nonzero().view(-1)[drawn]] = True
    return out


def _unit_rows(x: Tensor, rows: Tensor) -> Iterator[Tensor]:
    for index in rows.split(_CHUNK):
        yield normalize(x[index], dim=1)


def _principal_directions(x: Tensor, rows: Tensor, rank: int) -> Tensor:
    # Subspace iteration, [C, rank]; a generator of its own, so that no other draw is moved.
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(x.size(1), rank, generator=generator)
    for _ in range(5):
        basis = torch.linalg.qr(sum(part.t() @ (part @ basis) for part in _unit_rows(x, rows)))[0]
    return basis


def _moments(x: Tensor) -> Tensor:
    # The mean in standard deviations, and the kurtosis, of the entries of each row, [n, 2].
    mean, std = x.mean(dim=1, keepdim=True), x.std(dim=1, keepdim=True).clamp(min=1e-12)
    return torch.stack([(mean / std).view(-1), ((x - mean) / std).pow(4).mean(dim=1)], dim=1)
