"""Which kernel of `torch_geometric.utils` runs, with and without torch-scatter.

The test that is marked slow needs `$PYG_MMKGC_SCATTER`: an interpreter that has torch-scatter
beside this package, or the word `build` to build it into an environment of its own (minutes).
"""
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch_geometric.typing
from torch_geometric.utils import scatter, segment, softmax

REDUCTIONS = ('sum', 'mean', 'max')
needs_torch_scatter = pytest.mark.skipif(
    not torch_geometric.typing.WITH_TORCH_SCATTER,
    reason='KERNELS OF TORCH-SCATTER NOT TESTED: it is not installed')


class Calls:
    """A stand-in that does what torch-scatter does, and notes its name."""
    def __init__(self):
        self.names = []

    def scatter(self, src, index, dim, dim_size, reduce):
        self.names.append('scatter')
        return torch.zeros(dim_size, *src.shape[1:])

    def segment_csr(self, src, ptr, reduce):
        self.names.append('segment_csr')
        return torch.stack([getattr(src[a:b], reduce.replace('max', 'amax'))(dim=0)
                            for a, b in zip(ptr[:-1], ptr[1:], strict=True)])


@pytest.fixture
def calls(monkeypatch):
    """PyG as if torch-scatter were there."""
    out = Calls()
    monkeypatch.setattr(torch_geometric.typing, 'WITH_TORCH_SCATTER', True)
    for module in ('_scatter', '_segment'):
        monkeypatch.setattr(sys.modules[f'torch_geometric.utils.{module}'], 'torch_scatter', out)
    return out


def inputs():
    generator = torch.Generator().manual_seed(0)
    ptr = torch.tensor([0, 3, 4, 9])
    index = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 2])
    return torch.randn(9, 4, generator=generator, requires_grad=True), index, ptr


@pytest.mark.parametrize('reduce', REDUCTIONS)
def test_scatter_never_calls_torch_scatter_on_cpu(reduce, calls):
    x, index, _ = inputs()
    out = scatter(x, index, dim=0, dim_size=3, reduce=reduce)
    assert calls.names == []
    expected = [getattr(x[index == i], reduce.replace('max', 'amax'))(dim=0) for i in range(3)]
    torch.testing.assert_close(out, torch.stack(expected))


def test_softmax_calls_torch_scatter_with_pointers_only(calls):
    x, index, ptr = inputs()
    expected = torch.cat([part.softmax(dim=0) for part in x.split([3, 1, 5])])
    torch.testing.assert_close(softmax(x, index, num_nodes=3), expected)
    assert calls.names == []
    if not torch_geometric.typing.WITH_SOFTMAX:  # Else pyg-lib has a kernel of its own.
        torch.testing.assert_close(softmax(x, ptr=ptr), expected)
        assert calls.names == ['segment_csr'] * 2


@pytest.mark.parametrize('reduce', REDUCTIONS)
def test_segment_calls_torch_scatter(reduce, calls):
    x, _, ptr = inputs()
    segment(x, ptr, reduce)
    assert calls.names == ['segment_csr']


@needs_torch_scatter
@pytest.mark.parametrize('reduce', REDUCTIONS)
def test_with_and_without_torch_scatter(reduce, monkeypatch):
    import torch_scatter
    x, index, ptr = inputs()
    target, results = torch.randn(3, 4), []
    for there in (True, False):
        monkeypatch.setattr(torch_geometric.typing, 'WITH_TORCH_SCATTER', there)
        with mock.patch.object(torch_scatter, 'segment_csr',
                               wraps=torch_scatter.segment_csr) as kernel:
            out = segment(x, ptr, reduce)
        assert kernel.call_count == there
        grad, = torch.autograd.grad((out * target).sum(), x)
        results.append((out, grad))
    out = torch_scatter.scatter(x, index, dim=0, dim_size=3, reduce=reduce)
    results.append((out, *torch.autograd.grad((out * target).sum(), x)))
    for out, grad in results:
        expected = scatter(x, index, dim=0, dim_size=3, reduce=reduce)
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close(grad, torch.autograd.grad((expected * target).sum(), x)[0])


@pytest.fixture(scope='module')
def interpreter(tmp_path_factory):
    named = os.environ.get('PYG_MMKGC_SCATTER')
    if named is None:
        pytest.skip('TORCH-SCATTER NOT TESTED: set PYG_MMKGC_SCATTER to an interpreter that has '
                    "it, or to 'build'")
    if named != 'build':
        return named
    folder = tmp_path_factory.mktemp('scatter')
    venv.create(folder, with_pip=True)
    python = folder / 'bin' / 'python'
    ours = [sysconfig.get_path('purelib'), str(Path(__file__).parents[3])]
    site = subprocess.run([python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))'],
                          check=True, capture_output=True, text=True).stdout.strip()
    (Path(site) / 'ours.pth').write_text('\n'.join(ours) + '\n', encoding='utf-8')
    # It has to see our torch while it builds, so it is not built in isolation:
    subprocess.run([python, '-m', 'pip', 'install', '-q', '--no-build-isolation', 'torch-scatter'],
                   check=True, env={**os.environ, 'MAX_JOBS': '1'})
    return str(python)


@pytest.mark.slow
def test_layers_with_torch_scatter(interpreter):
    folder = Path(__file__).parent
    done = subprocess.run(
        [interpreter, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-m', 'not slow',
         str(folder), str(folder.parents[1] / 'sampler' / 'test_egns.py')],
        cwd=folder.parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert 'TORCH-SCATTER NOT TESTED' not in done.stdout
    assert ' passed' in done.stdout
