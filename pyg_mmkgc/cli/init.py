import click

EXAMPLE = 'pyg-mmkgc init my_graph'


@click.command(epilog=f'\b\nExample:\n  {EXAMPLE}')
@click.argument('folder', metavar='FOLDER')
def init(folder: str) -> None:
    r"""Look at a folder of your own, write what it holds as FOLDER/dataset.yaml, and print it.

    Correct that file where a guess is wrong; the folder is read as it says. One that is there is
    never overwritten.
    """
    from pyg_mmkgc.datasets.folder import init_folder

    found = init_folder(folder)
    click.echo(f'{found["entities"]} entities, {found["relations"]} relations')
    for split, count in found['splits'].items():
        click.echo(f'  {split}: {count} triples')
    for key, what in [('texts', 'texts'), ('numbers', 'numbers'), ('paths', 'files'),
                      ('features', 'features')]:
        for name, count in found[key].items():
            click.echo(f'  {name}: {what} of {count} entities')
    for name, encoder in found['modalities'].items():
        click.echo(f'Modality {name}: '
                   f'{"features as they are" if encoder is None else f"encoder {encoder}"}')
    if not found['modalities']:
        click.echo('No modality but the structure')
    click.echo(f'Written: {folder.rstrip("/")}/dataset.yaml')
    click.echo(f'Next: pyg-mmkgc train --dataset {folder.rstrip("/")}/')
