from typing import Optional

import click

from pyg_mmkgc.cli.base import run_options

EXAMPLE = 'pyg-mmkgc export runs/my-run --out vectors --format word2vec --what entities'
VECTORS = ('parquet', 'npy', 'word2vec', 'faiss')


@click.command(epilog=f'\b\nExamples:\n  {EXAMPLE}\n'
               '  pyg-mmkgc export runs/my-run --out model --format pretrained --features\n'
               '  pyg-mmkgc export runs/my-run --out new.nt --predictions --new --top 3')
@click.argument('run', metavar='RUN')
@click.option('--out', required=True, metavar='FOLDER|FILE',
              help='What to make; what exists is never overwritten. Vectors and models are a '
              'folder, predictions a .parquet or .nt file, the scorer a .pt2 file.')
@click.option('--format', 'file_format', default='parquet',
              type=click.Choice([*VECTORS, 'pretrained', 'scorer']),
              help='Vectors in one of four formats, the model to load by from_pretrained, or its '
              'scorer as a program that needs torch alone.')
@click.option('--what', type=click.Choice(['entities', 'relations']), show_default='both',
              help='Whose vectors.')
@click.option('--features', is_flag=True, help='Put features into the pretrained folder, so that '
              'it answers without the data.')
@click.option('--no-triples', is_flag=True, help='Keep triples out of the pretrained folder.')
@click.option('--predictions', is_flag=True, help='Answers to all questions of a split.')
@click.option('--split', default='test', metavar='NAME', help='The split of --predictions.')
@click.option('--top', default=10, type=click.IntRange(min=1), help='Answers to each question.')
@click.option('--min-probability', default=0.0, type=click.FloatRange(0, 1), metavar='P',
              help='Abstain from answers below this probability.')
@click.option('--new', 'only_new', is_flag=True, help='Leave out answers that any split knows; '
              'else those of train.')
@run_options
def export(run: str, out: str, file_format: str, what: Optional[str], features: bool,
           no_triples: bool, predictions: bool, split: str, top: int, min_probability: float,
           only_new: bool, root: Optional[str], mirror: Optional[str], device: str) -> None:
    r"""Take vectors, predictions or the model of the run folder RUN elsewhere."""
    if what is not None and (predictions or file_format not in VECTORS):
        raise click.UsageError(f'--what is for vectors (expected a --format of '
                               f'{", ".join(VECTORS)}, without --predictions)')
    if (features or no_triples) and (predictions or file_format != 'pretrained'):
        raise click.UsageError('--features and --no-triples are for --format pretrained')
    from pyg_mmkgc.data import split_names
    from pyg_mmkgc.export import (
        entity_vectors,
        export_scorer,
        predict_split,
        relation_vectors,
        write_predictions,
        write_vectors,
    )
    from pyg_mmkgc.training import load_run

    loaded = load_run(run, root=root, mirror=mirror, device=device)
    if predictions:
        exclude = split_names(loaded.data) if only_new else ['train']
        write_predictions(predict_split(
            loaded.model, loaded.data, split, top, exclude, loaded.calibration.get('temperature'),
            min_probability, log=True), out)
    elif file_format == 'pretrained':
        loaded.save_pretrained(out, features, not no_triples)
    elif file_format == 'scorer':
        export_scorer(loaded.model, loaded.data, out)
    else:
        makers = {'entities': entity_vectors, 'relations': relation_vectors}
        write_vectors({name: make(loaded.model, loaded.data) for name, make in makers.items()
                       if what in (None, name)}, out, file_format)
    click.echo(f'Written: {out}')
