r"""The pictures of a run folder."""
import textwrap
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Sequence

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.utils import scatter

from pyg_mmkgc.data import EDGE, get_triples
from pyg_mmkgc.data.io import PathLike, atomic_path
from pyg_mmkgc.evaluation import Reliability
from pyg_mmkgc.nn import KGModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Relations that a picture has room for; more are left out, the rarest first.
MAX_RELATIONS = 60
MAX_LABEL = 40
#: Entities whose weights are computed at a time.
CHUNK = 8192


def plot_curves(history: Sequence[Dict[str, Any]], path: PathLike) -> None:
    r"""Draw the loss and the MRR of the selecting split over the epochs.

    Args:
        history (Sequence[Dict[str, Any]]): One entry for each epoch, see :class:`TrainResult`.
        path (str or os.PathLike): The PNG file, written atomically.
    """
    figure = new_figure(6.4, 3.8)
    axes = figure.add_subplot()
    axes.plot([e['epoch'] for e in history], [e['loss'] for e in history], color='tab:blue')
    axes.set_xlabel('epoch')
    axes.set_ylabel('training loss', color='tab:blue')
    looks = [e for e in history if 'val_mrr' in e]
    if looks:
        best = max(looks, key=lambda e: e['val_mrr'])
        right = axes.twinx()
        right.plot([e['epoch'] for e in looks], [e['val_mrr'] for e in looks], color='tab:orange',
                   marker='.')
        right.axvline(best['epoch'], color='gray', linestyle=':')
        right.set_ylabel('validation MRR', color='tab:orange')
        axes.set_title(f'best validation MRR {best["val_mrr"]:.4f} in epoch {best["epoch"]}')
    save_figure(figure, path)


def plot_modality_weights(weights: Tensor, modalities: Sequence[str], relations: Sequence[str],
                          path: PathLike) -> None:
    r"""Draw how much each modality counts under each relation, for both directions.

    Args:
        weights (torch.Tensor): The weights :math:`(2R, M)`, see
            :func:`relation_modality_weights`; rows of NaN are left out.
        modalities (Sequence[str]): The name of each column.
        relations (Sequence[str]): The name of each of the :math:`R` relations.
        path (str or os.PathLike): The PNG file, written atomically.
    """
    shown = [r for r in range(len(relations)) if not bool(weights[r].isnan().any())]
    labels = [textwrap.shorten(relations[r], MAX_LABEL, placeholder='...') for r in shown]
    figure = new_figure(3.2 + 1.5 * len(modalities), 1.6 + 0.3 * len(shown))
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, title, rows in [(left, '(head, relation, ?)', weights[shown]),
                              (right, '(?, relation, tail)',
                               weights[[r + len(relations) for r in shown]])]:
        image = axes.imshow(rows.numpy(), vmin=0, vmax=1, cmap='viridis', aspect='auto')
        axes.set_title(title, fontsize='medium')
        axes.set_xticks(range(len(modalities)), modalities, rotation=30, ha='right')
        axes.set_yticks(range(len(labels)), labels, parse_math=False)
        for i, row in enumerate(rows.tolist()):
            for j, value in enumerate(row):
                axes.text(j, i, f'{value:.2f}', ha='center', va='center', fontsize='small',
                          color='white' if value < 0.6 else 'black')
    figure.colorbar(image, ax=[left, right], label='mean weight over training queries')
    save_figure(figure, path)


def plot_reliability(parts: Mapping[str, Reliability], path: PathLike) -> None:
    r"""Draw how often the best answer is right over its probability; calibrated is the diagonal.

    Args:
        parts (Mapping[str, Reliability]): What is compared, by name.
        path (str or os.PathLike): The PNG file, written atomically.
    """
    figure = new_figure(4.6, 4.6)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color='gray', linestyle=':')
    for name, part in parts.items():
        axes.plot(part.confidence, part.accuracy, marker='.',
                  label=f'{name} (calibration error {part.ece:.3f})')
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel='probability of the best answer',
             ylabel='share of queries where it is right')
    axes.legend(loc='upper left')
    save_figure(figure, path)


@torch.no_grad()
def relation_modality_weights(model: KGModel, data: HeteroData) -> Tensor:
    r"""The mean weight of each modality over the training queries of each relation,
    :math:`(2R, M)` on the CPU: a row for :math:`(h, r, ?)`, and one for :math:`(?, r, t)` behind
    those of all relations. Relations beyond the :data:`MAX_RELATIONS` most frequent, and those
    without a training triple, have rows of NaN.

    Args:
        model (KGModel): A model whose :meth:`~KGModel.modality_weights` has something to say.
        data (HeteroData): The graph that it was built for.

    Raises:
        ValueError: If it has nothing to say.
    """
    num_relations = data[EDGE].num_relations
    device = next(model.parameters()).device
    head_index, rel_type, tail_index = get_triples(data, 'train')
    frequency = torch.bincount(rel_type.cpu(), minlength=num_relations)
    kept = torch.zeros(num_relations, dtype=torch.bool)
    kept[frequency.argsort(descending=True, stable=True)[:MAX_RELATIONS]] = True
    mask = kept[rel_type.cpu()]
    index = torch.cat([head_index.cpu()[mask], tail_index.cpu()[mask]])
    rel_type = torch.cat([rel_type.cpu()[mask], rel_type.cpu()[mask] + num_relations])

    parts: List[Tensor] = []
    for i, r in zip(index.split(CHUNK), rel_type.split(CHUNK), strict=True):
        weights = model.modality_weights(i.to(device), r.to(device))
        if weights is None:
            raise ValueError(f'{model.__class__.__name__} does not weigh modalities')
        parts.append(weights.float().cpu())
    size = 2 * num_relations
    total = scatter(torch.cat(parts), rel_type, dim=0, dim_size=size, reduce='sum')
    return total / torch.bincount(rel_type, minlength=size).unsqueeze(-1)  # 0 / 0 is NaN.


def new_figure(width: float, height: float) -> 'Figure':
    r"""An empty figure.

    Args:
        width (float): Its width in inches.
        height (float): Its height in inches.
    """
    # A figure of its own, not `pyplot`, which would keep it and choose a window system.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout='constrained')


def save_figure(figure: 'Figure', path: PathLike) -> None:
    r"""Write a figure as PNG, atomically.

    Args:
        figure (Figure): The figure.
        path (str or os.PathLike): The file.
    """
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
