import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from pyg_mmkgc.data import EDGE
from pyg_mmkgc.datasets import MMKGFolder
from pyg_mmkgc.transforms import EncodeNumeric, EncodeText


@pytest.fixture
def folder(tmp_path):
    r"""Entities AC/DC, Ada, Bo L and tea."""
    for name, content in [('train.tsv', 'Ada\tknows\tBo L\nBo L\tlikes\ttea\nAda\thears\tAC/DC\n'),
                          ('val.tsv', 'Ada\tlikes\ttea\n'), ('test.tsv', 'Bo L\tknows\tAda\n')]:
        (tmp_path / name).write_text(content)
    return tmp_path


def load(folder):
    return MMKGFolder(folder)[0]['entity']


# Texts and numbers


def test_tables(folder):
    (folder / 'texts.csv').write_text('name,description,code\nAda,"Says ""hi""\nand goes",7\n'
                                      'tea,,\n')
    (folder / 'numbers.tsv').write_text('entity\tage\tmass\nBo L\t3.5\t\nAda\tNaN\t-1e3\n')
    (folder / 'attributes.csv').write_text('name,born,note\nAda,1815,x\nBo L,,3\n')
    data = MMKGFolder(folder)[0]
    store = data['entity']
    assert store.label == ['AC/DC', 'Ada', 'Bo L', 'tea']
    assert store.description == [None, 'Says "hi"\nand goes', None, None]
    assert store.code == [None, '7', None, None]  # Texts by the name of the file.
    assert store.note == [None, 'x', '3', None]
    assert store.numeric_attribute == ['born', 'age', 'mass']
    nan = float('nan')
    assert store.numeric_value.dtype == torch.float64
    np.testing.assert_array_equal(store.numeric_value, [
        [nan] * 3, [1815, nan, -1000], [nan, 3.5, nan], [nan] * 3])
    # Made by the transforms, from label and texts, and from numbers:
    expected = EncodeNumeric()(EncodeText(source=['label', 'note', 'description', 'code'])(
        data.clone()))['entity']
    assert torch.equal(store.text, expected.text)
    assert torch.equal(store.numeric, expected.numeric)
    assert store.numeric_mask.tolist() == [False, True, True, False]


def test_listing_with_readable_labels(folder):
    (folder / 'entities.csv').write_text('name,label,kind\ntea,Tea,drink\nAda,Ada,person\n'
                                         'Bo L,Ada,person\nAC/DC,,\n')
    (folder / 'relations.tsv').write_text('name\tlabel\nlikes\tis fond of\nknows\t\nhears\t\n')
    data = MMKGFolder(folder)[0]
    assert data['entity'].name == ['tea', 'Ada', 'Bo L', 'AC/DC']
    assert data['entity'].label == ['Tea', 'Ada (Ada)', 'Ada (Bo L)', 'AC/DC']
    assert data['entity'].kind == ['drink', 'person', 'person', None]
    assert data[EDGE].label == ['is fond of', 'knows', 'hears']
    assert data[EDGE].edge_index[0].tolist() == [1, 2, 1]


def test_parquet_has_types_of_its_own(folder):
    pq.write_table(pa.table({'name': ['Ada', 'tea'], 'n': [1, None], 't': ['1', '2']}),
                   folder / 'attributes.parquet')
    (folder / 'dataset.yaml').write_text('texts: [t]')
    store = load(folder)
    assert store.t == [None, '1', None, '2']
    assert store.numeric_attribute == ['n']


def test_descriptions(folder):
    (folder / 'descriptions.tsv').write_text('Ada\tA mathematician\n')
    assert load(folder).description == [None, 'A mathematician', None, None]
    (folder / 'texts.tsv').write_text('name\tdescription\nAda\tx\n')
    with pytest.raises(ValueError, match="descriptions.tsv: there is another column 'description'"):
        load(folder)


def test_rows_about_nobody(folder, caplog):
    (folder / 'texts.tsv').write_text('name\tdescription\nZoe\tx\nYan\ty\nAda\tz\n')
    assert load(folder).description == [None, 'z', None, None]
    assert "texts.tsv: 2 rows about none of the entities left out (first: 'Zoe')" in caplog.text


