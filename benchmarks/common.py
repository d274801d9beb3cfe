r"""What all measurements share: one JSON file for each run, and where it was made."""
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

from pyg_mmkgc.data.io import atomic_write
from pyg_mmkgc.studies.report import machine, spread

__all__ = ['ONE_THREAD', 'RESULTS', 'load', 'machine', 'run_code', 'run_module', 'save', 'spread']

RESULTS = Path(__file__).parent / 'results'
#: What limits the libraries below Python to one thread.
ONE_THREAD = dict.fromkeys(('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'ARROW_NUM_THREADS'), '1')


def run_module(module: str, *arguments: Any, python: str = sys.executable) -> Any:
    r"""The JSON that one of these modules prints last, run in a process of its own with one
    thread."""
    out = subprocess.run([python, '-m', f'benchmarks.{module}', *map(str, arguments)],
                         cwd=Path(__file__).parents[1], env={**os.environ, **ONE_THREAD},
                         stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(out.splitlines()[-1])


def run_code(python: str, *arguments: str, **kwargs: Any) -> Dict[str, Any]:
    r"""The JSON that code prints last under an interpreter, or why there is none."""
    done = subprocess.run([python, '-c', *arguments], text=True, capture_output=True, check=False,
                          **kwargs)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f'exit code {done.returncode}'])[-1]
        return {'missing': reason}
    return json.loads(done.stdout.strip().splitlines()[-1])


def save(path: Path, result: Dict[str, Any]) -> None:
    r"""Write one result; a file that exists is a finished run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, 'w') as f:
        json.dump(result, f, indent=1)
        f.write('\n')


def load(folder: Path) -> List[Dict[str, Any]]:
    r"""All results in a folder, in the order of their names."""
    return [json.loads(path.read_text(encoding='utf-8')) for path in sorted(folder.glob('*.json'))]
