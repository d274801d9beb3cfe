r"""The table, the figure and the JSON of a study."""
import json
import os
import platform
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import torch
import torch_geometric
from torch import Tensor

import pyg_mmkgc
from pyg_mmkgc.data.io import atomic_write
from pyg_mmkgc.evaluation import Interval, paired_bootstrap
from pyg_mmkgc.studies.base import Cell, Line, Row, Study, read_cell
from pyg_mmkgc.training.plots import new_figure, save_figure

TABLE, FIGURE, RESULTS = 'table.md', 'figure.png', 'results.json'
METRICS = {'mrr': 'MRR', 'hits@1': 'Hits@1', 'hits@10': 'Hits@10'}
CAPTION = ('In percent, mean ± sample standard deviation over seeds. Epochs and weights of '
           'modalities were chosen on validation; each test split was scored once per line, after '
           'training.')


@dataclass(frozen=True)
class Comparison:
    r"""What one look gains over another in MRR on a split.

    Args:
        first (str): The look.
        second (str): The other one.
        split (str): The split.
        gain (Interval): The mean difference, with its interval by
            :func:`~pyg_mmkgc.evaluation.paired_bootstrap`.
        by_seed (List[float]): The difference for each seed that both have.
    """
    first: str
    second: str
    split: str
    gain: Interval
    by_seed: List[float]


@dataclass(frozen=True)
class Report:
    r"""What came out of a study.

    Args:
        path (Path): The folder, with `table.md`, `figure.png`, `results.json` and a file for each
            cell.
        title (str): What was asked.
        lines (List[Line]): The lines of the table.
        comparisons (List[Comparison]): The paired comparisons.
        findings (List[str]): Sentences.
        missing (int): The number of cells that are not finished.
    """
    path: Path
    title: str
    lines: List[Line]
    comparisons: List[Comparison]
    findings: List[str]
    missing: int

    def to_markdown(self) -> str:
        r"""The tables, with what they mean."""
        parts = [f'# {self.title}', _table(self.lines), CAPTION]
        if self.missing:
            parts.append(f'{self.missing} cells are not finished.')
        if self.comparisons:
            parts += [_comparison_table(self.comparisons),
                      'Gain in points of MRR, seeds averaged; the interval holds 95 % of a paired '
                      'bootstrap over test triples.']
        parts += [f'- {finding}' for finding in self.findings]
        return '\n\n'.join(parts) + '\n'


def machine() -> Dict[str, Any]:
    r"""The machine and the versions that a number was measured with."""
    return {'processor': platform.machine(), 'cores': os.cpu_count(),
            'threads': torch.get_num_threads(),
            'gpu': torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            'python': platform.python_version(), 'torch': str(torch.__version__),
            'torch_geometric': torch_geometric.__version__, 'pyg_mmkgc': pyg_mmkgc.__version__}


def spread(values: Sequence[float], digits: int = 1) -> str:
    r"""Mean and sample standard deviation of fractions, in percent.

    Args:
        values (Sequence[float]): The fractions, at least one.
        digits (int, optional): Digits behind the point. (default: :obj:`1`)
    """
    values = [100 * value for value in values]
    mean = f'{statistics.mean(values):.{digits}f}'
    return mean if len(values) < 2 else f'{mean} ± {statistics.stdev(values):.{digits}f}'


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    r"""A Markdown table.

    Args:
        header (Sequence[str]): The names of the columns.
        rows (Sequence[Sequence[str]]): The cells.
        left (int, optional): The number of columns that are aligned left; the others are numbers.
            (default: :obj:`1`)
    """
    rule = '|'.join(['---'] * left + ['--:'] * (len(header) - left))
    return '\n'.join([f'| {" | ".join(header)} |', f'|{rule}|',
                      *(f'| {" | ".join(row)} |' for row in rows)])


