from typing import Optional, Tuple

import click

from pyg_mmkgc.cli.base import INTERRUPTED, data_options, dataset_options

EXAMPLE = 'pyg-mmkgc train --dataset mkgw --splits clean --mirror ../shared/data --seed 1'


@click.command(epilog=f'\b\nExample:\n  {EXAMPLE}')
@click.option('--dataset', default='atlas', metavar='NAME|FOLDER',
              help='The dataset: atlas, db15k, mkgw, mkgy, tiva, kvc16k, or a folder of your own. '
              'Case and hyphens do not matter.')
@data_options
@click.option('--model', default='mocme', metavar='NAME',
              help='The model: mocme, momok, additive or complex. Its recipe for the dataset is '
              'used, or the one that is named, such as mocme-db15k.')
@click.option('--recipe', metavar='NAME|FILE', show_default='by --model and --dataset',
              help='A recipe by its name, or a file, such as tune writes; its dataset is taken '
              'unless one is named.')
@click.option('--epochs', type=click.IntRange(min=1), show_default='as the recipe says',
              help='The largest number of epochs, which the baseline must not exceed either.')
@click.option('--seed', type=click.IntRange(min=0), show_default='as the recipe says',
              help='The seed of everything that is random.')
@click.option('--device', metavar='cpu|cuda|auto', show_default='as the recipe says',
              help='Where to train.')
@click.option('--out', metavar='DIR', show_default='runs/<model>-<dataset>-<seed>-<time>',
              help='The run folder to make. One that exists is never written into.')
@click.option('--profile', metavar='FILE',
              help='Write a trace of the first steps as JSON, and print what took longest.')
@click.option('--set', 'overrides', multiple=True, metavar='KEY=VALUE',
              help='Another value of an option of the recipe, such as model.hidden_channels=100, '
              'train.lr=0.05, sampler.num_negatives=32 or sampler=uniform. May be repeated.')
def train(dataset: str, root: Optional[str], mirror: Optional[str], splits: Optional[str],
          features: Optional[str], model: str, recipe: Optional[str], epochs: Optional[int],
          seed: Optional[int], device: Optional[str], out: Optional[str],
          profile: Optional[str], overrides: Tuple[str, ...]) -> None:
    r"""Train a model, and the structure-only baseline beside it.

    Without arguments it trains MoCME on the embedded graph Atlas. Prints the metrics of both and a
    few predictions in words, and leaves a run folder with configuration, metrics, history, weights
    and pictures. Ctrl-C keeps the best weights so far.
    """
    from pyg_mmkgc.cli.tables import print_examples, print_metrics
    from pyg_mmkgc.training import load_recipe, train_run

    if recipe is not None:
        if _given('model'):
            raise click.UsageError('expected --model or --recipe, not both')
        model = recipe
        named = load_recipe(recipe).dataset
        dataset = dataset if named is None or _given('dataset') else named
    run = train_run(dataset, model, root=root, mirror=mirror, epochs=epochs, seed=seed,
                    device=device, out=out, overrides=overrides,
                    dataset_options=dataset_options(splits, features), profile=profile, log=True)
    if run.interrupted:
        click.get_current_context().exit(INTERRUPTED)
    print_metrics([run.metrics[split] for split in ['test', *sorted(set(run.metrics) - {'test'})]])
    print_examples(run.examples())
    click.echo(f'\nRun folder: {run.path}')
    click.echo(f"Next: pyg-mmkgc evaluate {run.path}, or pyg-mmkgc predict {run.path} --head ... "
               f'--relation ...')


def _given(option: str) -> bool:
    source = click.get_current_context().get_parameter_source(option)
    return source == click.core.ParameterSource.COMMANDLINE
