r"""All benchmarks in both splits: how large, how clean, what covered.

``python -m benchmarks datasets [--root DIR] [--mirror DIR]`` audits each and prints the tables of
docs/datasets.md.
"""
import argparse
from typing import Dict, List

from pyg_mmkgc.data import Audit, audit
from pyg_mmkgc.datasets import DB15K, KVC16K, MKGW, MKGY, TIVA

BENCHMARKS = [DB15K, MKGW, MKGY, TIVA, KVC16K]


def main(arguments: List[str]) -> None:
    parser = argparse.ArgumentParser('python -m benchmarks datasets', description=__doc__)
    parser.add_argument('--root', help='where the datasets are kept')
    parser.add_argument('--mirror', help='a folder that holds <NAME>/<file>')
    options = parser.parse_args(arguments)
    found: Dict[str, Dict[str, Audit]] = {}
    for cls in BENCHMARKS:
        found[cls.name] = {
            splits: audit(cls(options.root, splits, 'labels', options.mirror)[0], cls.name)
            for splits in ('official', 'clean')}
    print('\n'.join([*_splits(found), '', *_modalities(found)]))


def _splits(found: Dict[str, Dict[str, Audit]]) -> List[str]:
    lines = ['| dataset | splits | entities | relations | train | val | test | of val in train '
             '| of test in train | test with unseen entity | test told by a rule |',
             '|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|']
    for name, audits in found.items():
        for splits, a in audits.items():
            size = {split: row['lines'] for split, row in a.splits.items()}
            distinct = {split: row['distinct'] for split, row in a.splits.items()}
            cells = [f'{size[split]:,}' + (f' ({distinct[split]:,})'
                                           if distinct[split] != size[split] else '')
                     for split in ('train', 'val', 'test')]
            cells += [_share(a.overlap['train'][split], distinct[split])
                      for split in ('val', 'test')]
            cells.append(_share(a.splits['test']['unseen_entities'], size['test']))
            cells.append(_share(a.leakage['test']['any'], a.leakage['test']['distinct']))
            lines.append(f'| {name} | {splits} | {a.num_entities:,} | {a.num_relations:,} | '
                         f'{" | ".join(cells)} |')
    return lines


def _modalities(found: Dict[str, Dict[str, Audit]]) -> List[str]:
    lines = ['| dataset | modality | channels | entities that have it | equal to an earlier row |',
             '|---|---|--:|--:|--:|']
    for name, audits in found.items():
        for modality, row in audits['official'].modalities.items():
            entities = _share(row['entities'], audits['official'].num_entities)
            lines.append(f'| {name} | `{modality}` | {row["channels"]} | {entities} | '
                         f'{row["duplicate"]:,} |')
    return lines


def _share(part: int, whole: int) -> str:
    return f'{part:,} ({100 * part / max(whole, 1):.1f} %)' if part > 0 else '0'
