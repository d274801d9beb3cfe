r"""The calibration of a trained model, as a run keeps it."""
from typing import Any, Dict, Tuple

from torch_geometric.data import HeteroData

from pyg_mmkgc.data import is_spent, split_names
from pyg_mmkgc.evaluation import Reliability, fit_temperature, reliability
from pyg_mmkgc.evaluation.calibration import known_splits
from pyg_mmkgc.nn import KGModel


def calibrate(model: KGModel, data: HeteroData) -> Tuple[Dict[str, Any], Dict[str, Reliability]]:
    r"""Fit the temperature on validation, and look at what it changes there and on test; see
    :func:`~pyg_mmkgc.evaluation.fit_temperature`. Nothing is fitted to a validation split that
    stands mostly in train: what is remembered is answered with more confidence than it merits.

    Args:
        model (KGModel): The trained model.
        data (HeteroData): The graph.

    Returns:
        (Dict[str, Any], Dict[str, Reliability]): What `calibration.json` holds, and the
        reliability on test (on validation without one) before and after. Without validation
        triples the temperature is :obj:`None`, ``'reason'`` says why, and there is no reliability.
    """
    splits = [split for split in ('val', 'test') if split in split_names(data)]
    reason = None
    if 'val' not in splits:
        reason = "there is no split 'val'"
    elif is_spent(data, 'val'):
        reason = ("split 'val' stands mostly in train, and the part of train that was held out to "
                  'choose by has been trained on since')
    if reason is not None:
        return {'temperature': None, 'reason': reason}, {}
    temperature = fit_temperature(model, data, 'val')
    found = {split: {'before': reliability(model, data, split),
                     'after': reliability(model, data, split, temperature)} for split in splits}
    return {
        'temperature': temperature,
        'split': 'val',
        'filter_splits': known_splits(data, 'val'),
        'reliability': {split: {name: part.to_dict() for name, part in parts.items()}
                        for split, parts in found.items()},
    }, found[splits[-1]]
