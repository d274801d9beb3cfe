import functools
import hashlib
import http.server
import logging
import multiprocessing
import os
import signal
import threading
import warnings
from pathlib import Path

import pytest
import torch
from torch_geometric.data import HeteroData

from pyg_mmkgc.data import EDGE, get_triples, io, is_spent
from pyg_mmkgc.data.io import load_data
from pyg_mmkgc.datasets import GraphDataset, MMKGDataset, RawFile
from pyg_mmkgc.transforms import EncodeNumeric, EncodeText

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
    """The mirror folder over HTTP; `paths` and `ranges` record what was asked for, answers to
    `cut` break off half-way, and without `continues` a range is ignored."""
    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            httpd.paths.append(self.path)
            asked = self.headers.get('Range')
            if self.path not in httpd.cut and asked is None:
                super().do_GET()
                return
            content = (folder / self.path[1:]).read_bytes()
            start = int(asked.removeprefix('bytes=').removesuffix('-')) if asked else 0
            httpd.ranges.append(start)
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if start and httpd.continues else 200)
            body = content[start:] if httpd.continues else content
            self.send_header('Content-Length', str(len(body)))
            self.end_headers()
            # A connection that breaks off half-way.
            self.wfile.write(body[:len(body) // 2] if self.path in httpd.cut else body)

        def log_message(self, *args):
            pass

    handler = functools.partial(Handler, directory=str(folder))
    httpd = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    httpd.paths, httpd.ranges, httpd.cut, httpd.continues = [], [], set(), True
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
    assert data['entity'].description_text == ['the first', None, None, None, 'the last']
    assert data.feature_sources == {'text': "label and description_text, encoded by 'hash'",
                                    'numeric': "'numbers.txt'"}
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
        'v2-official-labels-hash-joined.safetensors', 'v2-official-none.safetensors']


class Plain(Tiny):
    """Neither descriptions nor literals."""
    name = 'T-1'
    files = tuple(file for file in Tiny.files if not file.optional)
    numeric_file = None


@pytest.mark.parametrize('cls,kwargs,match', [
    (Tiny, {'splits': 'best'}, r"Unknown splits 'best' of T-1 \(expected one of \['official', 'cl"),
    (Tiny, {'features': 'x'}, r"Unknown features 'x' of T-1 \(expected one of \['auto', 'released"),
    (Tiny, {'encoder': 'x'}, r"Unknown encoder 'x' of T-1 \(expected a callable or one of \['h"),
    (Tiny, {'description': 'x'}, r"Unknown description 'x' of T-1 \(expected one of \['joined', "),
    (Plain, {'description': 'modality'}, r"T-1 has no descriptions, so 'description' needs to be"),
    (Plain, {'numeric': EncodeNumeric()}, r"T-1 has no numeric literals, so 'numeric' needs to be"),
    (Tiny, {'numeric': EncodeNumeric(fit_mask=torch.ones(5, dtype=torch.bool))},
     "'numeric' needs to have no 'fit_mask'"),
    (Tiny, {'numeric': EncodeNumeric(modality='text')}, "'numeric' needs a modality of its own"),
])
def test_unknown_options(tmp_path, cls, kwargs, match):
    with pytest.raises(ValueError, match=match):
        cls(tmp_path, **kwargs)
    assert files_below(tmp_path) == []


def test_description_as_a_modality(tmp_path, folder):
    store = Tiny(tmp_path, mirror=folder, description='modality')[0]['entity']
    assert store.description_mask.tolist() == [True, False, False, False, True]
    assert bool((store.description[1:4] == 0).all())
    assert float(store.description[0].norm()) == pytest.approx(1)
    other = HeteroData()
    other['entity'].num_nodes, other['entity'].label = 5, store.label
    assert torch.equal(store.text, EncodeText()(other)['entity'].text)


@pytest.mark.parametrize('name,kwargs', [('descriptions.tsv', {'description': 'modality'}),
                                         ('numbers.txt', {'numeric': EncodeNumeric()})])
def test_option_that_needs_a_missing_file(tmp_path, folder, name, kwargs):
    (folder / 'T-1' / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"of T-1 needs the file '{name}' .joined by hand"):
        Tiny(tmp_path, mirror=folder, **kwargs)
    assert not (tmp_path / 'tiny' / 'processed').exists()


def test_numeric_options(tmp_path, folder):
    numeric = EncodeNumeric(scaling='standard', num_frequencies=1, modality='height')
    dataset = Tiny(tmp_path, mirror=folder, numeric=numeric)
    assert dataset.modalities == ['height', 'text']
    # Of 1 and 2, the only known values in training, mean and deviation are 1.5 and 0.5.
    scaled = torch.tensor([-1.0, 0.0, 1.0, 0.0, 15.0])
    present = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])
    expected = torch.stack([scaled, (scaled * torch.pi / 2).sin() * present,
                            (scaled * torch.pi / 2).cos() * present, present], dim=1)
    torch.testing.assert_close(dataset[0]['entity'].height, expected, rtol=0, atol=1e-5)


