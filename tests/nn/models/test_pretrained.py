import json
import os

import pytest
import torch
from safetensors.torch import load_file

import pyg_mmkgc.nn.models.pretrained as pretrained
from pyg_mmkgc.data import EDGE, Labels, get_triples
from pyg_mmkgc.evaluation import evaluate, predict
from pyg_mmkgc.nn import AdditiveComplEx, ComplEx, KGModel, MoCME, MultiModalModel, TransE
from pyg_mmkgc.sampler import Uniform
from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.training.recipe import MODELS

FILES = {'config.json', 'model.safetensors', 'labels.json', 'graph.safetensors', 'README.md'}


@pytest.fixture(scope='module')
def data():
    return FakeMMKG(inductive=True)[0]


def build(name, data, **kwargs):
    torch.manual_seed(0)
    model = MODELS[name].from_data(data, **({} if name == 'nearest' else {'hidden_channels': 8}),
                                   **kwargs)
    for parameter in model.parameters():  # Not what a fresh model would have.
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@torch.no_grad()
def scores(model):
    head_index = torch.arange(model.num_entities).repeat_interleave(2 * model.num_relations)
    rel_type = torch.arange(2 * model.num_relations).repeat(model.num_entities)
    return model.score_all(head_index, rel_type)


def edit(folder, name='config.json', **values):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# Round trips


@pytest.mark.parametrize('name', sorted(MODELS))
@pytest.mark.parametrize('features', [True, False])
def test_round_trip(name, features, data, tmp_path):
    model = build(name, data, exclude_loops=name != 'nearest')
    assert model.save_pretrained(tmp_path / 'folder', features=features) == tmp_path / 'folder'
    assert {path.name for path in (tmp_path / 'folder').iterdir()} == FILES
    assert os.listdir(tmp_path) == ['folder']
    for cls in (KGModel, type(model)):
        loaded = cls.from_pretrained(tmp_path / 'folder')
        assert type(loaded) is type(model)
        assert str(loaded) == str(model)
        assert not loaded.training
        if not features and isinstance(model, MultiModalModel):
            with pytest.raises(ValueError, match='knows no graph and cannot answer'):
                loaded.predict(head=0, relation=0)
            loaded.attach(data)
        assert torch.equal(scores(loaded), scores(model))
        loaded.attach(data)
        assert torch.equal(scores(loaded), scores(model))
        assert loaded.predict(head='entity 1', relation='relation 0', top=5) == predict(
            model, data, head='entity 1', relation='relation 0', top=5)
        expected = evaluate(model, data, 'test').to_dict()
        assert evaluate(loaded, data, 'test').to_dict() == expected


def test_second_generation_is_the_same(data, tmp_path):
    build('mocme', data).save_pretrained(tmp_path / 'a', features=True)
    KGModel.from_pretrained(tmp_path / 'a').save_pretrained(tmp_path / 'b', features=True)
    for name in FILES:
        assert (tmp_path / 'a' / name).read_bytes() == (tmp_path / 'b' / name).read_bytes()


@pytest.mark.parametrize('name', sorted(set(MODELS) - {'nearest'}))
def test_without_triples(name, data, tmp_path):
    model = build(name, data, exclude_loops=True)
    model.save_pretrained(tmp_path / 'folder', features=True, triples=False)
    assert not any('triples' in key for key in load_file(tmp_path / 'folder/graph.safetensors'))
    loaded = KGModel.from_pretrained(tmp_path / 'folder')
    assert torch.equal(loaded.seen, model.seen)
    assert torch.equal(loaded.has_loops, model.has_loops)
    assert not model.seen.all()
    assert not model.has_loops.all()
    assert torch.equal(scores(loaded), scores(model))
    found = loaded.predict(head='entity 1', relation='relation 0', top=5)
    expected = predict(model, data, head='entity 1', relation='relation 0', top=5)
    assert [answer.pop('known') for answer in found] == [None] * 5
    assert 'new' in [answer.pop('known') for answer in expected]
    assert found == expected


def test_nearest_needs_triples(data, tmp_path):
    with pytest.raises(ValueError, match="'NearestNeighbour' looks training triples up"):
        build('nearest', data).save_pretrained(tmp_path / 'folder', triples=False)
    assert not (tmp_path / 'folder').exists()


