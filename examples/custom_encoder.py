r"""Encoders of one's own: any callable from texts or images to vectors makes a modality.

    python examples/custom_encoder.py            # half a minute
    python examples/custom_encoder.py --smoke    # seconds

Trains ComplEx on the embedded graph Atlas with structure alone, and with a text modality made of
letter pairs and an image modality made of the colours of the flags, and prints validation MRR.
Both encoders are a few lines of plain code, to be replaced by something better.
"""
import argparse
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from pyg_mmkgc.data import get_triples, modality_names
from pyg_mmkgc.datasets import Atlas
from pyg_mmkgc.nn import AdditiveComplEx
from pyg_mmkgc.transforms import EncodeImage, EncodeText, NormalizeFeatures, SelectModalities

parser = argparse.ArgumentParser()
parser.add_argument('--epochs', type=int, default=30)
parser.add_argument('--hidden_channels', type=int, default=100)
parser.add_argument('--smoke', action='store_true', help='two epochs of a tiny model')
args = parser.parse_args()
if args.smoke:
    args.epochs, args.hidden_channels = 2, 16


def letter_pairs(texts):
    """How often each pair of the letters a to z occurs, `[num_texts, 676]`."""
    x = torch.zeros(len(texts), 26, 26)
    for i, text in enumerate(texts):
        code = [ord(letter) - ord('a') for letter in text.lower() if 'a' <= letter <= 'z']
        for first, second in pairwise(code):
            x[i, first, second] += 1
    return x.flatten(1)


class ColorEncoder:
    """The share of each of 64 colours in each quarter of an image, `[num_images, 256]`."""
    # Says that a vector depends on its own image alone, so that it may be cached.
    cache_key = 'ColorEncoder 1'

    def __call__(self, images):
        out = []
        for image in images:
            x = np.asarray(image.resize((32, 32))) // 64  # Each channel in four steps.
            color = x[..., 0] * 16 + x[..., 1] * 4 + x[..., 2]
            quarters = color.reshape(2, 16, 2, 16).swapaxes(1, 2).reshape(4, 256)
            out.append(np.stack([np.bincount(part, minlength=64) / 256 for part in quarters]))
        return torch.from_numpy(np.stack(out)).flatten(1)


dataset = Atlas()
data = SelectModalities([])(dataset[0])  # Without the features that Atlas comes with.
with tempfile.TemporaryDirectory() as folder:
    paths = [None] * dataset.num_entities
    for i in range(dataset.num_entities):
        thumbnail = dataset.thumbnail(i)
        if thumbnail is not None:
            paths[i] = str(Path(folder) / f'{i}.png')
            Path(paths[i]).write_bytes(thumbnail)
    data['entity'].image_path = paths
    rich = EncodeImage(ColorEncoder())(data)
del data['entity'].image_path, rich['entity'].image_path
rich = NormalizeFeatures(mode='l2')(EncodeText(letter_pairs)(rich))


def run(data):
    torch.manual_seed(0)
    model = AdditiveComplEx.from_data(data, hidden_channels=args.hidden_channels,
                                      regularization=0.05)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)
    head_index, rel_type, tail_index = get_triples(data, 'train')
    loader = model.loader(  # Triples and their inverses, which ask for heads.
        torch.cat([head_index, tail_index]),
        torch.cat([rel_type, rel_type + model.num_relations]),
        torch.cat([tail_index, head_index]), batch_size=512, shuffle=True)
    for _ in range(args.epochs):
        model.train()
        for batch in loader:
            optimizer.zero_grad()
            model.loss(*batch).backward()
            optimizer.step()
    return model.test(*get_triples(data, 'val'), batch_size=500, log=False)[1]


for name, graph in [('without', data), ('with', rich)]:
    print(f'Validation MRR {name} features {modality_names(graph)}: {run(graph):.4f}')
