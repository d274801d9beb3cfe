"""Files that somebody wrote to do harm: nothing of them is run, nothing is written elsewhere, and
each ends in one clear error."""
import gzip
import json
import os
import pickle
import re
import shutil
import struct
import zipfile

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

import pyg_mmkgc.data.io as io
from pyg_mmkgc.cli import main
from pyg_mmkgc.data import memory_map, read_features
from pyg_mmkgc.data.io import load_data, save_data
from pyg_mmkgc.datasets import MMKGFolder, OGBWikiKG2
from pyg_mmkgc.datasets.folder import init_folder
from pyg_mmkgc.datasets.released import read_released
from pyg_mmkgc.nn import ComplEx, KGModel
from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.training import Recipe, load_recipe, load_run, resume_run, train_run
from pyg_mmkgc.training.checkpoint import DamagedCheckpoint, load_state


class Evil:
    """Writes a file as soon as it is unpickled."""
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f'touch {self.marker}', )


@pytest.fixture
def evil(tmp_path):
    """What does harm if it is unpickled or resolved; afterwards, whether it did."""
    marker = tmp_path / 'pwned'
    payload = Evil(marker)
    os.system(f'touch {marker}.control')  # The weapon is loaded:
    assert (tmp_path / 'pwned.control').exists()
    (tmp_path / 'pwned.control').unlink()
    yield payload
    assert not marker.exists()


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = write_folder(tmp_path_factory.mktemp('data') / 'graph')
    return train_run(folder, 'complex', epochs=1, device='cpu', out=folder.parent / 'run',
                     overrides={'model.hidden_channels': 4})


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained.path, tmp_path / 'run')


@pytest.fixture
def pretrained(tmp_path):
    data = FakeMMKG()[0]
    ComplEx.from_data(data, hidden_channels=4).save_pretrained(tmp_path / 'model')
    return tmp_path / 'model'


def write_folder(path, **files):
    path.mkdir(parents=True)
    (path / 'train.tsv').write_text('a\tr\tb\nb\tr\tc\nc\tr\ta\n')
    for split in ('val', 'test'):
        (path / f'{split}.tsv').write_text('a\tr\tc\n')
    (path / 'entities.txt').write_text('a\nb\nc\n')
    for name, text in files.items():
        (path / name.replace('__', '.')).write_text(text)
    return path


def snapshot(folder):
    """Every file below a folder with its content."""
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob('*')) if path.is_file()}


def check(function, *arguments, error=ValueError, match):
    with pytest.raises(error, match=match) as caught:
        function(*arguments)
    assert caught.type in (ValueError, FileNotFoundError, DamagedCheckpoint)
    return str(caught.value)


# Pickles


@pytest.mark.parametrize('protocol', [0, 2, 5])
@pytest.mark.parametrize('writer', ['pickle', 'torch', 'numpy'])
def test_pickles_where_tensors_are_expected(evil, tmp_path, run, pretrained, writer, protocol):
    def put(path):
        path.unlink(missing_ok=True)
        with open(path, 'wb') as f:
            if writer == 'torch':
                torch.save({'weight': evil}, f, pickle_protocol=protocol)
            elif writer == 'numpy':
                np.save(f, np.array([evil], dtype=object), allow_pickle=True)
            else:
                pickle.dump(evil, f, protocol)

    put(run / 'model.safetensors')
    check(load_run, run, match=r"model.safetensors' is damaged or no safetensors file")
    for name in ('model.safetensors', 'graph.safetensors'):
        good = (pretrained / name).read_bytes()
        put(pretrained / name)
        check(KGModel.from_pretrained, pretrained, match=f"{name}' is damaged or no safetensors")
        (pretrained / name).write_bytes(good)
    put(tmp_path / 'data.safetensors')
    check(load_data, tmp_path / 'data.safetensors', match="data.safetensors' is damaged or no")
    check(load_state, tmp_path / 'data.safetensors', match="data.safetensors' is damaged or no")
    check(memory_map, tmp_path / 'data.safetensors', match='data.safetensors')

    for suffix in ('npy', 'npz', 'safetensors'):
        folder = write_folder(tmp_path / suffix)
        put(folder / f'image.{suffix}')
        check(MMKGFolder, folder,
              match=rf'image.{suffix}: (damaged or no|modality name .* is not usable)')
    put(tmp_path / 'x.npy')
    check(memory_map, tmp_path / 'x.npy', match=r'x.npy')
    put(tmp_path / 'x.npz')
    check(read_features, tmp_path / 'x.npz', match=r'x.npz: damaged or no npz archive')
    put(tmp_path / 'X-visual.pth')
    check(read_released, tmp_path / 'X-visual.pth', 3,
          match=r'X-visual.pth: (expected a tensor|damaged)')


