r"""Tables of results, made from run folders."""
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import yaml

from pyg_mmkgc.data.io import PathLike
from pyg_mmkgc.evaluation.evaluator import DEGREE_BINS
from pyg_mmkgc.studies.report import markdown, spread
from pyg_mmkgc.training.recipe import BASELINE, SECTIONS, load_yaml

logger = logging.getLogger(__name__)

CONFIG, METRICS = 'config.yaml', 'metrics.json'
COLUMNS = {'mrr': 'MRR', 'hits@1': 'Hits@1', 'hits@3': 'Hits@3', 'hits@10': 'Hits@10',
           'amri': 'AMRI', 'mr': 'MR'}
#: The partitions of the test triples that get a table, by their key in `metrics.json`.
GROUPS = {'by_relation_class': 'MRR by relation class',
          'by_seen': 'MRR by whether both entities were seen in training',
          'by_degree': 'MRR by degree of the rarer entity (training triples that name it)',
          'by_modalities': 'MRR by the modalities that both entities have'}
#: Options that make no other model.
NEUTRAL = ('seed', 'device')

#: The name of a row of the tables, and the metrics of its seeds.
Model = Tuple[str, List[Dict[str, Any]]]


@dataclass(frozen=True)
class Result:
    r"""The metrics of one model with one seed on one split.

    Args:
        source (Path): The file that they are from.
        dataset (str): The dataset, with its options.
        data (Dict[str, str]): The hashes of its data.
        recipe (str): The name of the recipe.
        options (Dict[str, Any]): Its options by dotted key, but seed and device.
        metrics (Dict[str, Any]): What `metrics.json` holds.
        beside (bool): Whether it is the baseline of another run.
    """
    source: Path
    dataset: str
    data: Dict[str, str]
    recipe: str
    options: Dict[str, Any]
    metrics: Dict[str, Any]
    beside: bool


def results_tables(paths: Sequence[PathLike]) -> str:
    r"""Tables of finished runs as Markdown: for each dataset and split a row for each model, mean
    and sample standard deviation over its seeds, in all and by relation class, by seen and unseen
    entities, by degree, and by modalities. Only `config.yaml` and `metrics*.json` are read.

    Runs of equal options are seeds of one model; the same recipe with other options is another
    row that names them. The structure-only baselines beside the runs get a row of their own where
    no run is one.

    Args:
        paths (Sequence[str or os.PathLike]): Run folders, or folders of them.

    Raises:
        FileNotFoundError: If a folder holds no finished run.
        ValueError: If a file is damaged, or a seed occurs twice with other figures.
    """
    results = [result for path in paths for folder in _folders(Path(path))
               for result in _read(folder)]
    parts = []
    for dataset in dict.fromkeys(result.dataset for result in results):
        there = [result for result in results if result.dataset == dataset]
        if any(result.data != there[0].data for result in there):
            other = next(result for result in there if result.data != there[0].data)
            raise ValueError(f"'{other.source}' and '{there[0].source}' are of one dataset, but "
                             f'not of the same data')
        splits = sorted({result.metrics['split'] for result in there}, key=lambda s: s != 'test')
        for split in splits:
            parts += _section(dataset, split, [result for result in there
                                               if result.metrics['split'] == split])
    return '\n\n'.join(parts) + '\n'


# Reading ########################################################################################


def _folders(path: Path) -> List[Path]:
    if not path.is_dir():
        raise FileNotFoundError(f"There is no folder '{path}'")
    found = [file.parent for file in sorted(path.rglob(METRICS))]
    if not found:
        raise FileNotFoundError(f"There is no finished run in '{path}' (expected a '{METRICS}')")
    for folder in sorted({file.parent for file in path.rglob(CONFIG)} - set(found)):
        logger.warning("The run '%s' is not finished, and left out", folder)
    return found


def _read(folder: Path) -> Iterator[Result]:
    config = _load(folder / CONFIG, load_yaml, ('name', 'recipe', 'data', *SECTIONS))
    choices = (config.get('dataset_options') or {}).items()
    dataset = ', '.join([config['name'], *(f'{key} {value}' for key, value in choices)])
    for file in sorted(folder.glob(f'{Path(METRICS).stem}*.json')):
        metrics = _load(file, json.loads, ('split', 'seed', 'model', 'both', 'protocol'))
        yield Result(file, dataset, config['data'], config['recipe'], _options(config), metrics,
                     False)
        beside = metrics.get('baseline')
        if beside is not None and config.get('baseline') is not None:
            yield Result(file, dataset, config['data'], beside['model'],
                         _options(config['baseline']), beside, True)