def test_seen_candidates_and_temperature(data, tmp_path):
    data = data.clone()
    data.candidates = 'seen'
    model = build('complex', data)
    model.temperature = 2.5
    model.save_pretrained(tmp_path / 'folder')
    loaded = ComplEx.from_pretrained(tmp_path / 'folder')
    found = loaded.predict(head='entity 1', relation='relation 0', top=40)
    assert len(found) == int(model.seen.sum())
    assert found == predict(model, data, head='entity 1', relation='relation 0', top=40,
                            temperature=2.5)


def test_half_tables_and_samplers(data, tmp_path):
    sampler = Uniform(data['entity'].num_nodes, 4)
    model = build('additive', data, objective='sampled', table_dtype='bfloat16',
                  neg_sampling=sampler)
    model.save_pretrained(tmp_path / 'folder', features=True)
    loaded = AdditiveComplEx.from_pretrained(tmp_path / 'folder')
    assert loaded.structure.weight.dtype == torch.bfloat16
    assert torch.equal(scores(loaded), scores(model))
    batch = torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor([2, 3])
    with pytest.raises(ValueError, match="loaded without 'neg_sampling'"):
        loaded.loss(*batch)
    loaded = AdditiveComplEx.from_pretrained(tmp_path / 'folder', neg_sampling=sampler)
    assert loaded.train().loss(*batch).isfinite()


def test_extended_model(data, tmp_path):
    model = build('mocme', data)
    model.save_pretrained(tmp_path / 'folder', features=True)
    loaded = MoCME.from_pretrained(tmp_path / 'folder')
    features = {'image': torch.ones(8)}
    question = {'head': 'new one', 'relation': 'relation 0', 'features': features, 'top': 3}
    assert predict(loaded, data, **question) == predict(model, data, **question)


class OwnModel(TransE):
    def __init__(self, num_entities, num_relations, width=8, *, extra=None):
        super().__init__(num_entities, num_relations, hidden_channels=width)
        self.extra = extra


def test_own_class_and_positional_arguments(data, tmp_path):
    model = OwnModel(data['entity'].num_nodes, data[EDGE].num_relations, 6,
                     extra={'a': [1]}).attach(data)
    model.save_pretrained(tmp_path / 'folder')
    loaded = KGModel.from_pretrained(tmp_path / 'folder')
    assert type(loaded) is OwnModel
    assert loaded.extra == {'a': [1]}
    assert torch.equal(scores(loaded), scores(model))
    with pytest.raises(ValueError, match=r"of class 'OwnModel' \(expected one of \['MoCME'\]"):
        MoCME.from_pretrained(tmp_path / 'folder')


# Saving


def test_no_graph_no_labels_no_json(data, tmp_path):
    with pytest.raises(ValueError, match='knows no graph and cannot be saved'):
        ComplEx(4, 2, 8).save_pretrained(tmp_path / 'folder')
    bare = data.clone()
    del bare['entity'].label
    with pytest.raises(ValueError, match='the entities of the graph have no labels'):
        build('complex', bare).save_pretrained(tmp_path / 'folder')
    model = OwnModel(data['entity'].num_nodes, data[EDGE].num_relations, extra=torch.ones(1))
    with pytest.raises(ValueError, match=r"argument 'extra' of 'OwnModel' cannot be saved "
                                         r'\(expected what JSON can hold, got Tensor\)'):
        model.attach(data).save_pretrained(tmp_path / 'folder')
    assert not (tmp_path / 'folder').exists()


def test_whole_or_not_at_all(data, tmp_path, monkeypatch):
    model = build('complex', data)
    (tmp_path / 'taken').mkdir()
    (tmp_path / 'taken' / 'mine.txt').write_text('mine')
    with pytest.raises(FileExistsError, match=r"taken' exists and is not overwritten"):
        model.save_pretrained(tmp_path / 'taken')
    (tmp_path / 'empty').mkdir()
    model.save_pretrained(tmp_path / 'empty')
    with pytest.raises(FileExistsError, match='not overwritten'):
        model.save_pretrained(tmp_path / 'empty')

    def full(*args):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(pretrained, 'save_weights', full)
    with pytest.raises(OSError, match='No space'):
        model.save_pretrained(tmp_path / 'full')
    assert sorted(os.listdir(tmp_path)) == ['empty', 'taken']
    assert os.listdir(tmp_path / 'taken') == ['mine.txt']