class Letters:
    """A text encoder that counts some letters."""
    def __init__(self, letters):
        self.letters = letters

    def __call__(self, texts):
        return torch.tensor([[float(text.count(x)) for x in self.letters] for text in texts])


def test_encoder_of_ones_own(tmp_path, folder):
    first = Tiny(tmp_path, mirror=folder, encoder=Letters('ab'))
    assert first[0]['entity'].text[0].tolist() == [1, 0]  # 'a: the first'
    assert first[0].feature_sources['text'].endswith("encoded by 'Letters'")
    assert Tiny(tmp_path, mirror=folder, encoder=Letters('abc'))[0]['entity'].text.shape == (5, 3)
    names = files_below(tmp_path / 'tiny' / 'processed')
    assert len(names) == 2
    assert Tiny(tmp_path, mirror=folder, encoder=Letters('ab'))[0]['entity'].text.shape == (5, 2)
    assert files_below(tmp_path / 'tiny' / 'processed') == names
    Tiny(tmp_path, mirror=folder, encoder=lambda texts: torch.ones(len(texts), 2))
    assert files_below(tmp_path / 'tiny' / 'processed') == names  # A function is not cached.


class Keyed:
    """An encoder that says itself what it is."""
    def __init__(self, value, note=None):
        self.cache_key, self.value, self.note = f'keyed {value}', value, note

    def __call__(self, texts):
        return torch.full((len(texts), 2), float(self.value))


def test_encoder_with_a_cache_key(tmp_path, folder):
    for value in (1, 2, 1):
        encoder = Keyed(value, note=object)
        assert Tiny(tmp_path, mirror=folder, encoder=encoder)[0]['entity'].text[0, 0] == value
    assert len(files_below(tmp_path / 'tiny' / 'processed')) == 2


def test_encoder_from_hugging_face(tmp_path, folder, monkeypatch):
    made = []
    monkeypatch.setattr('pyg_mmkgc.transforms.encode_text.HuggingFaceTextEncoder',
                        lambda name: made.append(name) or Letters('ab'))
    for name in ['who/what', 'who/else', 'who/what']:
        Tiny(tmp_path, mirror=folder, encoder=f'hf:{name}')
    assert made == ['who/what', 'who/else']
    model = tmp_path / 'model'
    model.mkdir()
    for content in ['one', 'three', 'three']:
        (model / 'weights').write_text(content)
        os.utime(model / 'weights', ns=(0, 1))
        Tiny(tmp_path, mirror=folder, encoder=f'hf:{model}')
    assert made[2:] == [str(model)] * 2  # The same folder with other files is another encoder.


class Unread(Tiny):
    unread_by = ('hash', )


def test_encoder_that_does_not_read_the_labels(tmp_path, folder):
    with pytest.warns(UserWarning, match="T-1: the encoder 'hash' does not read the language of "):
        Unread(tmp_path, mirror=folder)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        Unread(tmp_path, mirror=folder, features=None)
        Unread(tmp_path, mirror=folder, encoder=Letters('a'))


# Splits ##########################################################################################


class Leaky(MMKGDataset):
    """Validation is half new, test mostly in train."""
    name = 'T-1'
    _content = CONTENT | {
        'train2id.txt': '6\n0 1 0\n1 2 0\n2 3 1\n3 3 1\n4 0 1\n0 1 0\n',
        'valid2id.txt': '3\n0 1 0\n0 1 0\n2 1 1\n',
        'test2id.txt': '3\n1 2 0\n2 3 1\n0 4 1\n',
    }
    files = tuple(RawFile(name, hashlib.sha256(content.encode()).hexdigest(), 'a/b', 'c', name)
                  for name, content in _content.items() if name.endswith('id.txt'))