def test_pickles_in_archives(evil, tmp_path):
    np.savez(tmp_path / 'x.npz', image=np.array([evil], dtype=object), allow_pickle=True)
    check(read_features, tmp_path / 'x.npz', match=r'x.npz: damaged or no npz archive .*'
                                                   r'allow_pickle=False')
    folder = write_folder(tmp_path / 'graph')
    shutil.copy(tmp_path / 'x.npz', folder / 'image.npz')
    check(MMKGFolder, folder, match=r'image.npz: damaged or no array of numbers .*allow_pickle')


def test_pickles_in_splits_of_ogb(evil, tmp_path):
    folder = tmp_path / 'ogbl_wikikg2'
    (folder / 'split' / 'time').mkdir(parents=True)
    for split in ('train', 'valid', 'test'):
        torch.save({'head': evil}, folder / 'split' / 'time' / f'{split}.pt')
    (folder / 'raw').mkdir()
    with gzip.open(folder / 'raw' / 'num-node-list.csv.gz', 'wt') as f:
        f.write('3\n')
    check(OGBWikiKG2, str(tmp_path), match=r'\.pt: refused, since it is damaged or holds more')


def test_pickles_where_a_run_goes_on(evil, run):
    (run / 'metrics.json').unlink()
    folder = run / 'checkpoints' / 'model'
    folder.mkdir(parents=True)
    (folder / '1.safetensors').write_bytes(pickle.dumps(evil))
    before = set(snapshot(run.parent))
    resume_run(run)  # It is passed over, as what a crash has left is.
    assert all(name.startswith('run/') for name in set(snapshot(run.parent)) - before)


# YAML


TAGS = [
    "!!python/object/apply:os.system ['touch {marker}']",
    "!!python/object/new:os.system ['touch {marker}']",
    '!!python/name:os.system',
    '!!python/module:os',
    "!!python/object/apply:subprocess.check_output [['touch', '{marker}']]",
    '!include /etc/passwd',
]


@pytest.mark.parametrize('tag', TAGS)
def test_tags(evil, tmp_path, run, tag):
    tag = tag.format(marker=evil.marker)
    path = tmp_path / 'x.yaml'
    for text in (tag, f'model: {tag}', f'model: {{name: {tag} }}', f'dataset: {tag}\nmodel: null'):
        path.write_text(text)
        check(Recipe.from_file, path, match=r"x.yaml': malformed YAML .*could not determine a "
                                            r'constructor')
        check(load_recipe, str(path), match="x.yaml': malformed YAML")
        folder = write_folder(tmp_path / 'graph', dataset__yaml=text)
        check(MMKGFolder, folder, match=r'dataset.yaml:\d+: malformed YAML')
        shutil.rmtree(folder)
        (run / 'config.yaml').write_text(text)
        check(load_run, run, match="config.yaml' is damaged .*malformed YAML")
        check(resume_run, run, match="config.yaml' is damaged .*malformed YAML")
    message = check(lambda: load_recipe('complex').override([f'train.lr={tag}']),
                    match="the value of 'train.lr' is malformed YAML")
    assert '\n' not in message


def test_aliases_that_grow_without_end(tmp_path, run):
    # A billion laughs: each line is ten of the one before.
    lines = ['a0: &a0 [x]', *(f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 10)}]'
                              for i in range(1, 10))]
    path = tmp_path / 'x.yaml'
    path.write_text('\n'.join(lines))
    check(Recipe.from_file, path, match="needs a mapping with 'model'")


# Paths


@pytest.mark.parametrize('name', ['../secret.tsv', '/etc/passwd', '../../etc/passwd',
                                  'a/../../secret.tsv', '..\\secret.tsv'])
