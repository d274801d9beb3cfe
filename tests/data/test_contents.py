import json

import pytest
import torch

from pyg_mmkgc.data import EntityContents, build_data, entity_contents, picture_address
from pyg_mmkgc.data.labels import Labels
from pyg_mmkgc.datasets import Atlas, MMKGFolder

PNG = b'\x89PNG\r\n\x1a\n and so on'


def test_contents_of_a_graph():
    data = build_data({'train': torch.tensor([(0, 0, 1)])}, ['a', 'b'], ['r'],
                      {'text': (torch.ones(2, 3), torch.tensor([True, False]))})
    assert entity_contents(data, 0) == EntityContents()
    store = data['entity']
    store.description_text = Labels(['first', None])
    store.image_path = Labels(['/somewhere/a.png', None])
    store.numeric_value = torch.tensor([[1.5, float('nan')], [float('nan'), 2.0]])
    store.numeric_attribute = ['height', 'weight']
    assert entity_contents(data, 0) == EntityContents({'description_text': 'first'},
                                                      {'height': 1.5})
    assert entity_contents(data, 1) == EntityContents({}, {'weight': 2.0})


def test_contents_as_json():
    values = EntityContents({'type': 'x'}, {'n': 1.0}, {'image': PNG}).to_dict()
    assert json.loads(json.dumps(values)) == {
        'texts': {'type': 'x'}, 'numbers': {'n': 1.0},
        'pictures': {'image': 'data:image/png;base64,iVBORw0KGgogYW5kIHNvIG9u'}}


def test_picture_address():
    assert picture_address(b'\xff\xd8\xff\xe0').startswith('data:image/jpeg;base64,')
    with pytest.raises(ValueError, match=r"expected a picture as PNG or JPEG \(got b'<svg"):
        picture_address(b'<svg onload="alert(1)">')


def test_contents_of_atlas():
    dataset = Atlas()
    label = list(dataset[0]['entity'].label)
    france = dataset.contents(label.index('France'))
    assert france.texts == {'type': 'country', 'code': 'FR'}
    assert set(france.pictures) == {'image', 'outline'}
    assert all(picture.startswith(b'\x89PNG') for picture in france.pictures.values())
    # As anybody can look up; three digits are left of them.
    assert france.numbers['latitude'] == pytest.approx(46.5, abs=1)
    assert france.numbers['longitude'] == pytest.approx(2.5, abs=1)
    assert france.numbers['area'] == pytest.approx(547_030, rel=0.01)
    assert france.numbers['population'] == pytest.approx(68e6, rel=0.03)
    assert dataset.contents(label.index('Swahili')).numbers == {}
    assert dataset.contents(label.index('Swahili')).pictures == {}


def test_numbers_of_atlas_are_the_inverse_of_its_encoder():
    dataset = Atlas()
    store = dataset[0]['entity']
    known = store.numeric_mask.nonzero().view(-1).tolist()
    complete = 0
    for entity in known[::9]:
        numbers = dataset.contents(entity).numbers
        again = dataset.encode_content('numeric', numbers)[0]
        # The position is that of three digits, and its waves amplify what is lost.
        assert torch.allclose(again[:3], store.numeric[entity][:3], atol=0.02)
        assert torch.allclose(again[-8:], store.numeric[entity][-8:], atol=0.02)
        complete += len(numbers) == 6
    assert complete > 10


def test_pictures_of_a_folder(tmp_path, caplog):
    image = pytest.importorskip('PIL.Image')
    (tmp_path / 'train.tsv').write_text('a\tr\tb\nb\tr\tc\nc\tr\ta\na\tr\tc\n')
    (tmp_path / 'val.tsv').write_text('a\tr\tb\n')
    (tmp_path / 'test.tsv').write_text('b\tr\ta\n')
    (tmp_path / 'dataset.yaml').write_text('modalities: {image: {encoder: null}}\n')
    (tmp_path / 'images').mkdir()
    image.new('RGB', (400, 200), 'red').save(tmp_path / 'images' / 'a.jpg')
    (tmp_path / 'images' / 'b.png').write_text('no picture')
    dataset = MMKGFolder(tmp_path)
    picture = dataset.contents(0).pictures['image']
    assert picture.startswith(b'\x89PNG')
    assert int.from_bytes(picture[16:20], 'big') == 96  # Pixels wide.
    assert dataset.contents(1).pictures == {}
    assert 'A picture is left out' in caplog.text
    assert dataset.contents(2) == EntityContents()
