import functools
import hashlib
import http.server
import logging
import multiprocessing
import os
import threading
from pathlib import Path

import pytest
import torch
from torch_geometric.data import HeteroData

from pyg_mmkgc.data import EDGE, get_triples
from pyg_mmkgc.data.io import load_data
from pyg_mmkgc.datasets import GraphDataset, MMKGDataset, RawFile
from pyg_mmkgc.transforms import EncodeText

CONTENT = {
    'entity2id.txt': '5\nx/a 0\nx/b 1\ny/b 2\nx/d_e 3\nx/f 4\n',
    'relation2id.txt': '2\nr 0\ns 1\n',
    'train2id.txt': '4\n0 1 0\n1 2 0\n2 3 1\n3 3 1\n',
    'valid2id.txt': '1\n0 2 1\n',
    'test2id.txt': '2\n4 0 0\n1 3 1\n',
    'descriptions.tsv': 'x/a\tthe first\nx/f\tthe last\n',
    'numbers.txt': '<x/a> <height> "1"^^<d> .\n<y/b> <height> "2"^^<d> .\n'
                   '<x/f> <height> "9"^^<d> .\n<x/f> <weight> "9"^^<d> .\n',
}
DERIVED = {'descriptions.tsv', 'numbers.txt'}


def raw_file(name: str) -> RawFile:
    return RawFile(name, hashlib.sha256(CONTENT[name].encode()).hexdigest(), 'who/what', 'c0ffee',
                   f'data/{name}', derived='joined by hand' if name in DERIVED else '')


class Tiny(MMKGDataset):
    name = 'T-1'
    files = tuple(raw_file(name) for name in CONTENT)
    numeric_file = 'numbers.txt'

    def entity_labels(self, names):
        return [name.split('/')[1].replace('_', ' ') for name in names]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for name in ['PYG_MMKGC_ROOT', 'PYG_MMKGC_MIRROR']:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('no_proxy', '*')


@pytest.fixture
def folder(tmp_path):
    for name, content in CONTENT.items():
        path = tmp_path / 'mirror' / 'T-1' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path / 'mirror'


@pytest.fixture
def server(folder):
    """The mirror folder over HTTP; `server.paths` records what was asked for."""
    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            httpd.paths.append(self.path)
            if self.path in httpd.cut:  # A connection that breaks off half-way.
                self.send_response(200)
                self.send_header('Content-Length', '1000000')
                self.end_headers()
                self.wfile.write(b'half')
            else:
                super().do_GET()

        def log_message(self, *args):
            pass

    handler = functools.partial(Handler, directory=str(folder))
    httpd = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    httpd.paths, httpd.cut = [], set()
    httpd.address = f'http://127.0.0.1:{httpd.server_address[1]}'
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01, ), daemon=True)
    thread.start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def files_below(path: Path):
    return sorted(str(p.relative_to(path)) for p in path.rglob('*') if p.is_file())


def assert_same(a: HeteroData, b: HeteroData) -> None:
    a, b = a.to_dict(), b.to_dict()
    assert a.keys() == b.keys()
    for store in a:
        pairs = [(a[store], b[store])] if not isinstance(a[store], dict) else [
            (a[store][key], b[store][key]) for key in a[store]]
        for x, y in pairs:
            assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y


# The graph #######################################################################################


def test_build(tmp_path, folder):
    dataset = Tiny(tmp_path / 'root', mirror=folder)
    data = dataset[0]
    assert str(dataset) == 'Tiny()'
    assert len(dataset) == 1
    assert (dataset.num_entities, dataset.num_relations) == (5, 2)
    assert dataset.split_names == ['train', 'val', 'test']
    assert dataset.modalities == ['numeric', 'text']
    # Two names end in `b`, and labels are unique.
    assert data['entity'].label == ['a', 'b (x/b)', 'b (y/b)', 'd e', 'f']
    assert data[EDGE].label == ['r', 's']
    assert data.candidates == 'all'
    assert [part.tolist() for part in get_triples(data, 'train')] == [
        [0, 1, 2, 3], [0, 0, 1, 1], [1, 2, 3, 3]]
    assert [part.tolist() for part in get_triples(data, 'test')] == [[4, 1], [0, 1], [0, 3]]
    assert data['entity'].description == ['the first', None, None, None, 'the last']
    assert data['entity'].text.shape == (5, 256)
    assert bool(data['entity'].text_mask.all())
    assert data['entity'].numeric_mask.tolist() == [True, False, True, False, True]
    # Entity 4 is not in training: its 9 does not move the quantiles of the other two, and
    # `weight`, which it alone has, is no column at all.
    assert data['entity'].numeric_attribute == ['height']
    assert data['entity'].numeric.tolist() == [[-0.5, 1], [0, 0], [0.5, 1], [0, 0], [0.5, 1]]
    data.validate()