def _load(file: Path, parse: Any, keys: Sequence[str]) -> Dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"There is no file '{file}'")
    try:
        values = parse(file.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f"'{file}' is damaged ({error})") from error
    missing = [key for key in keys if not isinstance(values, Mapping) or key not in values]
    if missing:
        raise ValueError(f"'{file}' is damaged or of another version ({missing[0]!r} is missing)")
    return values


def _options(config: Mapping[str, Any]) -> Dict[str, Any]:
    return {f'{section}.{key}': value for section in SECTIONS
            for key, value in (config[section] or {'name': None}).items() if key not in NEUTRAL}


# Tables #########################################################################################


def _section(dataset: str, split: str, results: Sequence[Result]) -> List[str]:
    protocol = results[0].metrics['protocol']
    for result in results:
        if result.metrics['protocol'] != protocol:
            raise ValueError(f"'{result.source}' was ranked by another protocol than "
                             f"'{results[0].source}'")
    models = _models(results)
    rows = [[name, str(len(runs)), *(_cell(key, [run['both'][key] for run in runs])
                                     for key in COLUMNS)] for name, runs in models]
    out = [f'## {dataset}: {split}', markdown(['model', 'seeds', *COLUMNS.values()], rows),
           _describe(protocol)]
    for key, title in GROUPS.items():
        table = _group_table(key, models)
        if table is not None:
            out += [f'{title} (ranks in brackets):', table]
    return out


def _group_table(key: str, models: Sequence[Model]) -> Optional[str]:
    counts: Dict[str, int] = {}
    for _, runs in models:
        for run in runs:
            counts.update({name: part['count'] for name, part in run.get(key, {}).items()})
    if len(counts) < 2:
        return None
    order = sorted(counts, key=DEGREE_BINS.index if key == 'by_degree' else
                   lambda name: -counts[name])
    rows = [[model, *(_cell('mrr', [run[key][name]['mrr'] for run in runs
                                    if name in run.get(key, {})]) for name in order)]
            for model, runs in models]
    return markdown(['model', *(f'{name} ({counts[name]})' for name in order)], rows)


def _cell(key: str, values: Sequence[float]) -> str:
    if not values:
        return ''
    if key == 'mr':
        return spread([value / 100 for value in values], 0)
    return spread(values)


def _describe(protocol: Mapping[str, Any]) -> str:
    filtered = (f'filtered by {", ".join(protocol["filter_splits"])}' if protocol['filtered'] else
                'unfiltered')
    return (f'In percent (not MR), mean ± sample standard deviation over seeds; {filtered}, '
            f'{protocol["ties"]} ranks, both sides, among {protocol["num_candidates"]} entities '
            f'({protocol["candidates"]}).')


def _models(results: Sequence[Result]) -> List[Model]:
    if any(result.options['model.name'] == BASELINE and not result.beside for result in results):
        results = [result for result in results if not result.beside]
    groups: Dict[str, List[Result]] = {}
    for result in results:
        key = f'{result.recipe} {json.dumps(result.options, sort_keys=True)}'
        groups.setdefault(key, []).append(result)
    out = []
    for group in groups.values():
        seeds: Dict[int, Result] = {}
        for result in group:
            first = seeds.setdefault(result.metrics['seed'], result)
            if first.metrics['both'] != result.metrics['both']:
                raise ValueError(f"'{first.source}' and '{result.source}' have the same options "
                                 f'and the seed {result.metrics["seed"]}, but other figures')
        out.append((_name(group[0], [other[0] for other in groups.values()]),
                    [seeds[seed].metrics for seed in sorted(seeds)]))
    return out


def _name(result: Result, models: Sequence[Result]) -> str:
    others = [other for other in models if other.recipe == result.recipe and other is not result]
    keys = sorted({key for other in others for key in {*result.options, *other.options}
                   if other.options.get(key) != result.options.get(key)})
    if not keys:
        return result.recipe
    shown = (yaml.safe_dump(result.options.get(key), default_flow_style=True).replace(
        '\n...', '').strip() for key in keys)
    return f'{result.recipe} ({", ".join(map("=".join, zip(keys, shown, strict=True)))})'