@pytest.mark.parametrize('content', [
    'triples: "{}"', 'triples: {{train: "{}"}}', 'entities: "{}"', 'relations: "{}"',
    'attributes: ["{}"]', 'features: ["{}"]'])
def test_paths_of_a_configuration(tmp_path, name, content):
    (tmp_path / 'secret.tsv').write_text('password\tis\t123456\n')
    name = name.replace('\\', '\\\\')
    folder = write_folder(tmp_path / 'graph', dataset__yaml=content.format(name))
    before = snapshot(tmp_path)
    message = check(MMKGFolder, folder, match='needs to be a relative path that stays inside')
    assert '123456' not in message
    assert 'root:' not in message
    assert snapshot(tmp_path) == before


def test_path_of_a_picture(tmp_path):
    folder = write_folder(tmp_path / 'graph', texts__csv='name,image_path\na,../../x.png\n')
    check(MMKGFolder, folder, match=r"texts.csv: .*stays inside the folder \(got '../../x.png'\)")


def test_links_are_read_and_never_written_through(tmp_path):
    # A link is one that its owner made, say to a large file elsewhere; it is followed to read.
    precious = tmp_path / 'precious'
    precious.write_text('precious')
    folder = write_folder(tmp_path / 'graph')
    (folder / 'dataset.yaml').symlink_to(precious)
    with pytest.raises(FileExistsError, match='dataset.yaml'):
        init_folder(folder)
    (folder / 'dataset.yaml').unlink()

    link = tmp_path / 'link.safetensors'
    link.symlink_to(precious)
    save_data(FakeMMKG()[0], link)
    assert not link.is_symlink()
    assert load_data(link)['entity'].num_nodes == 40
    (tmp_path / 'folder').symlink_to(tmp_path / 'elsewhere')
    model = ComplEx.from_data(FakeMMKG()[0], hidden_channels=4)
    with pytest.raises(FileExistsError, match='is not overwritten'):
        model.save_pretrained(tmp_path / 'folder')
    assert not (tmp_path / 'elsewhere').exists()
    assert precious.read_text() == 'precious'


def test_names_in_archives_lead_nowhere(tmp_path):
    # Archives are read, never unpacked into files.
    folder = write_folder(tmp_path / 'graph')
    content = tmp_path / 'x.npy'
    np.save(content, np.ones((3, 2), dtype=np.float32))
    with zipfile.ZipFile(folder / 'x.npz', 'w') as archive:
        for name in ('../../outside.npy', '/tmp/outside.npy'):
            archive.write(content, name)
    before = snapshot(tmp_path)
    check(MMKGFolder, folder, match=r'modality name .* is not usable')
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize('splits', [['../../outside'], ['train', '/etc/passwd']])
def test_names_in_a_pretrained_folder(pretrained, splits):
    config = json.loads((pretrained / 'config.json').read_text())
    (pretrained / 'config.json').write_text(json.dumps({**config, 'splits': splits}))
    check(KGModel.from_pretrained, pretrained, match=r"graph.safetensors' is damaged \(it lacks")


@pytest.mark.parametrize('name', ['os.system', 'subprocess.Popen', '__class__', 'builtins.eval',
                                  'pyg_mmkgc.nn.ComplEx', 'object', 'Module'])
def test_classes_in_a_pretrained_folder(pretrained, name):
    config = json.loads((pretrained / 'config.json').read_text())
    (pretrained / 'config.json').write_text(json.dumps({**config, 'class': name}))
    check(KGModel.from_pretrained, pretrained,
          match=rf"config.json' is of class '{re.escape(name)}' \(expected one of")


# Sizes


def header(size, content=b''):
    return struct.pack('<Q', size) + content


@pytest.mark.parametrize('content', [
    header(2**63), header(2**40), header(100), header(2, b'{}') + b'x' * 10,
    header(0), header(8, b'[' * 8),
    header(75, b'{"x":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'),
    header(66, b'{"x":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'),
    header(60, b'{"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}     '),
], ids=range(9))
def test_headers_of_safetensors(tmp_path, run, pretrained, content):
    for path, read in [(run / 'model.safetensors', lambda: load_run(run)),
                       (pretrained / 'model.safetensors',
                        lambda: KGModel.from_pretrained(pretrained)),
                       (tmp_path / 'x.safetensors', lambda: load_data(tmp_path / 'x.safetensors'))]:
        path.write_bytes(content)
        check(read, match=f"{path.name}' (is damaged or no safetensors file|holds no|was not)")
    folder = write_folder(tmp_path / 'graph')
    (folder / 'image.safetensors').write_bytes(content)
    check(MMKGFolder, folder, match='image.safetensors')


