"""The seed decides about all bits of a training, whatever the number of threads."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pyg_mmkgc.nn.models.base import OBJECTIVES
from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.training import MODELS, Fit, load_recipe

ROOT = Path(__file__).parents[2]
#: What each model can be trained for.
FOR = {'momok': ('softmax', 'bce'), 'nearest': ('softmax', )}
CASES = [(name, objective) for name in sorted(MODELS)
         for objective in FOR.get(name, OBJECTIVES)]
#: Two trainings in two threads. Gradients have to be large enough for torch to share them out.
PROGRAM = """
import torch
from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.training import Fit, load_recipe

torch.set_num_threads(2)
for name, options in [
    ('mocme', {'model.hidden_channels': 32, 'model.heads': [], 'train.batch_size': 160}),
    ('momok', {'model.hidden_channels': 64, 'model.relation_channels': 16,
               'model.num_experts': 1, 'train.batch_size': 640}),
]:
    recipe = load_recipe(name).override({
        'train.device': 'cpu', 'train.select': None, 'train.epochs': 10, **options})
    states = []
    for _ in range(2):
        fit = Fit(recipe, FakeMMKG(seed=1)[0])
        fit()
        states.append(fit.model.state_dict())
    print(name, [key for key, x in states[0].items() if not x.equal(states[1][key])])
"""


def test_two_trainings_in_two_threads_are_equal():
    # Threads that spin while they wait take the core of the one that they wait for.
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_WAIT_POLICY': 'passive'}
    done = subprocess.run([sys.executable, '-c', PROGRAM], env=env, capture_output=True,
                          text=True, check=False, timeout=300)
    assert done.stdout == 'mocme []\nmomok []\n', done.stdout + done.stderr


class OrderOfThreads(TorchDispatchMode):
    """Finds sums whose order on a CPU is that in which threads come by."""
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name in ('aten::index_put', 'aten::index_put_', 'aten::_index_put_impl_'):
            x, indices, _, *accumulate = args
            accumulate = bool(accumulate and accumulate[0]) or (kwargs or {}).get('accumulate')
            if accumulate and x.is_floating_point():
                index = torch.stack(torch.broadcast_tensors(*indices)).flatten(1)
                assert index.unique(dim=1).size(1) == index.size(1), tuple(x.shape)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('name,objective', CASES)
def test_no_sum_depends_on_the_order_of_threads(name, objective):
    recipe = load_recipe(name)
    options = {'model.objective': objective, 'model.hidden_channels': 8,
               'model.redundancy_weight': 0.1, 'train.device': 'cpu', 'train.epochs': 1,
               'train.epoch_steps': 2, 'train.batch_size': 64}
    options = {key: value for key, value in options.items()
               if key.split('.')[1] in recipe.options(key.split('.')[0])}
    if objective == 'sampled':
        options['sampler'] = 'uniform'
    fit = Fit(recipe.override(options), FakeMMKG(seed=1)[0])
    with OrderOfThreads():
        fit()  # Evaluation included.


def test_the_check_finds_what_it_is_for():
    x = torch.zeros(3, 2, requires_grad=True)
    with pytest.raises(AssertionError, match=r'\(3, 2\)'), OrderOfThreads():
        x[torch.tensor([1, 1])].sum().backward()
    with OrderOfThreads():
        x[torch.tensor([1, 2])].sum().backward()
