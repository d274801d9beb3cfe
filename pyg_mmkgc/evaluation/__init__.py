r"""Ranking, metrics and the evaluation protocol; models are seen through one callable."""
from pyg_mmkgc.evaluation.bootstrap import Interval, paired_bootstrap
from pyg_mmkgc.evaluation.calibration import (
    Reliability,
    fit_temperature,
    log_probability,
    reliability,
)
from pyg_mmkgc.evaluation.evaluator import Evaluation, evaluate
from pyg_mmkgc.evaluation.explanation import (
    ExplainedEntity,
    Explanation,
    Removal,
    SimilarFact,
    explain,
)
from pyg_mmkgc.evaluation.metrics import compute_metrics
from pyg_mmkgc.evaluation.ogb import evaluate_ogb
from pyg_mmkgc.evaluation.prediction import find_label, predict
from pyg_mmkgc.evaluation.ranking import Ranks, Scorer, rank
from pyg_mmkgc.evaluation.triples import TriplePredictions, predict_triples

__all__ = classes = [
    'Evaluation',
    'ExplainedEntity',
    'Explanation',
    'Interval',
    'Ranks',
    'Reliability',
    'Removal',
    'Scorer',
    'SimilarFact',
    'TriplePredictions',
    'compute_metrics',
    'evaluate',
    'evaluate_ogb',
    'explain',
    'find_label',
    'fit_temperature',
    'log_probability',
    'paired_bootstrap',
    'predict',
    'predict_triples',
    'rank',
    'reliability',
]
