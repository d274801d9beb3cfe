r"""A folder of one's own: triples, images and texts become a dataset, MoCME learns and predicts.

    python examples/own_data.py                       # a folder made from Atlas, minutes
    python examples/own_data.py --folder my_graph     # your own
    python examples/own_data.py --smoke               # seconds

Images need `pip install "pyg-mmkgc[image]"`; without, the example goes on with texts alone.
"""
import argparse
import csv
import tempfile
from pathlib import Path
from urllib.parse import quote

from pyg_mmkgc.data import EDGE, get_triples, split_names
from pyg_mmkgc.datasets import Atlas, MMKGFolder
from pyg_mmkgc.datasets.folder import init_folder
from pyg_mmkgc.training import train_run

parser = argparse.ArgumentParser()
parser.add_argument('--folder', type=Path, help='a folder of your own (default: made from Atlas)')
parser.add_argument('--epochs', type=int, default=40)
parser.add_argument('--smoke', action='store_true', help='few images, a tiny model')
args = parser.parse_args()
temporary = tempfile.TemporaryDirectory()


def make_folder(folder, num_images):
    r"""All that a folder needs: one file of facts; here also texts and pictures by name."""
    (folder / 'images').mkdir(parents=True)
    atlas = Atlas()
    entity, relation = atlas[0]['entity'], atlas[0][EDGE]
    with open(folder / 'triples.tsv', 'w', encoding='utf-8') as f:
        for split in split_names(atlas[0]):
            for h, r, t in zip(*(part.tolist() for part in get_triples(atlas[0], split)),
                               strict=True):
                f.write(f'{entity.label[h]}\t{relation.label[r]}\t{entity.label[t]}\n')
    with open(folder / 'texts.csv', 'w', encoding='utf-8', newline='') as f:
        csv.writer(f).writerows([('name', 'description'), *zip(entity.label, entity.type,
                                                               strict=True)])
    for i in entity.image_mask.nonzero().view(-1)[:num_images].tolist():
        name = quote(entity.label[i], safe=' ')  # A slash cannot stand in the name of a file.
        (folder / 'images' / f'{name}.png').write_bytes(atlas.thumbnail(i))


folder = args.folder
if folder is None:
    folder = Path(temporary.name) / 'countries'
    make_folder(folder, num_images=8 if args.smoke else 1000)
    print(f'Made {folder}: {sorted(path.name for path in folder.iterdir())}')
    init_folder(folder)  # As `pyg-mmkgc init` does.
    print((folder / 'dataset.yaml').read_text(encoding='utf-8'))

try:
    dataset = MMKGFolder(folder)
except ImportError as error:
    if args.folder is not None:
        raise
    print(f'{error}\nGoing on with texts alone')
    text = (folder / 'dataset.yaml').read_text(encoding='utf-8')
    (folder / 'dataset.yaml').write_text(
        text.replace('encoder: efficientnet-lite0', 'encoder: null'), encoding='utf-8')
    dataset = MMKGFolder(folder)
data = dataset[0]
print(f'{dataset.num_entities} entities, {dataset.num_relations} relations, '
      f'modalities {dataset.modalities}')

overrides = ['hidden_channels=16', 'model.num_experts=2'] if args.smoke else []
run = train_run(folder, 'mocme', epochs=1 if args.smoke else args.epochs,
                out=Path(temporary.name) / 'run', overrides=overrides)
print(f'Test MRR: {run.metrics["test"]["both"]["mrr"]:.3f}, of structure alone: '
      f'{run.metrics["test"]["baseline"]["both"]["mrr"]:.3f}')
for example in run.examples():
    answers = [f'{a["entity"]} ({a["known"]}, {a["probability"]:.2f})' for a in example['answers']]
    print(f'{example["head"]} --{example["relation"]}--> {", ".join(answers)}')
temporary.cleanup()
