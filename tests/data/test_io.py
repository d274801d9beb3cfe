import errno
import multiprocessing
import os
import pickle
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch_geometric.data import HeteroData

from pyg_mmkgc.data.io import (
    atomic_folder,
    atomic_path,
    atomic_write,
    load_data,
    remove_temporaries,
    save_data,
)


def make_data() -> HeteroData:
    data = HeteroData()
    data.candidates = 'all'
    data.note = {'a': [1, 2.5, None, True], 'ü': 'x'}
    data['entity'].num_nodes = 4
    data['entity'].label = ['a', 'bé', '中文', 'tab\tquote"\n']
    data['entity'].text = torch.randn(4, 3)
    data['entity'].text_mask = torch.tensor([True, False, True, True])
    data['entity'].half = torch.randn(4, 2).to(torch.bfloat16)
    data['entity'].empty = torch.empty(0, 3)
    data['entity'].scalar = torch.tensor(3)
    data['other'].num_nodes = 2
    store = data['entity', 'to', 'entity']
    store.edge_index = torch.tensor([[0, 1, 2], [1, 2, 3]])
    store.edge_type = torch.tensor([0, 1, 0])
    store.num_relations = 2
    store.label = ['p', 'q']
    return data


def assert_same(data: HeteroData, out: HeteroData) -> None:
    assert out.node_types == data.node_types
    assert out.edge_types == data.edge_types
    pairs = [(data._global_store, out._global_store)]
    pairs += list(zip(data.stores, out.stores, strict=True))
    for store, other in pairs:
        assert list(store.keys()) == list(other.keys())
        for key, value in store.items():
            if isinstance(value, torch.Tensor):
                assert other[key].dtype == value.dtype
                assert torch.equal(other[key], value)
            else:
                assert other[key] == value


def temporaries(folder: Path):
    return [p for p in folder.iterdir() if p.name.startswith('.')]


def test_round_trip(tmp_path):
    data = make_data()
    save_data(data, tmp_path / 'deep' / 'er' / 'x.safetensors')
    out = load_data(str(tmp_path / 'deep' / 'er' / 'x.safetensors'))
    assert_same(data, out)
    assert out['entity'].num_nodes == 4
    assert temporaries(tmp_path / 'deep' / 'er') == []


def test_round_trip_of_an_empty_graph(tmp_path):
    save_data(HeteroData(), tmp_path / 'x')
    out = load_data(tmp_path / 'x')
    assert out.node_types == []
    assert out.edge_types == []


def test_views_of_one_storage(tmp_path):
    data = HeteroData()
    whole = torch.arange(12.).view(3, 4)
    data['entity'].a, data['entity'].b = whole[:, :2], whole[:, 2:].t()
    data['entity'].c = whole
    save_data(data, tmp_path / 'x')
    assert_same(data, load_data(tmp_path / 'x'))


def test_loaded_tensors_are_private(tmp_path):
    save_data(make_data(), tmp_path / 'x')
    content = (tmp_path / 'x').read_bytes()
    load_data(tmp_path / 'x')['entity'].text.zero_()
    assert (tmp_path / 'x').read_bytes() == content


def test_same_bytes_each_time(tmp_path):
    data = make_data()
    save_data(data, tmp_path / 'x')
    save_data(load_data(tmp_path / 'x'), tmp_path / 'y')
    assert (tmp_path / 'x').read_bytes() == (tmp_path / 'y').read_bytes()


@pytest.mark.parametrize('value', [(1, 2), {1, 2}, {1: 2}, object(), float('nan')])
def test_what_json_cannot_hold(tmp_path, value):
    data = make_data()
    data['entity'].bad = value
    with pytest.raises(ValueError, match="Attribute 'bad' of 'entity' cannot be saved"):
        save_data(data, tmp_path / 'x')
    assert list(tmp_path.iterdir()) == []


def test_sparse_tensor(tmp_path):
    data = make_data()
    data['entity'].bad = torch.eye(2).to_sparse()
    with pytest.raises(ValueError, match="'bad' of 'entity' .*expected a dense tensor"):
        save_data(data, tmp_path / 'x')


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file '.*nowhere'"):
        load_data(tmp_path / 'nowhere')


def test_every_single_byte_counts(tmp_path):
    path = tmp_path / 'x.safetensors'
    data = HeteroData()
    data['entity'].label = ['a', 'b']
    data['entity'].x = torch.tensor([[1.], [2.]])
    save_data(data, path)
    content = path.read_bytes()
    for position in range(len(content)):
        broken = bytearray(content)
        broken[position] ^= 0x10
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"x\.safetensors' (is damaged|was not written)"):
            load_data(path)
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"x\.safetensors' is damaged"):
            load_data(path)


class Payload:
    def __reduce__(self):
        return os.mkdir, ('pickle_was_run', )


