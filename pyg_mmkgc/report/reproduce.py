r"""The command that trains a run again."""
import json
import os
import shlex
from typing import Any, List, Mapping, Optional, Tuple

from pyg_mmkgc.datasets import normalize_name
from pyg_mmkgc.datasets.registry import CHOICES, DATASETS
from pyg_mmkgc.training import Recipe, load_recipe
from pyg_mmkgc.training.recipe import SECTIONS


def train_command(config: Mapping[str, Any]) -> Optional[str]:
    r"""The command line that trains a run with the same options: its recipe, and whatever differs
    from it. Where the files of the dataset are (`--root`, `--mirror`) belongs to the machine and is
    left out.

    Args:
        config (Mapping[str, Any]): What `config.yaml` holds.

    Returns:
        str, optional: The command; :obj:`None` for a dataset that was given in Python, and has
        neither a name nor a folder.
    """
    dataset, options = config['dataset'], dict(config.get('dataset_options') or {})
    named = normalize_name(dataset) in DATASETS
    if not (named or os.path.isdir(dataset)) or set(options) - set(CHOICES):
        return None
    arguments = ['--dataset', dataset]
    for key, value in options.items():
        arguments += [f'--{key}', 'none' if value is None else str(value)]
    recipe, option = _recipe(config)
    parts = {section: config[section] for section in SECTIONS}
    arguments += [*option, '--seed', str(parts['train']['seed'])]
    baseline = config.get('baseline')
    # `--epochs` is for the baseline, too.
    limited = baseline is None or baseline['train']['epochs'] <= parts['train']['epochs']
    arguments += _differences(recipe, parts, limited)
    return shlex.join(['pyg-mmkgc', 'train', *arguments])


def _recipe(config: Mapping[str, Any]) -> Tuple[Recipe, List[str]]:
    # A file of the user's may be gone or changed; the recipe of the model is always there.
    for name, option in ((config['recipe'], '--recipe'), (config['model']['name'], '--model')):
        try:
            recipe = load_recipe(name, config['name'])
        except (ValueError, FileNotFoundError):
            continue
        if recipe.model['name'] == config['model']['name']:
            return recipe, [option, name]
    raise ValueError(f"Unknown model {config['model']['name']!r}")


def _differences(recipe: Recipe, parts: Mapping[str, Any], limited: bool) -> List[str]:
    sampler, out = (parts['sampler'] or {}).get('name'), []
    if sampler != (recipe.sampler or {}).get('name'):
        recipe = recipe.override({'sampler': sampler})
        out += ['--set', f'sampler={json.dumps(sampler)}']
    found = recipe.to_dict()
    for section in SECTIONS:
        for key, value in (parts[section] or {}).items():
            if (section, key) == ('train', 'seed') or value == found[section][key]:
                continue
            if (section, key) == ('train', 'epochs') and limited:
                out += ['--epochs', str(value)]
            else:
                out += ['--set', f'{section}.{key}={json.dumps(value)}']
    return out