@pytest.mark.parametrize('shape', ['(1099511627776, 1099511627776)', '(10000000000000,)',
                                   '(-1, 2)'])
def test_headers_of_arrays(tmp_path, shape):
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    text = text.ljust(117) + '\n'
    content = b'\x93NUMPY\x01\x00' + struct.pack('<H', len(text)) + text.encode()
    folder = write_folder(tmp_path / 'graph')
    (folder / 'image.npy').write_bytes(content)
    check(MMKGFolder, folder, match=r'image.npy: damaged or no array of numbers')
    check(memory_map, folder / 'image.npy', match='image.npy')
    with zipfile.ZipFile(tmp_path / 'x.npz', 'w') as archive:
        archive.writestr('image.npy', content)
    check(read_features, tmp_path / 'x.npz', match=r'x.npz: damaged or no npz archive')


def test_archives_that_unpack_to_more_than_memory(tmp_path, monkeypatch):
    bomb = tmp_path / 'image.npz'
    np.savez_compressed(bomb, image=np.zeros((3, 2**20), dtype=np.float32))
    assert bomb.stat().st_size < 2**15
    folder = write_folder(tmp_path / 'graph')
    shutil.copy(bomb, folder)
    assert MMKGFolder(folder)[0]['entity'].image.shape == (3, 2**20)
    monkeypatch.setattr(io, 'memory_size', lambda: 10 * 2**20)
    check(MMKGFolder, folder, match=r'image.npz: unpacks to 1258\d+ bytes \(expected no more')
    check(read_features, bomb, match=r'image.npz: unpacks to')


def test_memory_is_known():
    assert 2**28 < io.memory_size() < 2**63


def test_pictures_that_unpack_to_more_than_memory(tmp_path, monkeypatch):
    Image = pytest.importorskip('PIL.Image')
    from pyg_mmkgc.transforms.encode_image import read_image

    Image.new('RGB', (300, 300)).save(tmp_path / 'x.png')
    assert read_image(tmp_path / 'x.png').size == (300, 300)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
    check(read_image, tmp_path / 'x.png', match=r"x.png' is no image that can be read .*exceeds")


def test_depth(pretrained, tmp_path):
    (tmp_path / 'x.json').write_text('[' * 100_000)
    check(read_features, tmp_path / 'x.json', match='x.json: expected JSON')
    (tmp_path / 'x.yaml').write_text('[' * 100_000)
    check(load_recipe, str(tmp_path / 'x.yaml'), match="x.yaml': malformed YAML")
    (pretrained / 'labels.json').write_text('{"entities": ' + '[' * 100_000)
    check(KGModel.from_pretrained, pretrained, match="labels.json' is damaged or no JSON")


# The command line


def test_one_line_at_the_command_line(evil, tmp_path, run):
    (run / 'model.safetensors').write_bytes(pickle.dumps(evil))
    (tmp_path / 'x.yaml').write_text(TAGS[0].format(marker=evil.marker))
    for arguments in [['evaluate', run], ['export', run, '--out', tmp_path / 'out'],
                      ['neighbours', run, 'a'], ['train', '--recipe', tmp_path / 'x.yaml'],
                      ['train', '--set', f'train.lr={TAGS[0].format(marker=evil.marker)}']]:
        result = CliRunner().invoke(main, list(map(str, arguments)))
        assert result.exit_code == 2, result.output
        assert result.stderr.splitlines()[-1].startswith('Error: ')
        assert 'Traceback' not in result.output
    assert not (tmp_path / 'out').exists()


def test_nothing_that_we_write_is_a_pickle(run, pretrained):
    for path in [*run.iterdir(), *pretrained.iterdir()]:
        if path.suffix == '.safetensors':
            assert load_file(path)
        else:
            assert path.suffix in ('.json', '.jsonl', '.yaml', '.png', '.md')