def test_text_is_label_and_description(tmp_path, folder):
    data = Tiny(tmp_path, mirror=folder)[0]
    other = HeteroData()
    other['entity'].num_nodes = 5
    other['entity'].given = ['a: the first', 'b (x/b)', 'b (y/b)', 'd e', 'f: the last']
    EncodeText(source='given').forward(other)
    assert torch.equal(data['entity'].text, other['entity'].text)


def test_options(tmp_path, folder):
    assert Tiny(tmp_path, mirror=folder, features=None).modalities == []
    assert Tiny(tmp_path, mirror=folder, features='labels').modalities == ['numeric', 'text']
    assert files_below(tmp_path / 'tiny' / 'processed') == [
        'v1-official-labels-hash.safetensors', 'v1-official-none.safetensors']


@pytest.mark.parametrize('kwargs,match', [
    ({'splits': 'best'}, r"Unknown splits 'best' of T-1 \(expected one of \['official'\]\)"),
    ({'features': 'x'}, r"Unknown features 'x' of T-1 \(expected one of \['auto', 'labels', None"),
    ({'encoder': 'x'}, r"Unknown encoder 'x' of T-1 \(expected one of \['hash', 'minilm'\]\)"),
])
def test_unknown_options(tmp_path, kwargs, match):
    with pytest.raises(ValueError, match=match):
        Tiny(tmp_path, **kwargs)
    assert files_below(tmp_path) == []


def test_transforms(tmp_path, folder):
    def transform(data):
        data.count = data.get('count', 0) + 1
        return data

    dataset = Tiny(tmp_path, mirror=folder, transform=transform)
    assert dataset[0].count == dataset[0].count == 1
    other = Tiny(tmp_path, mirror=folder, pre_transform=EncodeText(source='label', modality='name'))
    assert other.modalities == ['name', 'numeric', 'text']
    assert Tiny(tmp_path, mirror=folder).modalities == ['numeric', 'text']  # Another cache.
    assert len(files_below(tmp_path / 'tiny' / 'processed')) == 2


def test_anonymous_pre_transform_is_not_cached(tmp_path, folder):
    for value in (1, 2):
        def mark(data, value=value):
            data.mark = value
            return data

        assert Tiny(tmp_path, mirror=folder, pre_transform=mark)[0].mark == value
    assert files_below(tmp_path / 'tiny') == sorted(f'raw/{name}' for name in CONTENT)


def test_pre_transform_without_result(tmp_path, folder):
    with pytest.raises(ValueError, match="'pre_transform' needs to return the graph .got NoneType"):
        Tiny(tmp_path, mirror=folder, pre_transform=lambda data: None)