def test_foreign_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_file({'x': torch.ones(2)}, tmp_path / 'foreign.safetensors')
    with pytest.raises(ValueError, match=r"foreign\.safetensors' was not written by"):
        load_data(tmp_path / 'foreign.safetensors')
    (tmp_path / 'pickled').write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ValueError, match="pickled' is damaged or no safetensors file"):
        load_data(tmp_path / 'pickled')
    assert not (tmp_path / 'pickle_was_run').exists()
    save_file({'x': torch.ones(2)}, tmp_path / 'odd',
              {'pyg_mmkgc': 'HeteroData 1 00000000'})
    with pytest.raises(ValueError, match="odd' is damaged .its checksum"):
        load_data(tmp_path / 'odd')


@pytest.mark.parametrize('mode,content', [('w', 'a\nü\n'), ('wb', b'\x00\xff')])
def test_atomic_write(tmp_path, mode, content):
    path = tmp_path / 'sub' / 'file.txt'
    for _ in range(2):  # The second time it replaces.
        with atomic_write(path, mode) as f:
            f.write(content)
    expected = content.encode() if mode == 'w' else content
    assert path.read_bytes() == expected
    assert temporaries(path.parent) == []


def test_atomic_write_mode(tmp_path):
    with pytest.raises(ValueError, match="'mode' needs to be 'w' or 'wb' .got 'a'"):
        atomic_write(tmp_path / 'x', 'a').__enter__()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('error', [KeyboardInterrupt, OSError(errno.ENOSPC, 'No space left')])
def test_exception_keeps_the_old_file(tmp_path, error):
    path = tmp_path / 'x'
    path.write_text('old')

    def write() -> None:
        with atomic_write(path) as f:
            f.write('new')
            raise error

    with pytest.raises((KeyboardInterrupt, OSError)):
        write()
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_follow_the_umask(tmp_path):
    previous = os.umask(0o027)
    try:
        save_data(make_data(), tmp_path / 'x')
        with atomic_write(tmp_path / 'y') as f:
            f.write('y')
    finally:
        os.umask(previous)
    for name in 'xy':
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640


def test_atomic_path_keeps_the_suffix(tmp_path):
    with atomic_path(tmp_path / 'plot.png') as temporary:
        assert temporary.suffix == '.png'
        assert temporary.parent == tmp_path
        temporary.write_bytes(b'1')
        assert not (tmp_path / 'plot.png').exists()
    assert (tmp_path / 'plot.png').read_bytes() == b'1'


def _write_many(path: str, letter: str) -> None:
    for _ in range(50):
        with atomic_write(path) as f:
            f.write(letter * 100_000)


def test_concurrent_writers_never_show_half(tmp_path):
    path = tmp_path / 'x'
    _write_many(str(path), 'a')
    context = multiprocessing.get_context('fork')
    writers = [context.Process(target=_write_many, args=(str(path), c)) for c in 'bc']
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        content = path.read_text()
        assert len(content) == 100_000
        assert len(set(content)) == 1
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert temporaries(tmp_path) == []


def test_what_a_killed_process_left_is_removed(tmp_path):
    names = ['x.json', '.hidden', '.x.json', '.x-1.abcdef12.json']
    for name in names:
        (tmp_path / name).write_text('kept')

    def leave(path):
        writer = atomic_path(path)
        (writer.__enter__()).write_text('half')
        return writer  # Never left.

    writers = [leave(tmp_path / name) for name in ('x.json', 'a-b.safetensors', 'none')]
    assert len(list(tmp_path.iterdir())) == len(names) + len(writers)
    remove_temporaries(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def interrupted(folder):
    with atomic_folder(folder) as path:
        (path / 'x').write_text('x')
        raise KeyboardInterrupt(path.name)


def test_folder_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    with atomic_folder(tmp_path / 'new' / 'folder') as path:
        (path / 'x').write_text('x')
        assert not (tmp_path / 'new' / 'folder').exists()
    assert [p.name for p in (tmp_path / 'new').iterdir()] == ['folder']
    assert (tmp_path / 'new' / 'folder' / 'x').read_text() == 'x'
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / 'other')
    assert [p.name for p in tmp_path.iterdir()] == ['new']
    for taken in (tmp_path / 'new', tmp_path / 'new' / 'folder' / 'x'):
        with pytest.raises(FileExistsError, match='exists and is not overwritten'), \
                atomic_folder(taken):
            raise AssertionError
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    with atomic_folder('.') as path:
        (path / 'x').write_text('x')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['here', 'new']
    assert (tmp_path / 'here' / 'x').exists()


def test_folders_of_processes_that_were_killed(tmp_path):
    with pytest.raises(KeyboardInterrupt) as caught:
        interrupted(tmp_path / 'folder')
    left = caught.value.args[0]
    (tmp_path / left).mkdir()
    (tmp_path / left / 'x').write_text('x')
    (tmp_path / '.mine').mkdir()
    remove_temporaries(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ['.mine']
