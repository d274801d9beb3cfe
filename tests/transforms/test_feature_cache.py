import logging
import multiprocessing

import pytest
import torch

from pyg_mmkgc.transforms import FeatureCache
from pyg_mmkgc.transforms.cache import content_digest

A, B, C = 'aa' * 32, 'bb' * 32, 'cc' * 32


def test_save_and_load(tmp_path):
    cache = FeatureCache(tmp_path)
    assert repr(cache) == f"FeatureCache('{tmp_path}')"
    assert cache.load('key') == {}
    x = torch.randn(3, 4)
    cache.save('key', [A, B], x[:2])
    cache.save('key', [C], x[2:].double())
    found = cache.load('key')
    assert sorted(found) == [A, B, C]
    assert torch.equal(torch.stack([found[A], found[B], found[C]]), x)
    assert cache.load('another key') == {}


def test_same_content_is_stored_once(tmp_path):
    cache = FeatureCache(tmp_path)
    for _ in range(2):
        cache.save('key', [A], torch.ones(1, 2))
    assert len(list(tmp_path.rglob('*'))) == 2  # The encoder's folder, and one shard.


@pytest.mark.parametrize('damage', ['flip', 'cut', 'other'])
def test_damaged_shard_is_removed(tmp_path, caplog, damage):
    cache = FeatureCache(tmp_path)
    cache.save('key', [A], torch.ones(1, 2))
    path, = tmp_path.rglob('*.safetensors')
    content = bytearray(path.read_bytes())
    if damage == 'flip':
        content[-1] ^= 1
    elif damage == 'cut':
        content = content[:20]
    else:
        content = b'something else'
    path.write_bytes(content)
    cache.save('key', [B], torch.zeros(1, 2))
    with caplog.at_level(logging.WARNING):
        assert sorted(cache.load('key')) == [B]
    assert f"The cached features '{path}' are damaged" in caplog.text
    assert 'encoded again' in caplog.text
    assert not path.exists()


def test_one_key_two_sizes(tmp_path):
    cache = FeatureCache(tmp_path)
    cache.save('key', [A], torch.ones(1, 2))
    cache.save('key', [B], torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"vectors of \[2, 3\] channels .* another 'cache_key'"):
        cache.load('key')


def fill(folder):
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork.
    cache = FeatureCache(folder)
    for i in range(60):
        cache.save('key', [f'{i % 8:064x}'], torch.full((1, 3), float(i % 8)))
        found = cache.load('key')
        assert f'{i % 8:064x}' in found
        assert all((x == int(digest, 16)).all() for digest, x in found.items())


def test_several_processes(tmp_path, capfd):
    context = multiprocessing.get_context('fork')
    processes = [context.Process(target=fill, args=(tmp_path, )) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert 'damaged' not in capfd.readouterr().err
    assert len(FeatureCache(tmp_path).load('key')) == 8


def test_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.delenv('PYG_MMKGC_CACHE', raising=False)
    assert FeatureCache().folder == tmp_path / '.cache' / 'pyg_mmkgc'
    assert FeatureCache.resolve(None) is None
    assert FeatureCache.resolve('~/x').folder == tmp_path / 'x'
    cache = FeatureCache('y')
    assert FeatureCache.resolve(cache) is cache
    monkeypatch.setenv('PYG_MMKGC_CACHE', str(tmp_path / 'z'))
    assert FeatureCache().folder == FeatureCache.resolve(None).folder == tmp_path / 'z'


def test_content_digest(tmp_path):
    (tmp_path / 'a').write_bytes(b'abc')
    assert content_digest(tmp_path / 'a') == (
        'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad')
    for name in ('x', 'y'):
        (tmp_path / name / 'sub').mkdir(parents=True)
        (tmp_path / name / '1').write_bytes(b'1')
        (tmp_path / name / 'sub' / '2').write_bytes(b'2')
    assert content_digest(tmp_path / 'x') == content_digest(tmp_path / 'y')
    (tmp_path / 'y' / '1').rename(tmp_path / 'y' / '3')
    assert content_digest(tmp_path / 'x') != content_digest(tmp_path / 'y')
    with pytest.raises(FileNotFoundError, match="There is no file '.*none'"):
        content_digest(tmp_path / 'none')