@pytest.fixture
def leaky(folder):
    for name in ['train2id.txt', 'valid2id.txt', 'test2id.txt']:
        (folder / 'T-1' / name).write_text(Leaky._content[name])
    return folder


def test_spent_splits(tmp_path, leaky):
    # One of two distinct triples in train is no more than half; two of three are.
    data = Leaky(tmp_path, mirror=leaky, features=None)[0]
    assert [is_spent(data, split) for split in ('val', 'test')] == [False, True]


def test_clean_splits(tmp_path, leaky):
    data = Leaky(tmp_path, mirror=leaky, features=None, splits='clean')[0]
    found = {split: sorted(zip(*(part.tolist() for part in get_triples(data, split)), strict=True))
             for split in ['train', 'val', 'test']}
    # Test stays; train loses what stands there, validation what stands in train.
    assert found == {'train': [(0, 0, 1), (3, 1, 3), (4, 1, 0)], 'val': [(2, 1, 1)],
                     'test': [(0, 1, 4), (1, 0, 2), (2, 1, 3)]}
    assert not any(is_spent(data, split) for split in ('val', 'test'))
    assert files_below(tmp_path / 'leaky' / 'processed') == ['v2-clean-none.safetensors']


def test_numbers_are_scaled_by_clean_train(tmp_path, folder):
    # Clean, train loses what stands in test, and with it the entity `y/b`, whose number is 2.
    (folder / 'T-1' / 'test2id.txt').write_text('2\n1 2 0\n2 3 1\n')
    (folder / 'T-1' / 'valid2id.txt').write_text('1\n0 3 1\n')

    class Other(Tiny):
        files = tuple(
            RawFile(file.name, hashlib.sha256((folder / 'T-1' / file.name).read_bytes())
                    .hexdigest(), 'a/b', 'c', file.name, file.derived) for file in Tiny.files)

    official = Other(tmp_path, mirror=folder)[0]['entity'].numeric
    clean = Other(tmp_path, mirror=folder, splits='clean')[0]['entity'].numeric
    assert official[:3, 0].tolist() == [-0.5, 0, 0.5]
    assert clean[:3, 0].tolist() == [0, 0, 0]  # One number is known, and all are at its level.


# Released features ###############################################################################


def save_released(path, seed=0, channels=20):
    x = torch.randn(5, channels, generator=torch.Generator().manual_seed(seed))
    x[3] = 0
    torch.save(x, path)
    return x


def test_released(tmp_path, folder):
    x = save_released(folder / 'T-1' / 'T-1-visual.pth')
    dataset = Tiny(tmp_path, mirror=folder, features='released')
    assert dataset.modalities == ['image']
    assert torch.equal(dataset[0]['entity'].image, x)
    assert dataset[0]['entity'].image_mask.tolist() == [True, True, True, False, True]
    assert dataset[0].feature_sources == {'image': "'T-1-visual.pth' (1 rows masked as fill)"}
    unmasked = Tiny(tmp_path, mirror=folder, features='released', mask_fill=False)[0]
    assert bool(unmasked['entity'].image_mask.all())
    assert unmasked.feature_sources == {'image': "'T-1-visual.pth'"}
    assert files_below(tmp_path / 'tiny' / 'processed') == [
        'v2-official-released-filled.safetensors', 'v2-official-released.safetensors']


def test_auto_takes_what_is_released(tmp_path, folder, caplog):
    raw = tmp_path / 'tiny' / 'raw'
    raw.mkdir(parents=True)
    x = save_released(raw / 'text_features.pth')
    save_released(folder / 'T-1' / 'T-1-textual.pth', seed=1)  # The raw folder wins.
    with caplog.at_level(logging.INFO):
        dataset = Tiny(tmp_path, mirror=folder)
    assert dataset.features == 'auto'
    assert torch.equal(dataset[0]['entity'].text, x)
    assert dataset.modalities == ['numeric', 'text']
    assert "T-1: modality 'text' from 'text_features.pth' (1 rows masked as fill)" in caplog.text
    assert "T-1: modality 'numeric' from 'numbers.txt'" in caplog.text
    assert Tiny(tmp_path, mirror=folder, features='labels')[0]['entity'].text.size(1) == 256
    (raw / 'text_features.pth').unlink()
    assert Tiny(tmp_path).features == 'labels'