def make_report(study: Study, dataset: str, model: str, cells: Sequence[Cell],
                path: Path) -> Report:
    r"""Sum up the finished cells of a study, and write table, figure and JSON.

    Args:
        study (Study): The study.
        dataset (str): The name of the dataset.
        model (str): The name of the recipe.
        cells (Sequence[Cell]): Its cells, finished or not.
        path (Path): The folder of the study.
    """
    found = [(cell.row, read_cell(cell.path)) for cell in cells if cell.path.exists()]
    lines = _lines(found)
    by_look = {line.look: line for line in lines}
    ranks = {(look, result['seed'], split): metrics['ranks'] for _, result in found
             for look, splits in result['looks'].items() for split, metrics in splits.items()}
    comparisons = [comparison for first, second in study.pairs(list(by_look))
                   if first in by_look and second in by_look for split in by_look[first].metrics
                   for comparison in _compare(by_look[first], by_look[second], split, ranks)]
    report = Report(path, f'{study.title} ({model} on {dataset})', lines, comparisons,
                    study.findings(by_look), len(cells) - len(found))
    if not lines:
        return report
    with atomic_write(path / TABLE) as f:
        f.write(report.to_markdown())
    with atomic_write(path / RESULTS) as f:
        json.dump({
            'study': study.name, 'dataset': dataset, 'recipe': model, 'title': report.title,
            'caption': CAPTION, 'lines': [asdict(line) for line in lines],
            'comparisons': [{**asdict(c), 'gain': c.gain._asdict()} for c in comparisons],
            'findings': report.findings, 'missing': report.missing,
            'machines': _distinct([result['machine'] for _, result in found]),
        }, f, indent=1, ensure_ascii=False)
        f.write('\n')
    _draw(study, report, found)
    return report


def _distinct(values: Sequence[Any]) -> List[Any]:
    return [value for i, value in enumerate(values) if value not in values[:i]]


def _lines(found: Sequence[Tuple[Row, Dict[str, Any]]]) -> List[Line]:
    out = []
    for name in dict.fromkeys(row.name for row, _ in found):
        cells = sorted((result for row, result in found if row.name == name),
                       key=lambda result: result['seed'])
        row = next(row for row, _ in found if row.name == name)
        for look in row.looks:
            splits = [result['looks'][look.name] for result in cells]
            out.append(Line(
                look.name, name, look.curves, look.x, [result['seed'] for result in cells],
                {split: {metric: [values[split]['both'][metric] for values in splits]
                         for metric in METRICS} for split in splits[0]},
                [result['val_mrr'] for result in cells if result['val_mrr'] is not None],
                statistics.mean(result['epoch_seconds'] for result in cells)))
    return out


def _compare(first: Line, second: Line, split: str,
             ranks: Dict[Tuple[str, int, str], Dict[str, List[float]]]) -> List[Comparison]:
    seeds = [seed for seed in first.seeds if seed in second.seeds]
    if not seeds:
        return []

    def reciprocal(look: str) -> Tensor:  # [S, T], the mean over both sides.
        sides = [[ranks[look, seed, split][side] for side in ('head', 'tail')] for seed in seeds]
        return torch.tensor(sides, dtype=torch.double).reciprocal().mean(dim=1)

    a, b = reciprocal(first.look), reciprocal(second.look)
    return [Comparison(first.look, second.look, split,
                       paired_bootstrap(a.mean(dim=0), b.mean(dim=0)),
                       (a - b).mean(dim=1).tolist())]


# Tables #########################################################################################


def _table(lines: Sequence[Line]) -> str:
    splits = list(lines[0].metrics) if lines else []
    header = ['row', 'seeds', 'val MRR', *(f'{split} {title}' for split in splits
                                           for title in METRICS.values()), 'training seconds']
    rows = [[line.look, str(len(line.seeds)), spread(line.val_mrr) if line.val_mrr else '',
             *(spread(line.metrics[split][metric]) for split in splits for metric in METRICS),
             f'{line.seconds:.0f}'] for line in lines]
    return markdown(header, rows)