def test_somebody_was_faster(data, tmp_path, monkeypatch):
    save = pretrained.save_weights

    def slow(path, model):
        (tmp_path / 'folder').mkdir()
        (tmp_path / 'folder' / 'theirs').write_text('theirs')
        save(path, model)

    monkeypatch.setattr(pretrained, 'save_weights', slow)
    with pytest.raises(FileExistsError, match="folder' exists by now"):
        build('complex', data).save_pretrained(tmp_path / 'folder')
    assert os.listdir(tmp_path) == ['folder']
    assert os.listdir(tmp_path / 'folder') == ['theirs']


def test_card(data, tmp_path):
    awkward = data.clone()
    awkward['entity'].label = Labels(['a "quote"\n```\n# no title', *data['entity'].label[1:]])
    get_triples(awkward, 'train')[0][0] = 0
    build('mocme', awkward).save_pretrained(tmp_path / 'folder')
    card = (tmp_path / 'folder' / 'README.md').read_text()
    assert card.startswith('---\nlibrary_name: pyg_mmkgc\n')
    assert "head='a \"quote\"\\n```\\n# no title'" in card
    assert card.count('\n```') == 2
    assert 'model.attach(data)' in card
    assert '40 entities, 32 of them in training triples; 5 relations' in card
    assert '`image` (8 channels), `numeric` (4 channels), `text` (6 channels)' in card


def test_card_is_true(data, tmp_path, monkeypatch):
    build('mocme', data).save_pretrained(tmp_path / 'folder', features=True)
    card = (tmp_path / 'folder' / 'README.md').read_text()
    snippet = card.split('```python\n')[1].split('```')[0]
    monkeypatch.chdir(tmp_path / 'folder')
    space = {}
    exec(snippet, space)
    assert isinstance(space['model'], MoCME)


def test_card_without_labels(data, tmp_path):
    bare = data.clone()
    bare['entity'].label = Labels([None] * 40)
    build('complex', bare).save_pretrained(tmp_path / 'folder')
    head = int(get_triples(data, 'train')[0][0])
    assert f'predict(head={head}, ' in (tmp_path / 'folder' / 'README.md').read_text()
    assert KGModel.from_pretrained(tmp_path / 'folder').predict(head=head, relation=0, top=1)


# Versions


def version_1(folder):
    config = json.loads((folder / 'config.json').read_text())
    for key in ('modalities', 'features', 'temperature'):
        del config[key]
    (folder / 'config.json').write_text(json.dumps({**config, 'format': 1}))


def test_version_1(data, tmp_path):
    model = build('mocme', data)
    model.save_pretrained(tmp_path / 'folder', features=True)
    version_1(tmp_path / 'folder')
    loaded = KGModel.from_pretrained(tmp_path / 'folder')
    assert loaded.temperature is None
    assert torch.equal(scores(loaded), scores(model))
    assert sorted(pretrained.MIGRATIONS) == list(range(1, pretrained.FORMAT_VERSION))


@pytest.mark.parametrize('version', [0, None, '2', True, 2.0])
def test_no_version(version):
    with pytest.raises(ValueError, match="expected 'format' to be a version from 1 to 2"):
        pretrained.upgrade({'format': version})


def test_newer_version(data, tmp_path):
    build('complex', data).save_pretrained(tmp_path / 'folder')
    edit(tmp_path / 'folder', format=3, pyg_mmkgc='9.0.0')
    with pytest.raises(ValueError, match=r"config.json': format 3 is newer than this version .* "
                                         r"upgrade pyg_mmkgc \(written by '9.0.0'\)"):
        KGModel.from_pretrained(tmp_path / 'folder')


# What is wrong with a folder


@pytest.fixture
def folder(data, tmp_path):
    build('mocme', data).save_pretrained(tmp_path / 'folder', features=True)
    return tmp_path / 'folder'


def check(folder, error, match):
    with pytest.raises(error, match=match):
        KGModel.from_pretrained(folder)