def test_released_file_that_changes(tmp_path, folder):
    path = folder / 'T-1' / 'T-1-visual.pth'
    first = save_released(path)
    assert torch.equal(Tiny(tmp_path, mirror=folder)[0]['entity'].image, first)
    second = save_released(path, seed=1)
    os.utime(path, ns=(0, 1))
    assert torch.equal(Tiny(tmp_path, mirror=folder)[0]['entity'].image, second)
    save_released(folder / 'T-1' / 'T-1-audio.pth')
    assert 'audio' in Tiny(tmp_path, mirror=folder).modalities
    # What is built needs its files no longer.
    cached = Tiny(tmp_path, mirror=folder, features='released').modalities
    for name in ['T-1-visual.pth', 'T-1-audio.pth']:
        (folder / 'T-1' / name).unlink()
    assert Tiny(tmp_path, mirror=folder, features='released').modalities == cached


def test_nothing_released(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match=r"no released feature file of T-1 in '.*raw' or .*"
                       r"'T-1-visual.pth'.*By hand: get them from https://github.com/zjukg/NATIVE"):
        Tiny(tmp_path, mirror=folder, features='released')
    assert not (tmp_path / 'tiny' / 'processed').exists()


def test_released_file_of_another_dataset(tmp_path, folder):
    torch.save(torch.ones(6, 20), folder / 'T-1' / 'T-1-visual.pth')
    with pytest.raises(ValueError, match='T-1-visual.pth: expected one row for each of 5 entit'):
        Tiny(tmp_path, mirror=folder)


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


class Scale:
    def __init__(self, factor, rest=None):
        self.factor, self.rest = factor, rest

    def __call__(self, data):
        data['entity'].text = data['entity'].text * self.factor
        return data

    def __repr__(self):
        return 'Scale()'  # Says too little.


@pytest.mark.parametrize('rest,cached', [
    (None, True), ({'a': [1, 2.0]}, True), (torch.ones(2), True), (EncodeText(), True),
    (len, False), (Scale, False), (functools.partial(int, base=2), False), (object(), True),
    (torch.Generator(), False), ({1, 2}, False),
])
def test_transform_is_known_by_its_content(tmp_path, folder, rest, cached):
    base = Tiny(tmp_path, mirror=folder)[0]['entity'].text
    for factor in (2, 3, 2):
        out = Tiny(tmp_path, mirror=folder, pre_transform=Scale(factor, rest))[0]['entity'].text
        assert torch.equal(out, base * factor)
    assert len(files_below(tmp_path / 'tiny' / 'processed')) == (3 if cached else 1)


def test_transform_that_holds_itself(tmp_path, folder):
    scale = Scale(2)
    scale.rest = scale
    Tiny(tmp_path, mirror=folder, pre_transform=scale)
    assert not (tmp_path / 'tiny' / 'processed').exists()


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
    assert files_below(tmp_path / 'tiny') == [
        'processed/v2-official-labels-hash-joined.safetensors']


