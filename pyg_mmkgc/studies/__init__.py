r"""Studies of models and graphs, each one command: what each part is worth, missing and wrong
features, few facts, controls, negatives; the search for options; tables of results."""
from typing import Dict

from pyg_mmkgc.studies.ablation import ABLATION
from pyg_mmkgc.studies.base import Line, Look, Row, Study
from pyg_mmkgc.studies.control import CONTROL
from pyg_mmkgc.studies.missing import MISSING
from pyg_mmkgc.studies.negatives import NEGATIVES
from pyg_mmkgc.studies.noise import NOISE
from pyg_mmkgc.studies.report import Comparison, Report
from pyg_mmkgc.studies.results import results_tables
from pyg_mmkgc.studies.runner import run_study
from pyg_mmkgc.studies.sparsity import SPARSITY
from pyg_mmkgc.studies.tune import Parameter, Tuning, search_space, tune

#: The studies by name.
STUDIES: Dict[str, Study] = {study.name: study for study in (
    ABLATION, CONTROL, MISSING, NEGATIVES, NOISE, SPARSITY)}

__all__ = classes = [
    'STUDIES',
    'Comparison',
    'Line',
    'Look',
    'Parameter',
    'Report',
    'Row',
    'Study',
    'Tuning',
    'results_tables',
    'run_study',
    'search_space',
    'tune',
]
