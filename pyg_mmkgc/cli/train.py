from typing import Any, Dict, Optional, Tuple

import click
from click.core import ParameterSource

from pyg_mmkgc.cli.base import INTERRUPTED, data_options

#: What may stand beside `--resume`; all else stands in the run folder.
WITH_RESUME = ('resume', 'root', 'mirror', 'devices')
EXAMPLE = 'pyg-mmkgc train --dataset mkgw --splits clean --mirror ../shared/data --seed 1'


@click.command(epilog=f'\b\nExample:\n  {EXAMPLE}')
@click.option('--dataset', default='atlas', metavar='NAME|FOLDER',
              help='The dataset: atlas, db15k, mkgw, mkgy, tiva, kvc16k, or a folder of your own. '
              'Case and hyphens do not matter.')
@data_options
@click.option('--model', default='mocme', metavar='NAME',
              help='The model: mocme, momok, additive, late_fusion, nearest, complex, distmult, '
              'rotate, transe or tucker. Its recipe for the dataset is used, or the one that is '
              'named, such as mocme-db15k.')
@click.option('--recipe', metavar='NAME|FILE', show_default='by --model and --dataset',
              help='A recipe by its name, or a file, such as tune writes; its dataset is taken '
              'unless one is named.')
@click.option('--epochs', type=click.IntRange(min=1), show_default='as the recipe says',
              help='The largest number of epochs, which the baseline must not exceed either.')
@click.option('--seed', type=click.IntRange(min=0), show_default='as the recipe says',
              help='The seed of everything that is random.')
@click.option('--device', metavar='cpu|cuda|auto', show_default='as the recipe says',
              help='Where to train.')
@click.option('--devices', type=click.IntRange(min=1), show_default='as the recipe says',
              help='Processes that train together, each on a device of its own.')
@click.option('--out', metavar='DIR', show_default='runs/<model>-<dataset>-<seed>-<time>',
              help='The run folder to make. One that exists is never written into.')
@click.option('--profile', metavar='FILE',
              help='Write a trace of the first steps as JSON, and print what took longest.')
@click.option('--set', 'overrides', multiple=True, metavar='KEY=VALUE',
              help='Another value of an option of the recipe, such as model.hidden_channels=100, '
              'train.lr=0.05, sampler.num_negatives=32 or sampler=uniform. May be repeated.')
@click.option('--resume', metavar='RUN',
              help='Go on with the run folder RUN, which was stopped or killed, as if it had not '
              'been. Options are those of the run; --root, --mirror and --devices may be others.')
@click.pass_context
def train(ctx: click.Context, dataset: str, root: Optional[str], mirror: Optional[str],
          dataset_options: Dict[str, Any], model: str, recipe: Optional[str],
          epochs: Optional[int], seed: Optional[int], device: Optional[str],
          devices: Optional[int], out: Optional[str], profile: Optional[str],
          overrides: Tuple[str, ...], resume: Optional[str]) -> None:
    r"""Train a model, and the structure-only baseline beside it.

    Without arguments it trains MoCME on the embedded graph Atlas. Prints the metrics of both and a
    few predictions in words, and leaves a run folder with configuration, metrics, history, weights
    and pictures. Ctrl-C and SIGTERM keep the best weights so far, and --resume goes on.
    """
    from pyg_mmkgc.cli.tables import print_examples, print_metrics
    from pyg_mmkgc.training import load_recipe, resume_run, train_run

    if resume is None:
        if recipe is not None:
            if _given(ctx, 'model'):
                raise click.UsageError('expected --model or --recipe, not both')
            model = recipe
            named = load_recipe(recipe).dataset
            dataset = dataset if named is None or _given(ctx, 'dataset') else named
        run = train_run(dataset, model, root=root, mirror=mirror, epochs=epochs, seed=seed,
                        device=device, devices=devices, out=out, overrides=overrides,
                        dataset_options=dataset_options, profile=profile,
                        log=True)
    else:
        for option in ctx.command.params:
            if option.name not in WITH_RESUME and _given(ctx, option.name):
                raise click.UsageError(f"'--resume' takes all options from the run, and so "
                                       f"'{option.opts[0]}' cannot be given")
        run = resume_run(resume, root=root, mirror=mirror, devices=devices, log=True)
    if run.interrupted:
        ctx.exit(INTERRUPTED)
    print_metrics([run.metrics[split] for split in ['test', *sorted(set(run.metrics) - {'test'})]])
    print_examples(run.examples())
    click.echo(f'\nRun folder: {run.path}')
    click.echo(f"Next: pyg-mmkgc evaluate {run.path}, or pyg-mmkgc predict {run.path} --head ... "
               f'--relation ...')


def _given(ctx: click.Context, option: str) -> bool:
    return ctx.get_parameter_source(option) is not ParameterSource.DEFAULT