@pytest.mark.parametrize('content', [b'', b'nonsense', 'half'])
def test_damaged_cache_is_built_again(tmp_path, folder, content, caplog):
    first = Tiny(tmp_path, mirror=folder)[0]
    path = tmp_path / 'tiny' / 'processed' / 'v2-official-labels-hash-joined.safetensors'
    whole = path.read_bytes()
    path.write_bytes(whole[:len(whole) // 2] if content == 'half' else content)
    assert_same(first, Tiny(tmp_path)[0])
    assert 'is damaged' in caplog.text
    assert path.read_bytes() == whole


def test_force_reload(tmp_path, folder):
    Tiny(tmp_path, mirror=folder)
    path = tmp_path / 'tiny' / 'processed' / 'v2-official-labels-hash-joined.safetensors'
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


def _die_while_writing(root, mirror):
    torch.set_num_threads(1)

    def write_half(tensors, path, metadata):
        Path(path).write_bytes(b'half')
        os.kill(os.getpid(), signal.SIGKILL)

    io.save_file = write_half  # In this process only.
    Tiny(root, mirror=mirror)


def test_killed_build_leaves_no_cache(tmp_path, folder):
    builder = multiprocessing.get_context('fork').Process(target=_die_while_writing,
                                                          args=(tmp_path, folder))
    builder.start()
    builder.join(timeout=60)
    assert builder.exitcode == -signal.SIGKILL
    path = tmp_path / 'tiny' / 'processed' / 'v2-official-labels-hash-joined.safetensors'
    assert not path.exists()
    first = Tiny(tmp_path, mirror=folder)[0]
    assert_same(first, load_data(path))


def test_optional_file_that_turns_up_later(tmp_path, folder, caplog):
    text = folder / 'T-1' / 'descriptions.tsv'
    text.rename(tmp_path / 'away')
    with caplog.at_level(logging.INFO):
        assert 'description_text' not in Tiny(tmp_path, mirror=folder)[0]['entity']
    assert "no file 'descriptions.tsv' (joined by hand), so what it tells is left" in caplog.text
    (tmp_path / 'away').rename(text)
    assert 'description_text' in Tiny(tmp_path, mirror=folder)[0]['entity']
    assert 'description_text' in Tiny(tmp_path)[0]['entity']


def _build(root, mirror, results):
    torch.set_num_threads(1)  # A fork has no thread pool; waiting for it would never end.
    data = Tiny(root, mirror=mirror)[0]
    results.put(float(data['entity'].text.sum()))


@pytest.mark.parametrize('over_http', [False, True])
def test_concurrent_builds(tmp_path, folder, server, over_http):
    context = multiprocessing.get_context('fork')
    results = context.Queue()
    mirror = server.address if over_http else folder
    builders = [context.Process(target=_build, args=(tmp_path, mirror, results), daemon=True)
                for _ in range(4)]
    for builder in builders:
        builder.start()
    sums = [results.get(timeout=60) for _ in builders]
    for builder in builders:
        builder.join()
    assert [builder.exitcode for builder in builders] == [0] * 4
    assert len(set(sums)) == 1
    assert len(files_below(tmp_path / 'tiny')) == len(CONTENT) + 1  # No temporary file.
    load_data(tmp_path / 'tiny' / 'processed' / 'v2-official-labels-hash-joined.safetensors')


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


@pytest.mark.parametrize('continues', [True, False])
def test_download_that_breaks_off(tmp_path, folder, server, continues):
    server.cut.add('/T-1/train2id.txt')
    server.continues = continues
    with pytest.raises(ConnectionError, match=r'train2id.txt.*it broke off after 13 of 26 bytes'):
        Tiny(tmp_path, mirror=server.address)
    # Nothing under the name of the file; what came waits for the next try.
    assert [n for n in files_below(tmp_path / 'tiny') if 'train' in n] == ['raw/.train2id.txt.part']
    assert (tmp_path / 'tiny/raw/.train2id.txt.part').read_text() == CONTENT['train2id.txt'][:13]
    server.cut.clear()
    server.paths.clear()
    Tiny(tmp_path, mirror=server.address, features=None)
    assert server.ranges == [0, 13]
    assert '/T-1/entity2id.txt' not in server.paths  # What was there is kept.
    assert (tmp_path / 'tiny/raw/train2id.txt').read_text() == CONTENT['train2id.txt']
    assert not any('part' in name for name in files_below(tmp_path / 'tiny'))


def test_part_of_another_file(tmp_path, server):
    part = tmp_path / 'tiny' / 'raw' / '.train2id.txt.part'
    part.parent.mkdir(parents=True)
    part.write_text('nonsense')
    with pytest.raises(ValueError, match=r"T-1/train2id.txt' is not the published file"):
        Tiny(tmp_path, mirror=server.address)
    assert not any('train' in name for name in files_below(tmp_path / 'tiny'))
    Tiny(tmp_path, mirror=server.address)


def test_part_that_is_whole(tmp_path, server):
    part = tmp_path / 'tiny' / 'raw' / '.train2id.txt.part'
    part.parent.mkdir(parents=True)
    part.write_text(CONTENT['train2id.txt'])
    Tiny(tmp_path, mirror=server.address)  # The server has no such range, so it starts anew.
    assert server.paths.count('/T-1/train2id.txt') == 2
    assert not part.exists()


def test_interrupted_download(tmp_path, server, monkeypatch):
    server.cut.add('/T-1/entity2id.txt')

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr('pyg_mmkgc.datasets.base.os.fsync', interrupt)
    with pytest.raises(KeyboardInterrupt):
        Tiny(tmp_path, mirror=server.address)
    assert files_below(tmp_path / 'tiny') == ['raw/.entity2id.txt.part']


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