@pytest.mark.parametrize('files,match', [
    ({'numbers.tsv': 'name\tage\nAda\t1\n\nBo L\tx\n'},
     r"numbers.tsv:4: expected a finite number in column 'age' .got 'x'"),
    ({'texts.csv': 'name,age\nAda,x\n', 'dataset.yaml': 'numbers: [age]'},
     r"texts.csv:2: expected a finite number in column 'age'"),
    ({'texts.csv': 'name,age\nAda,x\n', 'dataset.yaml': 'numbers: [agee]'},
     r"dataset.yaml: 'numbers' names the column 'agee', which is in no table .got \['age'\]"),
    ({'texts.csv': 'name,a\nAda,x\n', 'numbers.csv': 'name,a\nAda,1\n'},
     r"numbers.csv: column 'a' stands in 'texts.csv', too"),
    ({'texts.csv': 'name,text\nAda,x\n'}, r"texts.csv: a column cannot be called 'text'"),
    ({'texts.csv': 'name,x_mask\nAda,x\n'}, r"texts.csv: a column cannot be called 'x_mask'"),
    ({'texts.csv': 'name,image_path\nAda,../x.png\n'},
     r"texts.csv: expected an absolute path or one that stays inside the folder .got '../x.png'"),
])
def test_bad_tables(folder, files, match):
    for name, content in files.items():
        (folder / name).write_text(content)
    with pytest.raises(ValueError, match=match):
        load(folder)


# Modalities


def test_labels_alone_are_encoded_on_request(folder):
    assert MMKGFolder(folder).modalities == []
    (folder / 'dataset.yaml').write_text('modalities: {text: {}}')
    assert MMKGFolder(folder).modalities == ['text']


def test_options_of_modalities(folder):
    (folder / 'texts.csv').write_text('name,description\nAda,x\n')
    (folder / 'numbers.csv').write_text('name,age\nAda,1\n')
    (folder / 'dataset.yaml').write_text(
        'modalities: {text: {encoder: null}, words: {kind: text, source: description}, '
        'numeric: {encoder: log}}')
    dataset = MMKGFolder(folder)
    assert dataset.modalities == ['numeric', 'words']
    assert dataset[0]['entity'].words_mask.tolist() == [False, True, False, False]
    (folder / 'dataset.yaml').write_text('modalities: {text: {encoder: hsah}}')
    with pytest.raises(ValueError, match="modality 'text': Unknown encoder 'hsah'"):
        load(folder)
    np.save(folder / 'text.npy', np.ones((1, 2)))
    (folder / 'text_index.txt').write_text('tea\n')
    (folder / 'dataset.yaml').write_text('modalities: {text: {encoder: hash}}')
    with pytest.raises(ValueError, match="dataset.yaml: modality 'text' has an encoder, but feat"):
        load(folder)
    (folder / 'dataset.yaml').unlink()
    assert load(folder).text_mask.tolist() == [False, False, False, True]


def test_files_by_name(folder, caplog, monkeypatch):
    for kind, names in [('images', ['Ada.PNG', 'AC%2FDC.jpg', 'Bo_L.webp', '.DS_Store', 'Zoe.png',
                                    'Ada.txt', 'Bo L.gif']), ('audio', ['3.wav'])]:
        (folder / kind).mkdir()
        for name in names:
            (folder / kind / name).write_bytes(b'')
    (folder / 'dataset.yaml').write_text(
        'modalities: {image: {encoder: null}, audio: {encoder: null}}')
    monkeypatch.chdir(folder)
    for path in (folder, '.'):
        store = load(path)
        found = folder / 'images'
        assert store.image_path == [str(found / name) if name else None for name in
                                    ('AC%2FDC.jpg', 'Ada.PNG', 'Bo L.gif', None)]
        assert store.audio_path == [None, None, None, str(folder / 'audio' / '3.wav')]
    assert ("images: 2 files match no entity or are of another kind (first: 'Ada.txt')"
            in caplog.text)
    assert "images: 1 files of entities that have one already are left out (first: 'Bo_L.webp')" \
        in caplog.text


def test_unicode_forms_of_file_names(tmp_path):
    for split in ('train', 'val', 'test'):
        (tmp_path / f'{split}.tsv').write_text('Am\u00e9lie\tr\tb\n')
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images' / 'Ame\u0301lie.png').write_bytes(b'')
    (tmp_path / 'dataset.yaml').write_text('modalities: {image: {encoder: null}}')
    assert load(tmp_path).image_path[0] is not None


def test_images_are_encoded(folder, monkeypatch):
    Image = pytest.importorskip('PIL.Image')
    (folder / 'images').mkdir()
    Image.new('RGB', (8, 8), 'red').save(folder / 'images' / 'Ada.png')
    (folder / 'texts.csv').write_text('name,photo_path\nAda,images/Ada.png\n')
    monkeypatch.setattr('pyg_mmkgc.transforms.encode_image.IMAGE_ENCODERS', {
        name: lambda: lambda images: torch.ones(len(images), 3)
        for name in ('efficientnet-lite0', 'other')})
    (folder / 'dataset.yaml').write_text('modalities: {photo: {kind: image, encoder: other}}')
    dataset = MMKGFolder(folder)
    assert dataset.modalities == ['image', 'photo']
    assert dataset[0]['entity'].image.tolist() == [[0] * 3, [1] * 3, [0] * 3, [0] * 3]
    (folder / 'images' / 'tea.png').write_bytes(b'no image')
    with pytest.raises(ValueError, match=r"modality 'image': .*tea.png"):
        MMKGFolder(folder)


