r"""How long a large table of triples takes to read, and how much memory, beside PyKEEN.

``python -m benchmarks reading [--triples 10000000] [--pykeen PYTHON]`` writes a synthetic table of
labels, reads it with `MMKGFolder` and with PyKEEN's `TriplesFactory.from_path`, each in a process
of its own, and prints the table of all results. PYTHON (default: `$PYG_MMKGC_PYKEEN`) is an
interpreter that has PyKEEN, which is kept out of our own environment.
"""
import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional

from benchmarks.common import ONE_THREAD, RESULTS, load, machine, run_code, save

FOLDER = RESULTS / 'reading'
NUM_RELATIONS = 500
TRIPLES_PER_ENTITY = 10

#: A table with tabs of labels such as `entity 123456`; entities are drawn uniformly.
WRITE = r"""
import sys
import numpy as np, pyarrow as pa, pyarrow.compute as pc
from pyarrow import csv
folder, total, entities, relations = sys.argv[1], *map(int, sys.argv[2:])
generator = np.random.default_rng(0)
def column(word, size, count):
    ids = pa.array(generator.integers(0, size, count)).cast(pa.string())
    return pc.binary_join_element_wise(word, ids, ' ')
for name, count in [('train', total), ('val', 10), ('test', 10)]:
    with open(f'{folder}/{name}.tsv', 'wb') as f:
        for start in range(0, count, 1_000_000):
            n = min(1_000_000, count - start)
            rows = [column('entity', entities, n), column('relation', relations, n),
                    column('entity', entities, n)]
            csv.write_csv(pa.table(rows, ['h', 'r', 't']), f, csv.WriteOptions(
                include_header=False, delimiter='\t', quoting_style='none'))
"""
#: For each side the version, the import, and what is timed; prints what was read.
SIDES = {
    'pyg_mmkgc': r"""
from pyg_mmkgc import __version__
from pyg_mmkgc.datasets import MMKGFolder
from pyg_mmkgc.data import get_triples
def read(folder):
    dataset = MMKGFolder(folder)
    return (len(get_triples(dataset[0], 'train')[0]), dataset.num_entities,
            dataset.num_relations)
""",
    'pykeen': r"""
from importlib.metadata import version
from pykeen.triples import TriplesFactory
__version__ = version('pykeen')
def read(folder):
    factory = TriplesFactory.from_path(f'{folder}/train.tsv')
    return factory.num_triples, factory.num_entities, factory.num_relations
""",
}
MEASURE = r"""
import json, resource, sys, time
start = time.perf_counter()
triples, entities, relations = read(sys.argv[1])
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB.
print(json.dumps({'version': __version__, 'seconds': seconds, 'peak_gib': peak,
                  'triples': triples, 'entities': entities, 'relations': relations}))
"""


def measure(side: str, python: str, folder: str) -> Dict[str, Any]:
    r"""Read the table in a process of its own, with one thread."""
    return run_code(python, SIDES[side] + MEASURE, folder, env={**os.environ, **ONE_THREAD})


def run(total: int, pykeen: Optional[str]) -> List[Dict[str, Any]]:
    r"""Write the table and measure both sides."""
    with tempfile.TemporaryDirectory() as folder:
        sizes = [total, max(total // TRIPLES_PER_ENTITY, 1), NUM_RELATIONS]
        subprocess.run([sys.executable, '-c', WRITE, folder, *map(str, sizes)], check=True)
        size = (Path(folder) / 'train.tsv').stat().st_size
        results = []
        for side, python in [('pyg_mmkgc', sys.executable), ('pykeen', pykeen)]:
            found = (measure(side, python, folder) if python else
                     {'missing': 'no interpreter with PyKEEN (--pykeen or $PYG_MMKGC_PYKEEN)'})
            results.append({'side': side, 'lines': total, 'bytes': size, **found,
                            'machine': machine()})
    return results


def table(results: List[Dict[str, Any]]) -> str:
    r"""All results as Markdown."""
    lines = ['| reader | lines | seconds | peak GiB | entities |', '|---|--:|--:|--:|--:|']
    for r in results:
        if 'missing' in r:
            lines.append(f'| {r["side"]} | {r["lines"]} | not measured: {r["missing"]} | | |')
        else:
            lines.append(f'| {r["side"]} {r["version"]} | {r["triples"]} | {r["seconds"]:.1f} | '
                         f'{r["peak_gib"]:.2f} | {r["entities"]} |')
    return '\n'.join(lines)


def main(arguments: List[str]) -> None:
    parser = argparse.ArgumentParser('python -m benchmarks reading', description=__doc__)
    parser.add_argument('--triples', type=int, default=10_000_000)
    parser.add_argument('--pykeen', metavar='PYTHON', default=os.environ.get('PYG_MMKGC_PYKEEN'),
                        help='an interpreter that has PyKEEN')
    options = parser.parse_args(arguments)
    for result in run(options.triples, options.pykeen):
        save(FOLDER / f'{result["side"]}-{result["lines"]}.json', result)
    print(table(load(FOLDER)))