def _comparison_table(comparisons: Sequence[Comparison]) -> str:
    rows = [[f'{c.first} over {c.second}', c.split, f'{100 * c.gain.mean:+.1f}',
             f'{100 * c.gain.low:+.1f} to {100 * c.gain.high:+.1f}',
             '' if len(c.by_seed) < 2 else f'{100 * statistics.stdev(c.by_seed):.1f}']
            for c in comparisons]
    return markdown(['comparison', 'split', 'gain', '95 % interval', 'sd over seeds'], rows, left=2)


# Figures ########################################################################################


def _draw(study: Study, report: Report,
          found: Sequence[Tuple[Row, Dict[str, Any]]]) -> None:
    splits = list(report.lines[0].metrics)
    classes = [(row.name, result['history']) for row, result in found
               if result['seed'] == 0 and 'entropy_classes' in (result['history'] or [{}])[0]]
    height = 3.8 if study.xlabel else 1.4 + 0.3 * len(report.lines)
    width = 5.2 * len(splits) + (2.4 if study.xlabel else 1.2)
    figure = new_figure(width, height + (2.8 if classes else 0))
    parts = (figure.subfigures(2, 1, squeeze=False, height_ratios=[height, 2.8])[:, 0] if classes
             else [figure])
    for axes, split in zip(parts[0].subplots(1, len(splits), squeeze=False, sharey=not study.xlabel
                                             )[0], splits, strict=True):
        (_draw_curves if study.xlabel else _draw_bars)(axes, report.lines, split)
        axes.set_xlabel(study.xlabel or f'{split} MRR, percent')
        if study.xlabel:
            axes.set_ylabel(f'{split} MRR, percent')
    if study.xlabel:
        figure.legend(*axes.get_legend_handles_labels(), loc='outside right center',
                      fontsize='small')
    if classes:
        _draw_classes(parts[1], classes)
    figure.suptitle(report.title, fontsize='medium')
    save_figure(figure, report.path / FIGURE)


def _stats(line: Line, split: str) -> Tuple[float, float]:
    values = [100 * value for value in line.metrics[split]['mrr']]
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _draw_bars(axes: Any, lines: Sequence[Line], split: str) -> None:
    stats = [_stats(line, split) for line in lines]
    axes.barh(range(len(lines)), [mean for mean, _ in stats], xerr=[sd for _, sd in stats],
              color='tab:blue')
    axes.set_yticks(range(len(lines)), [line.look for line in lines])
    axes.tick_params(labelleft=True)
    if not axes.yaxis_inverted():
        axes.invert_yaxis()


def _draw_curves(axes: Any, lines: Sequence[Line], split: str) -> None:
    for curve in dict.fromkeys(curve for line in lines for curve in line.curves):
        points = sorted((line.x, *_stats(line, split)) for line in lines
                        if line.x is not None and curve in line.curves)
        x, mean, sd = zip(*points, strict=True)
        axes.errorbar(x, mean, yerr=sd, marker='.', capsize=2, label=curve)
    for line in lines:
        if line.x is None:
            axes.axhline(_stats(line, split)[0], linestyle=':', color='gray', label=line.look)


def _draw_classes(figure: Any, classes: Sequence[Tuple[str, List[Dict[str, Any]]]]) -> None:
    for axes, (name, history) in zip(figure.subplots(1, len(classes), squeeze=False, sharey=True
                                                     )[0], classes, strict=True):
        epochs = range(1, len(history) + 1)
        axes.stackplot(epochs, *zip(*(entry['entropy_classes'] for entry in history), strict=True),
                       labels=['easy', 'ambiguous', 'hard'],
                       colors=['lightgray', 'tab:orange', 'tab:red'])
        axes.set_title(name, fontsize='small')
        axes.set_xlabel('epoch')
        axes.set_ylim(0, 1)
    axes.legend(fontsize='x-small')
