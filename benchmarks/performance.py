r"""The tables of `docs/performance.md` and `docs/scaling.md`, and the picture of the first, from
the JSON files of all measurements.

``python -m benchmarks performance`` replaces what is between the markers
``<!-- begin NAME -->`` and ``<!-- end NAME -->``; a measurement without results is reported.
"""
import argparse
import re
import statistics
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List

from benchmarks import conv, engine, growth, large, momok, reading, scaling, scatter
from benchmarks.common import RESULTS, load
from pyg_mmkgc.data.io import atomic_path, atomic_write

DOCS = Path(__file__).parents[1] / 'docs'
PAGES = [DOCS / 'performance.md', DOCS / 'scaling.md']
PICTURE = DOCS / 'images' / 'performance.png'


def machines(results: List[Dict[str, Any]]) -> str:
    r"""Where the results come from, each machine and set of versions once."""
    found = dict.fromkeys(', '.join(f'{key} {value}' for key, value in result['machine'].items()
                                    if value is not None) for result in results)
    return 'Measured with ' + '; '.join(found) + '.'


def large_table(results: List[Dict[str, Any]]) -> str:
    lines = ['| entities | triples | table | triples / s | triples / CPU s | peak GiB |',
             '|--:|--:|---|--:|--:|--:|']
    for r in sorted(results, key=lambda r: r['entities']):
        peak = max(value for key, value in r.items() if key.endswith('_peak_bytes'))
        lines.append(f'| {r["entities"]:,} | {r["triples"]:,} | {r["table_dtype"]} | '
                     f'{r["triples_per_second"]:.0f} | {r["triples_per_cpu_second"]:.0f} | '
                     f'{peak / 2**30:.2f} |')
    return '\n'.join(lines)


def is_momok(result: Dict[str, Any]) -> bool:
    return result['row'] in (*momok.ROWS, momok.RELEASED)


#: For each marker the results that belong to it, out of a folder, and their table.
TABLES: Dict[str, Any] = {
    'engine': (engine.FOLDER, lambda result: result['row'] in engine.ROWS, engine.table),
    'momok': (momok.FOLDER, is_momok, momok.table),
    'conv': (conv.FOLDER, None, conv.table),
    'scatter': (scatter.FOLDER, None, lambda results: scatter.table(
        [row for result in results for row in result['results']])),
    'reading': (reading.FOLDER, None, reading.table),
    'growth': (growth.FOLDER, None, growth.table),
    'large': (large.FOLDER, None, large_table),
    'measured': (scaling.FOLDER, None, scaling.measured_table),
}
#: What is computed and not measured.
COMPUTED = {'model': scaling.model_table}


def make(name: str) -> str:
    r"""The table of one marker, and where it was measured."""
    if name in COMPUTED:
        return COMPUTED[name]()
    folder, belongs, table = TABLES[name]
    results = [result for result in load(folder) if belongs is None or belongs(result)]
    if not results:
        return f'Not measured: no results in `{folder.relative_to(RESULTS.parents[1])}`.'
    return f'{table(results)}\n\n{machines(results)}'


def replace(page: str, make: Callable[[str], str]) -> str:
    r"""The page with new contents between all markers.

    Raises:
        ValueError: If a marker is unknown.
    """
    def between(match: re.Match) -> str:
        begin, name, end = match.groups()
        if name not in {**TABLES, **COMPUTED}:
            raise ValueError(f'unknown marker {name!r} (expected one of '
                             f'{[*TABLES, *COMPUTED]})')
        return f'{begin}\n{make(name)}\n{end}'

    return re.sub(r'(<!-- begin (\w+) -->)\n.*?(<!-- end \2 -->)', between, page, flags=re.DOTALL)


def draw(results: List[Dict[str, Any]], path: Path) -> None:
    r"""How many times longer others take, by the clock."""
    from matplotlib.figure import Figure
    found = {r['row']: statistics.median(r['seconds']) for r in results
             if r['row'] in engine.ROWS and 'seconds' in r}
    for row in list(found):
        if row.startswith('training'):
            result = next(r for r in results if r['row'] == row)
            unit = 'queries' if row.endswith('pykeen') else 'triples'
            found[row] *= result['sizes']['steps_per_epoch'][unit]
    groups = [group for group in ('evaluation', 'training') if f'{group}-ours' in found]
    if not groups:
        return
    figure = Figure(figsize=(9, 2.6), layout='constrained')
    axes = figure.subplots(1, len(groups), squeeze=False)[0]
    for ax, group in zip(axes, groups, strict=True):
        rows = [row for row in engine.ROWS if row.startswith(group) and row in found]
        times = [found[row] / found[f'{group}-ours'] for row in rows]
        bars = ax.barh([row[len(group) + 1:] for row in rows], times)
        ax.bar_label(bars, [f'{x:.2g}' for x in times], padding=3)
        ax.set(title=f'{group}, time by the clock (ours, fp32: 1)', xlim=(0, 1.15 * max(times)))
        ax.invert_yaxis()
    with atomic_path(path) as part:
        figure.savefig(part, dpi=100, format='png')


def main(arguments: List[str]) -> None:
    parser = argparse.ArgumentParser('python -m benchmarks performance', description=__doc__)
    parser.parse_args(arguments)
    pages = {path: replace(path.read_text(encoding='utf-8'), make) for path in PAGES}
    for path, page in pages.items():
        with atomic_write(path, 'w') as f:
            f.write(page)
    draw(load(engine.FOLDER), PICTURE)
    for name in TABLES:
        if not any(f'<!-- begin {name} -->' in page for page in pages.values()):
            print(f'no page has a place for {name!r}', file=sys.stderr)
        elif (content := make(name)).startswith('Not measured'):
            print(f'{name}: {content}', file=sys.stderr)


if __name__ == '__main__':
    main(sys.argv[1:])
