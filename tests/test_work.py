r"""A guard on the work of a training step, since no clock decides in a test.

Operations, kernels and peak bytes of one step of each model are compared with `work.json`, whose
figures ``python tests/test_work.py`` writes anew after a change that is meant.
"""
import json
import sys
import weakref
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from pyg_mmkgc.data import get_triples
from pyg_mmkgc.nn import AdditiveComplEx, ComplEx, MoCME, MoMoK
from pyg_mmkgc.nn.reduction import reduce_scores
from pyg_mmkgc.sampler import EGNS
from pyg_mmkgc.testing import FakeMMKG

FIGURES = Path(__file__).with_name('work.json')
#: Relative; a version of torch may split a product or an operator differently, not the sums.
TOLERANCES = {'operations': 0.01, 'kernels': 0.03, 'peak_bytes': 0.1}
NUM_ENTITIES, NUM_RELATIONS, BATCH_SIZE, NUM_NEGATIVES = 600, 4, 128, 32
MOCME = {'hidden_channels': 16, 'num_references': 64, 'max_samples': 64}
CASES = {
    'complex': (ComplEx, {'hidden_channels': 16, 'regularization': 0.02}, False),
    'complex-bce': (ComplEx, {'hidden_channels': 16, 'objective': 'bce'}, False),
    'additive': (AdditiveComplEx, {'hidden_channels': 16, 'regularization': 0.02}, False),
    'mocme-softmax': (MoCME, {**MOCME, 'objective': 'softmax', 'regularization': 0.02}, True),
    'mocme-sampled': (MoCME, {**MOCME, 'objective': 'sampled'}, True),
    'momok': (MoMoK, {'hidden_channels': 16}, False),
}


class Work(TorchDispatchMode):
    r"""Counts kernels, floating-point operations of products, and the bytes of what kernels return
    while it is alive.

    Not `FlopCounterMode`, which also follows modules and stumbles over those without gradient.
    """
    def __init__(self):
        super().__init__()
        self.kernels, self.operations = 0, 0
        self.bytes, self.peak, self.known = 0, 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs))
                  if isinstance(x, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        self.kernels += not is_view(func)
        if func.overloadpacket in flop_registry:
            self.operations += flop_registry[func.overloadpacket](*args, **(kwargs or {}),
                                                                  out_val=out)
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor):
                self.hold(x.untyped_storage(), before)
        return out

    def hold(self, storage, before):
        key = storage._cdata
        if key in self.known or key in before:
            return
        self.known.add(key)
        self.bytes += storage.nbytes()
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self.release, key, storage.nbytes())

    def release(self, key, num_bytes):
        self.known.discard(key)
        self.bytes -= num_bytes


def is_view(func):
    r"""Whether an operator returns its input in another shape, which is no kernel."""
    return any(argument.alias_info is not None and not argument.alias_info.is_write
               for argument in func._schema.arguments)


def measure(name):
    r"""What the second step of a model does: losses and gradients, no optimiser."""
    cls, options, sampled = CASES[name]
    data = FakeMMKG(NUM_ENTITIES, NUM_RELATIONS, {'image': 24, 'text': 20}, seed=0)[0]
    torch.manual_seed(0)
    if sampled:
        options = {**options, 'neg_sampling': EGNS(NUM_ENTITIES, NUM_NEGATIVES)}
    model = cls.from_data(data, **options).train()
    batch = [x[:BATCH_SIZE] for x in get_triples(data, 'train')]

    def step():
        prepared = model.prepare(*batch)

        def run():
            model.loss(*batch, prepared=prepared).backward()
            if model.alternating_parameters():
                model.alternating_loss().backward()

        return run

    step()()  # Gradients and banks of references have their memory from here on.
    run = step()
    with Work() as work:
        run()
    return {'operations': work.operations, 'kernels': work.kernels, 'peak_bytes': work.peak}


def minor(version):
    return '.'.join(version.split('.')[:2])


@pytest.mark.parametrize('name', CASES)
def test_work_of_a_step(name):
    committed = json.loads(FIGURES.read_text(encoding='utf-8'))
    found, expected = measure(name), committed['figures'][name]
    same = minor(committed['torch']) == minor(torch.__version__)
    checked = list(TOLERANCES) if same else ['operations']
    lines = [f'{key}: {found[key]}, committed {expected[key]} '
             f'({100 * (found[key] / expected[key] - 1):+.1f} %)' for key in checked]
    assert all(abs(found[key] / expected[key] - 1) <= TOLERANCES[key] for key in checked), \
        f'the work of a step of {name} has changed, {"; ".join(lines)}'
    if not same:
        pytest.skip(f'KERNELS AND BYTES NOT COMPARED: figures are of torch {committed["torch"]}, '
                    f'this is {torch.__version__}')


def test_every_case_has_figures():
    assert set(json.loads(FIGURES.read_text(encoding='utf-8'))['figures']) == set(CASES)


def test_bytes_are_counted_while_they_live():
    with Work() as work:
        x = torch.ones(1000)  # 4,000 bytes, and again for each sum.
        y = x + 1
        view = y.view(10, 100)
        view.add_(1)  # Nothing new.
        del y, view
        z = x + 2
    assert work.peak == work.bytes == 8000
    del x, z
    assert work.bytes == 0
    assert work.kernels == 4  # Ones, two sums, and one in place.
    assert work.operations == 0


def test_products_are_counted_forwards_and_backwards():
    x, y = torch.ones(3, 5, requires_grad=True), torch.ones(5, 7)
    with Work() as work:
        reduce_scores(x, y.t(), 'logsumexp')[0].sum().backward()
    assert work.operations == 3 * 2 * 3 * 5 * 7


if __name__ == '__main__':
    figures = {name: measure(name) for name in CASES}
    text = json.dumps({'torch': torch.__version__, 'figures': figures}, indent=1)
    FIGURES.write_text(text + '\n', encoding='utf-8')
    sys.stdout.write(text + '\n')
