r"""What a run says about its model where that is taken elsewhere."""
from typing import Any, Dict, List, Mapping

from torch_geometric.data import HeteroData

from pyg_mmkgc.data import EDGE, get_triples, modality_dicts, split_names
from pyg_mmkgc.nn.models.pretrained import code

METRICS = {'mrr': 'MRR', 'hits@1': 'Hits@1', 'hits@3': 'Hits@3', 'hits@10': 'Hits@10', 'mr': 'MR'}


def model_card(data: HeteroData, config: Mapping[str, Any], metrics: Mapping[str, Dict[str, Any]],
               calibration: Mapping[str, Any]) -> Dict[str, str]:
    r"""Sections of a model card, by their titles. Nothing in it says whose machine it was.

    Args:
        data (HeteroData): The graph.
        config (Mapping[str, Any]): What stands in `config.yaml`.
        metrics (Mapping[str, Dict[str, Any]]): For each test split what stands in `metrics.json`.
        calibration (Mapping[str, Any]): What stands in `calibration.json`.
    """
    return {'Data': _data(data, config), 'Metrics': _metrics(metrics),
            'Probabilities': _calibration(calibration), 'Reproduce': _reproduce(config)}


def _data(data: HeteroData, config: Mapping[str, Any]) -> str:
    counts = [f'{get_triples(data, split)[0].numel()} in {code(split)}'
              for split in split_names(data)]
    coverage = [f'{code(m)} {float(mask.float().mean()):.0%}'
                for m, mask in modality_dicts(data)[1].items()]
    lines = [f'Dataset {code(config["name"])}: {data["entity"].num_nodes} entities, '
             f'{data[EDGE].num_relations} relations; triples: {", ".join(counts)}.',
             f'Entities that have a modality: {", ".join(coverage) or "none has any"}.']
    options = config.get('dataset_options') or {}
    if options:
        lines.append(f'Options: {code(options)}.')
    lines.append('SHA-256: ' + ', '.join(f'{part} {code(value)}'
                                         for part, value in config['data'].items()) + '.')
    return '\n'.join(lines)


def _metrics(metrics: Mapping[str, Dict[str, Any]]) -> str:
    if not metrics:
        return 'The training was interrupted, so there are none.'
    rows = [['split', 'model', 'side', *METRICS.values()], ['---'] * (3 + len(METRICS))]
    for split, values in metrics.items():
        for part in (values, values.get('baseline')):
            if part is None or (part is not values and part['model'] == values['model']):
                continue
            for side in ('both', 'head', 'tail'):
                rows.append([split, part['model'], side,
                             *(f'{part[side][key]:.4f}' for key in METRICS)])
    table = '\n'.join(f'| {" | ".join(row)} |' for row in rows)
    protocol = next(iter(metrics.values()))['protocol']
    filtered = (f'filtered by {", ".join(protocol["filter_splits"])}' if protocol['filtered'] else
                'unfiltered')
    return (f'{table}\n\nProtocol: {filtered}; {protocol["ties"]} ties; one-based ranks of '
            f'{" and ".join(protocol["sides"])} among {protocol["num_candidates"]} entities '
            f'({protocol["candidates"]}). Nothing was chosen on a test split.')


def _calibration(calibration: Mapping[str, Any]) -> str:
    temperature = calibration.get('temperature')
    if temperature is None:
        return 'Not calibrated.'
    return f'Calibrated on validation, temperature {temperature:.4f}.'


def _reproduce(config: Mapping[str, Any]) -> str:
    versions: List[str] = [f'{name} {code(value)}' for name, value in config['versions'].items()
                           if value is not None]
    command = 'pyg-mmkgc train --recipe recipe.yaml --dataset DATASET'
    return (f'```sh\n{command}\n```\n\nwhere `DATASET` is the one above, or its folder. All '
            f'options, the seed among them, stand in `recipe.yaml`. Versions: '
            f'{", ".join(versions)}.')