def test_missing(folder, tmp_path):
    check(tmp_path / 'nowhere', FileNotFoundError, "There is no folder '.*nowhere'")
    for name in sorted(FILES - {'README.md'}):
        (folder / name).rename(folder / 'away')
        check(folder, FileNotFoundError, f"There is no file '.*{name}'")
        (folder / 'away').rename(folder / name)
    KGModel.from_pretrained(folder)


@pytest.mark.parametrize('content,match', [
    ('{', 'is damaged or no JSON'),
    ('[1]', r'is damaged \(expected a mapping, got list\)'),
    ('[' * 100_000, 'is damaged or no JSON'),
])
def test_no_config(folder, content, match):
    (folder / 'config.json').write_text(content)
    check(folder, ValueError, f"config.json' {match}")


@pytest.mark.parametrize('values,match', [
    ({'class': 3}, "'class' needs to be of type str"),
    ({'num_entities': True}, "'num_entities' needs to be of type int"),
    ({'temperature': -1.0}, "'temperature' needs to be positive"),
    ({'class': 'os.system'}, r"of class 'os.system' \(expected one of \["),
    ({'arguments': {'num_entities': 40}}, "holds no arguments of 'MoCME'"),
    ({'arguments': {'num_entities': 40, 'num_relations': 5, 'in_channels': {}, 'wrong': 1}},
     "holds no arguments of 'MoCME' .*wrong"),
    ({'arguments': {'num_entities': 40, 'num_relations': 6, 'in_channels': {}}},
     'are of 40 entities and 6 relations'),
    ({'arguments': {'num_entities': 40, 'num_relations': 5, 'in_channels': {'image': 10**12}}},
     'does not fit the model'),
    ({'arguments': {'num_entities': 40, 'num_relations': 5, 'in_channels': {},
                    'hidden_channels': 10**30}}, "holds no arguments of 'MoCME'"),
    ({'arguments': {'num_entities': 40, 'num_relations': 5, 'in_channels': 'text'}},
     "holds no arguments of 'MoCME'"),
    ({'num_entities': 10**15}, 'needs the labels of 1000000000000000 entities'),
    ({'splits': ['train', 'new']}, "graph.safetensors' is damaged .*triples/new"),
    ({'modalities': {'image': 8, 'sound': 2}}, "graph.safetensors' is damaged .*x/sound"),
    ({'modalities': {}}, "graph.safetensors' does not fit '.*config.json' .*image"),
])
def test_wrong_config(folder, values, match):
    edit(folder, **values)
    check(folder, ValueError, match)


def test_damage(folder):
    edit(folder, 'labels.json', entities=['a'])
    check(folder, ValueError, r"labels.json' needs the labels of 40 entities \(got 1\)")
    edit(folder, 'labels.json', entities=[f'{i}' for i in range(40)], relations='all')
    check(folder, ValueError, r"labels.json' needs the labels of 5 relations \(got 'all'\)")
    edit(folder, 'labels.json', relations=['a', 'b', 'c', 'd', None])
    for name in ('graph.safetensors', 'model.safetensors'):
        path = folder / name
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        check(folder, ValueError, f"{name}' is damaged")
        path.write_bytes(b'\x80\x04K\x01.')
        check(folder, ValueError, f"{name}' is damaged or no safetensors file")
        path.write_bytes(content)
    (folder / 'model.safetensors').write_bytes((folder / 'graph.safetensors').read_bytes())
    check(folder, ValueError, r"model.safetensors' holds no weights of this package \(expected "
                              r"'KGModel 1', got 'Graph 1'\)")


def test_other_data(folder, data):
    loaded = KGModel.from_pretrained(folder)
    other = data.clone()
    labels = list(data['entity'].label)
    labels[3], labels[4] = labels[4], labels[3]
    other['entity'].label = Labels(labels)
    with pytest.raises(ValueError, match=r"entity 3 of 'data' is 'entity 4' \(expected 'entity 3'"):
        loaded.attach(other)
    other['entity'].label = data['entity'].label
    other[EDGE].label = Labels(['r'] * 5)
    with pytest.raises(ValueError, match=r"relation 0 of 'data' is 'r'"):
        loaded.attach(other)
    loaded.attach(data)