def test_missing_image_extra(folder, monkeypatch):
    (folder / 'images').mkdir()
    (folder / 'images' / 'Ada.png').write_bytes(b'')
    monkeypatch.setitem(sys.modules, 'PIL', None)
    monkeypatch.setitem(sys.modules, 'efficientnet_lite_pytorch', None)
    with pytest.raises(ImportError, match=r'pyg-mmkgc\[image\]'):
        MMKGFolder(folder)


# Features


def test_features_with_an_index(folder):
    x = np.array([[1., 2.], [3., 4.]])
    np.save(folder / 'a.npy', x)
    np.save(folder / 'a_index.npy', np.array(['tea', 'Ada']))
    np.save(folder / 'a_mask.npy', np.array([True, False]))
    np.save(folder / 'b.npy', x.astype('>f4'))
    (folder / 'b_index.txt').write_text('Bo L\nAda\n')
    np.savez(folder / 'more.npz', c=x, c_index=np.array(['AC/DC', 'tea']), d=x[:, :1],
             d_index=np.array(['Ada', 'tea']))
    save_file({'e': torch.ones(1, 2)}, folder / 'more.safetensors')
    (folder / 'e_index.txt').write_text('tea\n')
    store = load(folder)
    assert store.a.tolist() == [[0, 0], [0, 0], [0, 0], [1, 2]]
    assert store.a_mask.tolist() == [False, False, False, True]
    assert store.b.tolist() == [[0, 0], [3, 4], [1, 2], [0, 0]]
    assert store.c.tolist() == [[1, 2], [0, 0], [0, 0], [3, 4]]
    assert store.d_mask.tolist() == [False, True, False, True]
    assert store.e_mask.tolist() == [False, False, False, True]
    np.save(folder / 'a_index.npy', np.array([3, 1]))
    with pytest.raises(FileNotFoundError, match="entities.txt', so the ids in the index of 'a'"):
        load(folder)
    (folder / 'entities.txt').write_text('tea\nBo L\nAda\nAC/DC\n')
    assert load(folder).a.tolist() == [[0, 0], [0, 0], [0, 0], [1, 2]]


@pytest.mark.parametrize('index,match', [
    (np.array([0, 4]), r"index of modality 'x' holds id 4 .expected 0 to 3"),
    (np.array([-1, 0]), r"index of modality 'x' holds id -1"),
    (np.array([1, 1]), r"index of modality 'x' names entity 'Ada' 2 times"),
    (np.array(['Ada', 'Zoe']), r"index of modality 'x' names the unknown entity 'Zoe'"),
    (np.array([0., 1.]), r"index of modality 'x' needs to be one-dimensional, of ids or names"),
    (np.array([0]), r'features need one row for each of 1 ids in their index'),
])
def test_bad_index(folder, index, match):
    (folder / 'entities.txt').write_text('AC/DC\nAda\nBo L\ntea\n')
    np.savez(folder / 'x.npz', x=np.ones((2, 3)), x_index=index)
    with pytest.raises(ValueError, match=f'x.npz: {match}'):
        load(folder)


def test_modality_in_two_files(folder):
    for name in ('p', 'q'):
        np.savez(folder / f'{name}.npz', x=np.ones((1, 2)), x_index=np.array(['Ada']))
    with pytest.raises(ValueError, match=r"q.npz: modality 'x' stands in 'p.npz', too"):
        load(folder)
    (folder / 'dataset.yaml').write_text('features: [q.npz]')
    assert MMKGFolder(folder).modalities == ['x']
    (folder / 'dataset.yaml').write_text('features: [r.npz]')
    with pytest.raises(FileNotFoundError, match=r"There is no file '.*r.npz' of features"):
        load(folder)


@pytest.mark.parametrize('suffix', ['npy', 'npz'])
def test_pickled_objects_are_refused(folder, suffix):
    class Bomb:
        def __reduce__(self):
            return (exec, ("raise AssertionError('unpickled')", ))

    array = np.array([[Bomb()]], dtype=object)
    if suffix == 'npy':
        np.save(folder / 'x.npy', array, allow_pickle=True)
    else:
        np.savez(folder / 'x.npz', x=array)
    (folder / 'x_index.txt').write_text('Ada\n')
    with pytest.raises(ValueError, match=rf'x.{suffix}: damaged or no array of numbers .*pickle'):
        load(folder)
