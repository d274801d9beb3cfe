from typing import Any, Dict, Optional, Tuple

import click

from pyg_mmkgc.cli.base import CommandError, data_options

EXAMPLE = 'pyg-mmkgc tune --dataset atlas --model complex --trials 30 --workers 2'


@click.command(epilog=f'\b\nExample:\n  {EXAMPLE}')
@click.option('--dataset', default='atlas', metavar='NAME|FOLDER',
              help='The dataset, or a folder of your own.')
@data_options
@click.option('--model', default='mocme', metavar='NAME|FILE',
              help='The model, whose recipe for the dataset is where the search starts, or a '
              'recipe or its file.')
@click.option('--trials', default=50, type=click.IntRange(min=1),
              help='Trials after which the search ends, those of earlier calls included.')
@click.option('--timeout', type=click.FloatRange(min=0, min_open=True), metavar='SECONDS',
              show_default='none', help='Time after which no trial begins.')
@click.option('--workers', default=1, type=click.IntRange(min=1),
              help='Trials that run at once, each in a process.')
@click.option('--threads', default=1, type=click.IntRange(min=1), help='Threads of each.')
@click.option('--out', metavar='DIR', show_default='studies/tune-<dataset>-<recipe>',
              help='The folder, new or one to go on with.')
@click.option('--storage', metavar='FILE', show_default='journal.log in the folder',
              help='The journal of the trials.')
@click.option('--set', 'overrides', multiple=True, metavar='KEY=VALUE',
              help='Another value of an option of the recipe, as in train. May be repeated.')
def tune(dataset: str, root: Optional[str], mirror: Optional[str],
         dataset_options: Dict[str, Any], model: str, trials: int, timeout: Optional[float],
         workers: int, threads: int, out: Optional[str], storage: Optional[str],
         overrides: Tuple[str, ...]) -> None:
    r"""Search the options of a model for the best validation MRR.

    Needs the extra "tune" (Optuna). The first trial has the values of the recipe, where the space
    holds them; trials that fall behind are pruned; the same command goes on where it was stopped.
    The best options are written as recipe.yaml, for train --recipe. Test is not looked at.
    """
    from pyg_mmkgc.studies import tune as search

    try:
        found = search(dataset, model, root=root, mirror=mirror,
                       dataset_options=dataset_options, trials=trials,
                       timeout=timeout, workers=workers, threads=threads, out=out, storage=storage,
                       overrides=overrides)
    except ImportError as error:
        raise CommandError(str(error)) from error
    click.echo(f'{found.trials} trials, {found.pruned} pruned')
    click.echo(f'Best validation MRR: {found.val_mrr:.4f}')
    click.echo(f'Recipe: {found.path}')
    click.echo(f'Next: pyg-mmkgc train --recipe {found.path}')
