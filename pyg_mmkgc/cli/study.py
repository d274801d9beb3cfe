from typing import Any, Dict, Optional, Tuple

import click

from pyg_mmkgc.cli.base import data_options

EXAMPLE = 'pyg-mmkgc study control --dataset atlas --seeds 5 --workers 2'


@click.command(epilog=f'\b\nExample:\n  {EXAMPLE}')
@click.argument('name', metavar='NAME')
@click.option('--dataset', default='atlas', metavar='NAME|FOLDER',
              help='The dataset, or a folder of your own.')
@data_options
@click.option('--model', default='mocme', metavar='NAME|FILE',
              help='The model, whose recipe for the dataset is used, or a recipe or its file.')
@click.option('--seeds', default=3, type=click.IntRange(min=1),
              help='The number of seeds, from 0 on.')
@click.option('--modality', 'modalities', multiple=True, metavar='NAME',
              show_default='all of the dataset',
              help='A modality that control, missing or noise is about. May be repeated.')
@click.option('--row', 'rows', multiple=True, metavar='PATTERN', show_default='all',
              help='Rows to run, with wildcards as in a shell. May be repeated.')
@click.option('--workers', default=1, type=click.IntRange(min=1),
              help='Trainings that run at once, each in a process.')
@click.option('--threads', default=1, type=click.IntRange(min=1), help='Threads of each.')
@click.option('--out', metavar='DIR', show_default='studies/<study>-<recipe>',
              help='The folder, new or one to go on with.')
@click.option('--set', 'overrides', multiple=True, metavar='KEY=VALUE',
              help='Another value of an option of the recipe, as in train. May be repeated.')
def study(name: str, dataset: str, root: Optional[str], mirror: Optional[str],
          dataset_options: Dict[str, Any], model: str, seeds: int,
          modalities: Tuple[str, ...], rows: Tuple[str, ...], workers: int, threads: int,
          out: Optional[str], overrides: Tuple[str, ...]) -> None:
    r"""Answer a question about a model and a graph by many trainings.

    NAME is ablation (what each part is worth), control (true against permuted features), missing
    (modalities dropped in training, in test, in both), negatives (what samplers draw), noise
    (wrong features) or sparsity (few facts). Leaves a folder with table.md, figure.png,
    results.json and a file for each finished training; the same command goes on where it was
    stopped. Choices are made on validation, and test is scored at the end of each training.
    """
    from pyg_mmkgc.studies import STUDIES, run_study

    if name not in STUDIES:
        raise click.UsageError(f'unknown study {name!r} (expected one of {sorted(STUDIES)})')
    report = run_study(
        STUDIES[name], dataset, model, root=root, mirror=mirror,
        dataset_options=dataset_options, seeds=seeds, overrides=overrides,
        modalities=modalities or None, rows=rows, workers=workers, threads=threads, out=out)
    click.echo(report.to_markdown())
    click.echo(f'Study folder: {report.path}')
