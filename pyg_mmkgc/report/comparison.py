r"""Runs beside each other, on the same queries."""
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from torch import Tensor

from pyg_mmkgc.data.io import PathLike
from pyg_mmkgc.evaluation import Evaluation, Interval, evaluate, paired_bootstrap
from pyg_mmkgc.evaluation.memory import explain_out_of_memory
from pyg_mmkgc.report.page import render
from pyg_mmkgc.report.run import curves, group_tables
from pyg_mmkgc.training import Run, load_run

#: What two runs have to have in common for their ranks to be of the same queries.
SAME = {'triples': 'triples or splits', 'labels': 'entities or relations'}


@dataclass(frozen=True)
class PairedTest:
    r"""By how much the MRR of one run is above that of another, on the same queries.

    Args:
        first (str): The name of the run.
        second (str): The name of the other one.
        gain (Interval): The mean difference of the reciprocal ranks of a triple (both sides), with
            the interval of :func:`~pyg_mmkgc.evaluation.paired_bootstrap`.
        better (float): The share of the triples that the first ranks better.
        worse (float): The share that it ranks worse.
    """
    first: str
    second: str
    gain: Interval
    better: float
    worse: float

    def verdict(self) -> str:
        r"""What the interval says."""
        if self.gain.low <= 0 <= self.gain.high:
            return 'no clear difference'
        better, worse = (self.first, self.second) if self.gain.mean > 0 else (self.second,
                                                                              self.first)
        return f'{better} is better than {worse}'


@dataclass(frozen=True)
class RunComparison:
    r"""Runs beside each other.

    Args:
        split (str): The split that was ranked.
        protocol (Dict[str, Any]): By which protocol.
        metrics (Dict[str, Dict[str, Any]]): For each run, in the shape of `metrics.json`.
        tests (List[PairedTest]): Each pair of runs.
        configs (Dict[str, Dict[str, Any]]): What `config.yaml` holds, for each run.
        histories (Dict[str, List[Dict[str, Any]]]): What `history.jsonl` holds.
        notes (List[str]): What to know when reading them.
    """
    split: str
    protocol: Dict[str, Any]
    metrics: Dict[str, Dict[str, Any]]
    tests: List[PairedTest]
    configs: Dict[str, Dict[str, Any]]
    histories: Dict[str, List[Dict[str, Any]]]
    notes: List[str] = field(default_factory=list)

    def differences(self) -> Dict[str, List[Any]]:
        r"""The options, by dotted key, that the runs do not share, with the value of each."""
        flat = [_flat(config) for config in self.configs.values()]
        keys = dict.fromkeys(key for options in flat for key in options)
        out = {key: [options.get(key) for options in flat] for key in keys}
        return {key: values for key, values in out.items()
                if any(value != values[0] for value in values)}

    def to_dict(self) -> Dict[str, Any]:
        r"""All of it but histories and configurations, ready for JSON."""
        return {
            'split': self.split, 'protocol': self.protocol, 'metrics': self.metrics,
            'tests': [{**asdict(test), 'gain': test.gain._asdict(), 'verdict': test.verdict()}
                      for test in self.tests],
            'differences': self.differences(), 'notes': self.notes,
        }


def compare_runs(paths: Sequence[PathLike], split: str = 'test', *,
                 root: Optional[PathLike] = None, mirror: Optional[PathLike] = None,
                 device: str = 'auto', log: bool = False) -> RunComparison:
    r"""Rank a split by several runs, and test each difference on the same queries.

    Args:
        paths (Sequence[str or os.PathLike]): At least two run folders.
        split (str, optional): The split. (default: :obj:`"test"`)
        root (str, optional): See :func:`~pyg_mmkgc.training.load_run`. (default: as in training)
        mirror (str, optional): See there. (default: as in training)
        device (str, optional): See there. (default: :obj:`"auto"`)
        log (bool, optional): Whether to show progress bars. (default: :obj:`False`)

    Raises:
        FileNotFoundError: If a folder or a file that it must have is missing.
        ValueError: If there are fewer than two runs, one is not finished or damaged, or they differ
            in data, splits or protocol.
    """
    if len(paths) < 2:
        raise ValueError(f'expected at least two runs to compare (got {len(paths)})')
    names = _names([Path(path) for path in paths])
    runs: Dict[str, Run] = {}
    ranks: Dict[str, Evaluation] = {}
    for name, path in zip(names, paths, strict=True):
        run = load_run(path, root=root, mirror=mirror, device=device)
        first = next(iter(runs.values()), run)
        _check(first, run, split)
        with explain_out_of_memory(f"ranking by '{path}'", "take device 'cpu'"):
            ranks[name] = evaluate(run.model, run.data, split, log=log)
        runs[name] = run
    tests = [_test(a, b, ranks[a], ranks[b]) for a, b in combinations(names, 2)]
    return RunComparison(
        split, ranks[names[0]].protocol,
        {name: {'model': run.config['model']['name'], 'seed': run.config['train']['seed'],
                **ranks[name].to_dict()} for name, run in runs.items()},
        tests, {name: run.config for name, run in runs.items()},
        {name: run.history for name, run in runs.items()}, _notes(list(runs.values()), tests))


