import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pyg_mmkgc.data import MemoryMapped, build_data, memory_map, set_modality


def write(path, x):
    if path.suffix == '.npy':
        np.save(path, x.numpy())
    else:
        save_file({'x': x}, path)
    return path


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize('suffix', ['npy', 'safetensors'])
def test_reads_what_was_written(suffix, dtype, tmp_path):
    x = torch.randn(7, 3).to(dtype)
    out = memory_map(write(tmp_path / f'x.{suffix}', x))
    assert isinstance(out, MemoryMapped)
    assert out.dtype == dtype
    assert torch.equal(out, x)
    assert type(out[[1, 5]]) is type(out.float() + 1) is torch.Tensor
    assert copy.deepcopy(out) is out


def test_bfloat16_and_one_of_several(tmp_path):
    x = torch.randn(4, 2, dtype=torch.bfloat16)
    save_file({'a': torch.zeros(3, 3), 'x': x}, tmp_path / 'x.safetensors', {'format': 'pt'})
    assert torch.equal(memory_map(tmp_path / 'x.safetensors', 'x'), x)
    with pytest.raises(ValueError, match=r"x.safetensors: expected 'key' to be one of "
                                         r"\['a', 'x'\] \(got None\)"):
        memory_map(tmp_path / 'x.safetensors')


@pytest.mark.parametrize('suffix', ['npy', 'safetensors'])
def test_the_file_is_never_changed(suffix, tmp_path):
    path = write(tmp_path / f'x.{suffix}', torch.ones(3, 2))
    before = path.read_bytes()
    path.chmod(0o444)
    memory_map(path)[0] = 5
    assert path.read_bytes() == before


def test_a_large_file_is_not_read(tmp_path):
    rows = 2**22  # A sparse file of a gibibyte.
    np.lib.format.open_memmap(tmp_path / 'x.npy', 'w+', np.float16, (rows, 128)).flush()
    out = memory_map(tmp_path / 'x.npy')
    before = resident()
    assert out.shape == (rows, 128)
    assert torch.equal(out[torch.tensor([0, rows - 1])], torch.zeros(2, 128).half())
    assert resident() - before < 2**26


def resident():
    with open('/proc/self/statm', encoding='ascii') as f:
        return int(f.read().split()[1]) * 4096


def test_bad_files(tmp_path):
    (tmp_path / 'x.txt').write_text('1 2')
    with pytest.raises(ValueError, match=r"x.txt: expected a '.npy' or '.safetensors' file"):
        memory_map(tmp_path / 'x.txt')
    with pytest.raises(FileNotFoundError):
        memory_map(tmp_path / 'missing.npy')
    for x, match in [(np.zeros((3, 2), int), r'expected a matrix of floating-point numbers \(got '
                                             r'torch.int64 of shape \[3, 2\]\)'),
                     (np.zeros(3), r'expected a matrix of floating-point numbers .*\[3\]'),
                     (np.zeros(3, 'S4'), 'expected an array of numbers'),
                     (np.array([None, 1]), 'expected an array of numbers')]:
        np.save(tmp_path / 'x.npy', x, allow_pickle=True)
        with pytest.raises(ValueError, match=match):
            memory_map(tmp_path / 'x.npy')
    (tmp_path / 'x.npy').write_bytes(b'\x93NUMPY')
    with pytest.raises(ValueError, match=r'x.npy: expected an array of numbers'):
        memory_map(tmp_path / 'x.npy')


@pytest.mark.parametrize('content, match', [
    (b'', r'expected a safetensors file'),
    (b'\xff' * 8 + b'{}', r'expected a safetensors file \(the header is longer than the file\)'),
    (b'\x02' + bytes(7) + b'[]', r'expected a safetensors file'),
    (b'\x03' + bytes(7) + b'{"a', r'expected a safetensors file'),
    (('I64', [2, 2], [0, 32]), r"expected floating-point numbers \(got I64 in 'x'\)"),
    (('F32', [2, 2], [0, 16]), r"'x' of shape \[2, 2\] does not fit into its 16 bytes, or the "
                               r'file is cut off'),
    (('F32', [2, 3], [0, 16]), r"'x' of shape \[2, 3\] does not fit into its 16 bytes"),
], ids=str)
def test_bad_safetensors(content, match, tmp_path):
    if isinstance(content, tuple):
        keys = ('dtype', 'shape', 'data_offsets')
        header = json.dumps({'x': dict(zip(keys, content, strict=True))}).encode()
        content = len(header).to_bytes(8, 'little') + header + bytes(8)
    (tmp_path / 'x.safetensors').write_bytes(content)
    with pytest.raises(ValueError, match=match):
        memory_map(tmp_path / 'x.safetensors')


def test_a_graph_keeps_it_in_its_file(tmp_path):
    data = build_data({'train': torch.tensor([[0, 0, 1]])}, list('abc'), ['r'])
    x = np.zeros((3, 2), np.float32)
    x[2] = np.nan
    np.save(tmp_path / 'x.npy', x)
    mapped = memory_map(tmp_path / 'x.npy')
    set_modality(data, 'image', mapped, torch.tensor([True, True, False]))
    assert data['entity'].image is mapped
    with pytest.raises(ValueError, match="modality 'image' has NaN .* in 1 rows .first: row 2"):
        set_modality(data, 'image', mapped)
