import os
import platform
import subprocess
import sys

import pytest

from pyg_mmkgc.evaluation import memory

#: Ten tensors of 64 MiB, one after the other: page faults outside, within, and outside again.
FAULTS = """
import resource
import torch
from pyg_mmkgc.evaluation.memory import keeping_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.zeros(2**24).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize()

outside, before = faults(), resident()
with keeping_memory():
    with keeping_memory():
        faults()
    within, kept = faults(), resident() - before
print(outside, within, faults(), kept)
"""
needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != 'glibc',
                                 reason='needs the GNU C library')


@needs_glibc
def test_keeping_memory():
    env = {**os.environ, 'GLIBC_TUNABLES': '', 'OMP_NUM_THREADS': '1'}  # Pages of the usual size.
    out = subprocess.run([sys.executable, '-c', FAULTS], capture_output=True, text=True, check=True,
                         env=env)
    outside, within, after, kept = map(int, out.stdout.split())
    pages = 10 * 2**26 // 4096
    # Of whatever size the pages are: each tensor outside has its own.
    assert within < outside / 5  # A piece that something else has taken is replaced once.
    assert outside <= 1.1 * pages
    assert after > outside / 20  # Given back; its place may serve all ten again.
    assert kept > 2**25


def test_keeping_memory_elsewhere(monkeypatch):
    monkeypatch.setattr(sys, 'platform', 'darwin')
    with memory.keeping_memory():
        assert memory._keeping == 0


@needs_glibc
def test_keeping_memory_after_an_error():
    with pytest.raises(KeyError), memory.keeping_memory():
        {}[memory._keeping]
    assert memory._keeping == 0