def comparison_page(comparison: RunComparison) -> str:
    r"""Runs beside each other as a page of HTML.

    Args:
        comparison (RunComparison): From :func:`compare_runs`.
    """
    return render('comparison.html', comparison=comparison, names=list(comparison.metrics),
                  groups=group_tables(*comparison.metrics.values()),
                  charts=curves(comparison.histories),
                  differences=comparison.differences())


def _names(paths: Sequence[Path]) -> List[str]:
    names = [path.resolve().name for path in paths]
    if len(set(names)) == len(names):
        return names
    names = [str(path) for path in paths]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"run '{name}' is named twice (expected different runs)")
    return names


def _check(first: Run, run: Run, split: str) -> None:
    if split not in run.metrics:
        what = (f'has no metrics of split {split!r} (expected one of {sorted(run.metrics)})'
                if run.metrics else
                "is not finished, and has no metrics (go on by `pyg-mmkgc train --resume`)")
        raise ValueError(f"the run '{run.path}' {what}")
    for key, what in SAME.items():
        if run.config['data'].get(key) != first.config['data'].get(key):
            raise ValueError(f"the runs '{first.path}' and '{run.path}' cannot be compared: their "
                             f'{what} are not the same (data {_data(first)} and {_data(run)})')
    protocols = [one.metrics[split]['protocol'] for one in (first, run)]
    for key in protocols[0]:
        if protocols[0][key] != protocols[1].get(key):
            raise ValueError(f"the runs '{first.path}' and '{run.path}' cannot be compared: they "
                             f'were ranked by different protocols ({key}: {protocols[0][key]!r} '
                             f'and {protocols[1].get(key)!r})')


def _data(run: Run) -> str:
    options = run.config.get('dataset_options') or {}
    return ', '.join([run.config['name'], *(f'{key} {value}' for key, value in options.items())])


def _reciprocal(evaluation: Evaluation) -> Tensor:
    head, tail = (part.rank.reciprocal() for part in evaluation.ranks.values())
    return (head + tail) / 2


def _test(first: str, second: str, a: Evaluation, b: Evaluation) -> PairedTest:
    x, y = _reciprocal(a), _reciprocal(b)
    return PairedTest(first, second, paired_bootstrap(x, y), float((x > y).double().mean()),
                      float((x < y).double().mean()))


def _notes(runs: Sequence[Run], tests: Sequence[PairedTest]) -> List[str]:
    out = ['A test says how much a difference depends on which triples are tested, not on the '
           'seed; pyg-mmkgc results sums up several seeds.']
    if len(tests) > 1:
        out.append(f'These are {len(tests)} tests at 95 %: of many, some look clear by chance.')
    if len({run.config['data'].get('features') for run in runs}) > 1:
        out.append('The runs are of the same triples, but not of the same features.')
    if len({repr(run.config['versions']) for run in runs}) > 1:
        out.append('The runs were trained with different versions of the software.')
    return out


def _flat(config: Dict[str, Any]) -> Dict[str, Any]:
    out = {'recipe': config.get('recipe')}
    for section in ('dataset_options', 'model', 'sampler', 'train'):
        out.update({f'{section}.{key}': value for key, value in (config[section] or {}).items()})
    return out
