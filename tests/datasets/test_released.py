import collections
import zipfile

import numpy as np
import pytest
import torch

from pyg_mmkgc.datasets.released import find_fill, find_released, read_released


@pytest.fixture
def save(tmp_path):
    def write(value, **kwargs):
        path = tmp_path / 'X-visual.pth'
        torch.save(value, path, **kwargs)
        return path

    return write


def randn(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def features(num_rows=400, channels=768, rank=12, seed=0):
    """As networks give them: a common direction, few strong ones, and noise."""
    common = randn(channels, seed=seed) + 0.5
    varied = randn(num_rows, rank, seed=seed + 1) @ randn(rank, channels, seed=seed + 2)
    return common + 0.3 * varied + 0.3 * randn(num_rows, channels, seed=seed + 3)


def some_rows(num_rows, share):
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(1))
    return order < share * num_rows


# Where files are #################################################################################


def test_find_released(tmp_path):
    raw, mirror = tmp_path / 'raw', tmp_path / 'mirror'
    for folder in (raw, mirror):
        folder.mkdir()
    for path in [raw / 'img_features.pth', raw / 'KVC16K-audio.pth', mirror / 'Kuai16K-visual.pth',
                 mirror / 'Kuai16K-textual.pth', mirror / 'text_features.pth',
                 mirror / 'DB15K-video.pth', mirror / 'numeric_features.pth']:
        path.write_bytes(b'')
    (mirror / 'Kuai16K-video.pth').mkdir()
    assert find_released([raw, mirror, tmp_path / 'nowhere'], ['KVC16K', 'Kuai16K']) == {
        'image': raw / 'img_features.pth', 'audio': raw / 'KVC16K-audio.pth',
        'text': mirror / 'Kuai16K-textual.pth', 'numeric': mirror / 'numeric_features.pth'}


# Reading #########################################################################################


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_read(save, dtype, zipped):
    x = randn(5, 3).to(dtype)
    path = save(x, _use_new_zipfile_serialization=zipped)
    assert zipfile.is_zipfile(path) == zipped
    out = read_released(path, 5)
    assert out.dtype == torch.float32
    assert torch.equal(out, x.float())


def test_read_what_is_a_tensor_after_all(save):
    x = randn(5, 2, 3)
    assert torch.equal(read_released(save(x), 5), x.view(5, 6))
    out = read_released(save(torch.nn.Parameter(x[:, 0])), 5)
    assert torch.equal(out, x[:, 0])
    assert not out.requires_grad
    assert torch.equal(read_released(save(x[:, :, 0].t().contiguous().t()), 5), x[:, :, 0])


@pytest.mark.parametrize('value,message', [
    (torch.ones(4, 3), 'expected one row for each of 5 entities, in order of their ids .got shape '
     r'\[4, 3\]'),
    (torch.ones(5), r'expected one row for each .*got shape \[5\]'),
    (torch.ones(5, 0), r'expected one row for each .*got shape \[5, 0\]'),
    (torch.tensor(1.0), r'expected one row for each .*got shape \[\]'),
    (torch.ones(5, 3, dtype=torch.long), 'expected a dense floating-point tensor .got torch.int64'),
    (torch.ones(5, 3).to_sparse(), 'expected a dense floating-point .*torch.sparse_coo'),
    ([torch.ones(3)] * 5, r'expected a tensor .got list\)'),
    ({'x': torch.ones(5, 3)}, r'expected a tensor .got dict\)'),
    (collections.OrderedDict(x=torch.ones(5, 3)), r'expected a tensor .got OrderedDict\)'),
    (None, r'expected a tensor .got NoneType\)'),
    (torch.nn.Embedding(5, 3), 'got a pickled torch.nn.modules.sparse.Embedding, which is refused'),
    (np.ones((5, 3)), r'got a pickled numpy.*_reconstruct, which is refused since unpickling can '
     r'run any code.*torch.save\(torch.as_tensor'),
    (torch.tensor([[0.0], [1], [float('nan')], [2], [float('inf')]]),
     r'2 rows have values that are NaN or infinite as 32-bit numbers .first: row 2'),
    (torch.tensor([[1e300]] * 5, dtype=torch.float64), '5 rows have values that are NaN or inf'),
])
def test_read_errors(save, value, message):
    path = save(value)
    with pytest.raises(ValueError, match=rf'^{path}: .*{message}'):
        read_released(path, 5)