def test_root_and_mirror_from_the_environment(tmp_path, folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('PYG_MMKGC_MIRROR', str(folder))
    Tiny(features=None)
    assert (tmp_path / 'datasets' / 'tiny' / 'raw' / 'train2id.txt').exists()
    monkeypatch.setenv('PYG_MMKGC_ROOT', str(tmp_path / 'elsewhere'))
    Tiny(features=None)
    assert (tmp_path / 'elsewhere' / 'tiny' / 'raw' / 'train2id.txt').exists()
    Tiny(tmp_path / 'argument', features=None)
    assert (tmp_path / 'argument' / 'tiny' / 'raw' / 'train2id.txt').exists()


# Caches ##########################################################################################


def test_cache_equals_the_first_build(tmp_path, folder, monkeypatch):
    first = Tiny(tmp_path, mirror=folder)[0]
    monkeypatch.setattr(Tiny, 'process', lambda self: pytest.fail('built again'))
    # The cache needs neither a mirror nor raw files.
    for path in (tmp_path / 'tiny' / 'raw').iterdir():
        path.unlink()
    assert_same(first, Tiny(tmp_path)[0])
    assert files_below(tmp_path / 'tiny') == ['processed/v1-official-labels-hash.safetensors']


@pytest.mark.parametrize('content', [b'', b'nonsense', 'half'])
def test_damaged_cache_is_built_again(tmp_path, folder, content, caplog):
    first = Tiny(tmp_path, mirror=folder)[0]
    path = tmp_path / 'tiny' / 'processed' / 'v1-official-labels-hash.safetensors'
    whole = path.read_bytes()
    path.write_bytes(whole[:len(whole) // 2] if content == 'half' else content)
    assert_same(first, Tiny(tmp_path)[0])
    assert 'is damaged' in caplog.text
    assert path.read_bytes() == whole


def test_force_reload(tmp_path, folder):
    Tiny(tmp_path, mirror=folder)
    path = tmp_path / 'tiny' / 'processed' / 'v1-official-labels-hash.safetensors'
    before = path.stat().st_ino
    Tiny(tmp_path)
    assert path.stat().st_ino == before
    Tiny(tmp_path, force_reload=True)
    assert path.stat().st_ino != before


def test_failed_build_leaves_no_cache(tmp_path, folder):
    def interrupt(data):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Tiny(tmp_path, mirror=folder, pre_transform=interrupt)
    assert not (tmp_path / 'tiny' / 'processed').exists()


def test_optional_file_that_turns_up_later(tmp_path, folder, caplog):
    text = folder / 'T-1' / 'descriptions.tsv'
    text.rename(tmp_path / 'away')
    with caplog.at_level(logging.INFO):
        assert 'description' not in Tiny(tmp_path, mirror=folder)[0]['entity']
    assert "no file 'descriptions.tsv' (joined by hand), so what it tells is left" in caplog.text
    (tmp_path / 'away').rename(text)
    assert 'description' in Tiny(tmp_path, mirror=folder)[0]['entity']
    assert 'description' in Tiny(tmp_path)[0]['entity']


def _build(root, mirror, results):
    torch.set_num_threads(1)  # A fork has no thread pool; waiting for it would never end.
    data = Tiny(root, mirror=mirror)[0]
    results.put(float(data['entity'].text.sum()))


def test_concurrent_builds(tmp_path, folder):
    context = multiprocessing.get_context('fork')
    results = context.Queue()
    builders = [context.Process(target=_build, args=(tmp_path, folder, results), daemon=True)
                for _ in range(4)]
    for builder in builders:
        builder.start()
    sums = [results.get(timeout=60) for _ in builders]
    for builder in builders:
        builder.join()
    assert [builder.exitcode for builder in builders] == [0] * 4
    assert len(set(sums)) == 1
    assert len(files_below(tmp_path / 'tiny')) == len(CONTENT) + 1  # No temporary file.
    load_data(tmp_path / 'tiny' / 'processed' / 'v1-official-labels-hash.safetensors')


def test_save_and_load_of_the_base(tmp_path):
    data = HeteroData()
    data['entity'].x = torch.ones(2, 3)
    GraphDataset.save([data], tmp_path / 'x')
    dataset = GraphDataset()
    dataset.load(tmp_path / 'x')
    assert torch.equal(dataset[0]['entity'].x, data['entity'].x)
    assert len(dataset) == 1


# Raw files #######################################################################################


def test_mirror_without_a_file(tmp_path, folder):
    (folder / 'T-1' / 'test2id.txt').unlink()
    with pytest.raises(FileNotFoundError, match="The mirror '.*' of T-1 has no file 'T-1/test2id"):
        Tiny(tmp_path, mirror=folder)


def test_mirror_with_another_file(tmp_path, folder):
    (folder / 'T-1' / 'train2id.txt').write_text('1\n0 1 0\n')
    with pytest.raises(ValueError, match=r"mirror/T-1/train2id.txt' is not the published file"):
        Tiny(tmp_path, mirror=folder)
    assert 'raw/train2id.txt' not in files_below(tmp_path / 'tiny')


def test_damaged_raw_file(tmp_path, folder):
    Tiny(tmp_path, mirror=folder, features=None)
    path = tmp_path / 'tiny' / 'raw' / 'train2id.txt'
    path.write_text(CONTENT['train2id.txt'][:-8])
    with pytest.raises(ValueError, match=r"raw/train2id.txt' is not the .* delete it to fetch"):
        Tiny(tmp_path, mirror=folder)
    path.unlink()
    Tiny(tmp_path, mirror=folder)


def test_raw_files_by_hand(tmp_path, folder):
    (tmp_path / 'tiny').mkdir()
    (folder / 'T-1').rename(tmp_path / 'tiny' / 'raw')
    assert Tiny(tmp_path).modalities == ['numeric', 'text']


def test_mirror_over_http(tmp_path, folder, server):
    first = Tiny(tmp_path / 'a', mirror=folder)[0]
    assert_same(first, Tiny(tmp_path / 'b', mirror=f'{server.address}/')[0])
    assert sorted(server.paths) == sorted(f'/T-1/{name}' for name in CONTENT)
    server.paths.clear()
    Tiny(tmp_path / 'b', mirror=server.address)
    assert server.paths == []


def test_optional_file_missing_over_http(tmp_path, folder, server):
    (folder / 'T-1' / 'numbers.txt').unlink()
    assert Tiny(tmp_path, mirror=server.address).modalities == ['text']
    server.paths.clear()
    Tiny(tmp_path, mirror=server.address, features=None)
    assert server.paths == []  # Not asked for again and again.


def test_download_from_the_original(tmp_path, folder, server, monkeypatch):
    assert Tiny.files[0].url == ('https://raw.githubusercontent.com/who/what/c0ffee/'
                                 'data/entity2id.txt')
    monkeypatch.setattr(RawFile, 'url', property(lambda self: f'{server.address}/T-1/{self.name}'))
    assert Tiny(tmp_path).modalities == ['text']  # Derived files cannot be had.
    assert sorted(server.paths) == sorted(f'/T-1/{n}' for n in CONTENT if n not in DERIVED)


def test_failed_download(tmp_path, folder, server):
    (folder / 'T-1' / 'test2id.txt').unlink()
    with pytest.raises(ConnectionError, match=r"T-1/test2id.txt' could not be downloaded .*404.*"
                       r'By hand: save it as .*raw/test2id.txt. .SHA-256 [0-9a-f]{64}., or name a '
                       r"folder that holds 'T-1/test2id.txt' by mirror= or PYG_MMKGC_MIRROR"):
        Tiny(tmp_path, mirror=server.address)
    assert not any('test2id' in name for name in files_below(tmp_path / 'tiny'))


def test_download_that_breaks_off(tmp_path, folder, server):
    server.cut.add('/T-1/train2id.txt')
    with pytest.raises((ConnectionError, ValueError), match='train2id.txt'):
        Tiny(tmp_path, mirror=server.address)
    assert not any('train2id' in name for name in files_below(tmp_path / 'tiny'))
    server.cut.clear()
    server.paths.clear()
    Tiny(tmp_path, mirror=server.address, features=None)
    assert '/T-1/entity2id.txt' not in server.paths  # What was there is kept.


def test_no_server(tmp_path):
    with pytest.raises(ConnectionError, match='could not be downloaded'):
        Tiny(tmp_path, mirror='http://127.0.0.1:9')


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_no_permission(tmp_path, folder):
    (tmp_path / 'root').mkdir(mode=0o555)
    with pytest.raises(PermissionError):
        Tiny(tmp_path / 'root', mirror=folder)


def test_root_is_a_file(tmp_path, folder):
    (tmp_path / 'root').write_text('')
    with pytest.raises(OSError, match='root'):
        Tiny(tmp_path / 'root', mirror=folder)