class Evil:
    def __reduce__(self):
        return print, ('run',)


@pytest.mark.parametrize('zipped', [True, False])
def test_no_code_is_run(save, capsys, zipped):
    with pytest.raises(ValueError, match='a pickled .*print, which is refused'):
        read_released(save(Evil(), _use_new_zipfile_serialization=zipped), 5)
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize('zipped', [True, False])
def test_damaged_file(save, zipped):
    path = save(randn(50, 30), _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for content in [b'', b'nonsense', b'\x80\x02', whole[:100], whole[:len(whole) // 2],
                    b'x' + whole[1:200]]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f'^{path}: damaged, or not written by torch.save'):
            read_released(path, 50)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file '.*nowhere.pth'"):
        read_released(tmp_path / 'nowhere.pth', 5)


# Fill ############################################################################################


@pytest.mark.parametrize('seed', range(3))
def test_no_fill(seed):
    assert not bool(find_fill(features(seed=seed)).any())
    assert not bool(find_fill(features(seed=seed).relu()).any())
    assert not bool(find_fill(randn(400, 768, seed=seed)).any())  # No common direction at all.


def test_zeros_and_mean():
    x = features()
    x[[3, 4]] = 0
    rows = [10, 20, 399]
    x[rows] = x[[i for i in range(400) if i not in rows and i > 4]].mean(dim=0)
    assert find_fill(x).nonzero().view(-1).tolist() == [3, 4, *rows]


@pytest.mark.parametrize('share', [0.01, 0.5, 0.9])
def test_mean_of_a_larger_collection(share):
    # The publishers average all pictures, also those of entities that are not in the graph.
    pool = features(4000, 64)
    x = pool[:1000].clone()
    fill = some_rows(1000, share)
    x[fill] = pool.mean(dim=0)
    assert torch.equal(find_fill(x), fill)


def test_genuine_repeats_stay():
    x = features()
    x[10:60] = x[10]  # One flag for fifty territories.
    x[0] = x[70:].mean(dim=0)  # A single row near the mean may be anybody's.
    assert not bool(find_fill(x).any())


def test_narrow_features_are_left_alone():
    x = torch.tensor([[0.0], [1.0], [1.0], [2.0]]).repeat(10, 15)
    assert not bool(find_fill(x).any())
    assert int(find_fill(torch.cat([x, x[:, :1]], dim=1)).sum()) == 10


@pytest.mark.parametrize('draw', ['normal', 'uniform'])
@pytest.mark.parametrize('scale', [0.01, 1.0, 30.0])
@pytest.mark.parametrize('channels', [384, 768, 2048])
@pytest.mark.parametrize('share', [0.005, 0.4])
def test_random_rows(draw, scale, channels, share):
    x = features(800, channels)
    fill = some_rows(800, share)
    values = randn(int(fill.sum()), channels, seed=9)
    if draw == 'uniform':
        values = torch.special.ndtr(values) * 2 - 1
    x[fill] = scale * values
    assert torch.equal(find_fill(x), fill)


def test_odd_rows_are_not_random():
    # Away from the others, but not independent draws: few large entries, or alike.
    for odd in [randn(20, 768, seed=9).pow(7), randn(1, 768, seed=9) + 0.2 * randn(20, 768, seed=8),
                randn(20, 768, seed=9) + 1]:
        x = features()
        x[:20] = odd
        assert not bool(find_fill(x).any())


def test_finding_draws_no_global_random_numbers():
    state = torch.random.get_rng_state()
    find_fill(features())
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize('rows', [0, 1, 2])
def test_few_rows(rows):
    assert find_fill(torch.ones(rows, 300)).tolist() == [False] * rows
    assert find_fill(torch.zeros(rows, 300)).tolist() == [True] * rows
