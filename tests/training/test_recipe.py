from typing import Any, Dict, List, Literal, Optional, Sequence, Tuple, Union

import pytest
import torch
import yaml

from pyg_mmkgc.data import EDGE, build_index, get_triples, seen_entities
from pyg_mmkgc.nn import AdditiveComplEx, ComplEx, KGModel, MoCME
from pyg_mmkgc.sampler import EGNS, Bernoulli, Uniform
from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.training import (
    MODELS,
    SAMPLERS,
    Recipe,
    TrainConfig,
    class_options,
    find_recipe,
    get_recipe,
    load_recipe,
    recipe_names,
)
from pyg_mmkgc.training.recipe import _coerce, _fits, load_yaml

SMALL = {'model.hidden_channels': 8}


@pytest.fixture(scope='module')
def data():
    return FakeMMKG(inductive=True)[0]


def mocme(**train):
    return Recipe('mine', {'name': 'mocme', 'hidden_channels': 8},
                  {'name': 'egns', 'num_negatives': 4}, train)


# The recipes of the package


def test_all_models_have_a_recipe():
    assert set(MODELS) <= set(recipe_names())
    assert {'complex-atlas', 'mocme-atlas', 'complex-db15k', 'mocme-db15k'} <= set(recipe_names())


@pytest.mark.parametrize('name', recipe_names())
def test_recipe_learns_one_step(name, data):
    recipe = get_recipe(name)
    assert recipe.name == name
    if recipe.dataset is not None:
        assert find_recipe(recipe.model['name'], recipe.dataset) == recipe
    if 'hidden_channels' in recipe.options('model'):
        recipe = recipe.override(SMALL)
    torch.manual_seed(0)
    model = recipe.build(data)
    assert type(model) is MODELS[recipe.model['name']]
    model.loss(*get_triples(data, 'train')).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(g.isfinite().all()) for g in gradients)


def test_complex_db15k_is_the_measured_setting():
    recipe = find_recipe('complex', 'DB15K')
    assert recipe.model == {'name': 'complex', 'hidden_channels': 1000, 'objective': 'softmax',
                            'regularization': 0.03}
    assert recipe.sampler is None
    config = recipe.train_config()
    assert (config.epochs, config.batch_size, config.optimizer, config.lr, config.select) == (
        10, 1000, 'adagrad', 0.1, None)


@pytest.mark.parametrize('dataset,expected', [
    ('atlas', 'mocme-atlas'), ('ATLAS', 'mocme-atlas'), ('db-15_K', 'mocme-db15k'),
    (None, 'mocme'), ('mkgw', 'mocme-mkgw'), ('tiva', 'mocme-tiva'),
    ('ogbl-wikikg2', 'mocme'), ('./atlas', 'mocme'), ('../recipes/complex', 'mocme'),
])
def test_find_recipe(dataset, expected):
    assert find_recipe('MoCME', dataset).name == expected


def test_find_recipe_of_unknown_model():
    with pytest.raises(ValueError, match=r"Unknown model 'mocne' \(expected one of .*mocme.*; did "
                                         r"you mean 'mocme'\?"):
        find_recipe('mocne')


# Options


@pytest.mark.parametrize('cls', [ComplEx, AdditiveComplEx, MoCME])
def test_model_options_are_what_the_model_takes(cls, data):
    options = class_options(cls)
    assert {'hidden_channels', 'init_scale', 'objective', 'regularization'} <= set(options)
    assert ('modalities' in options) == (cls is not ComplEx)
    assert not {'self', 'num_entities', 'num_relations', 'in_channels', 'neg_sampling', 'data',
                'kwargs'} & set(options)
    model = cls.from_data(data)
    for name in ('hidden_channels', 'init_scale', 'objective', 'label_smoothing'):
        assert getattr(model, name) == options[name].default
    changed = {'hidden_channels': 6, 'label_smoothing': 0.5}
    model = cls.from_data(data, **changed)
    assert {name: getattr(model, name) for name in changed} == changed


def test_only_own_arguments_where_nothing_is_passed_on():
    class Base:
        def __init__(self, given, a: int = 1, b: Optional[float] = None):
            pass

    class Passes(Base):
        def __init__(self, a=3, c='x', **kwargs):
            pass

    class Stops(Passes):
        def __init__(self, d: bool = True):
            pass

    options = class_options(Passes)
    assert {name: (o.default, o.hint) for name, o in options.items()} == {
        'a': (3, int), 'b': (None, Optional[float]), 'c': ('x', str)}
    assert set(class_options(Stops)) == {'d'}


def test_a_decoder_is_an_option_only_where_it_is_a_name():
    assert 'decoder' not in class_options(ComplEx)
    assert class_options(MoCME)['decoder'].default == 'complex'
    assert 'decoder' not in class_options(KGModel)


@pytest.mark.parametrize('name', SAMPLERS)
def test_sampler_options(name):
    options = class_options(SAMPLERS[name])
    assert options['num_negatives'].default == 64
    assert not {'known', 'candidates', 'generator', 'num_entities', 'head_probability', 'mode',
                'amount'} & set(options)


@pytest.mark.parametrize('value,hint,expected', [
    (3, int, True), (3.0, int, False), (True, int, False), ('3', int, False),
    (3, float, True), (True, float, False), (None, float, False), (None, Optional[float], True),
    ('x', str, True), (1, str, False), (True, bool, True), (1, bool, False),
    ('a', Literal['a', 'b'], True), ('c', Literal['a', 'b'], False),
    ({'a': 1}, Union[int, Dict[str, int]], True), ({'a': 'b'}, Union[int, Dict[str, int]], False),
    ({1: 1}, Dict[str, int], False), ({'a': 1}, dict, True), ([], dict, False),
    ([1, 2], Tuple[float, float], True), ([1], Tuple[float, float], False),
    (['a', 2], Tuple[float, float], False), ([1, 2, 3], Tuple[int, ...], True),
    ([1, 'a'], Tuple[int, ...], False), (1, Tuple[int, ...], False), ([], tuple, True),
    (['a'], Sequence[str], True), ('a', Sequence[str], False), ([1], List[str], False),
    ([1], list, True), ('x', int | None, False), (None, int | None, True), (object(), Any, True),
    (1, torch.Tensor, False),
])
def test_fits(value, hint, expected):
    assert _fits(value, hint) is expected


@pytest.mark.parametrize('hint,words', [
    (float, 'a number'), (Optional[int], 'an integer or null'), (bool, 'true or false'),
    (Literal['a', 'b'], r"one of \['a', 'b'\]"), (Tuple[float, float], 'a list of 2'),
    (Sequence[str], 'a list'), (Dict[str, int], 'a mapping of a string to an integer'),
    (dict, 'a mapping'), (torch.Tensor, 'Tensor'),
])
def test_wrong_type_is_described(hint, words):
    with pytest.raises(ValueError, match=rf"'model.x' needs {words} \(got <object"):
        _coerce('model.x', object(), hint)


def test_integers_become_floats():
    assert [type(_coerce('x', 1, hint)) for hint in (int, float, Optional[float])] == [
        int, float, float]
    assert _coerce('x', None, Optional[float]) is None


# Overrides


def test_override():
    recipe = mocme(lr=0.1)
    changed = recipe.override(['model.num_experts=2', 'lr=1e-3', 'sampler.num_negatives=8',
                               'sampler.thresholds=[0.1, 0.2]', 'select=null',
                               'model.modality_dropout={image: 0.5}', 'estimator=club'])
    assert changed.model == {'name': 'mocme', 'hidden_channels': 8, 'num_experts': 2,
                             'modality_dropout': {'image': 0.5}, 'estimator': 'club'}
    assert changed.train_config() == TrainConfig(lr=0.001, select=None)
    assert changed.sampler == {'name': 'egns', 'num_negatives': 8, 'thresholds': [0.1, 0.2]}
    assert recipe == mocme(lr=0.1)
    assert recipe.override({'lr': 1}).train == {'lr': 1.0}
    assert recipe.override(['lr=1', 'train.lr=2']).train == {'lr': 2.0}


def test_override_sampler():
    recipe = mocme().override(['sampler.quantiles=[0.5, 0.9]'])
    assert recipe.override(['sampler=uniform']).sampler == {'name': 'uniform', 'num_negatives': 4}
    assert recipe.override(['sampler=null']).sampler is None
    # In any order:
    changed = find_recipe('complex').override(['sampler.num_negatives=3', 'sampler=egns'])
    assert changed.sampler == {'name': 'egns', 'num_negatives': 3}


@pytest.mark.parametrize('override,message', [
    ('lrr=1', r"Unknown option 'lrr'; did you mean 'lr'\?"),
    ('model.hiden_channels=1', r"Unknown option 'model.hiden_channels'; did you mean "
                               r"'model.hidden_channels'"),
    ('zzzzzz=1', r"^Unknown option 'zzzzzz'$"),
    ('model.lr=1', "Unknown option 'model.lr'"),
    ('model.name=complex', "Unknown option 'model.name'"),
    ('num_entities=3', "Unknown option 'num_entities'"),
    ('temperature=1', r"Option 'temperature' is ambiguous \(expected one of "
                      r"\['model.temperature', 'sampler.temperature'\]\)"),
    ('lr=fast', r"'train.lr' needs a number \(got 'fast'\)"),
    ('epochs=2.5', r"'train.epochs' needs an integer \(got 2.5\)"),
    ('epochs=0', "'epochs' needs to be at least 1"),
    ('epochs=', r"'train.epochs' needs an integer \(got None\)"),
    ('modalities=image', r"'model.modalities' needs a list or null \(got 'image'\)"),
    ('lr', r"expected an option as 'key=value' \(got 'lr'\)"),
    ('=1', "expected an option as 'key=value'"),
    ('lr=[1', "the value of 'lr' is malformed YAML"),
    ('sampler=3', r"'sampler' needs a name or null \(got 3\)"),
    ('sampler=unifrom', r"Unknown sampler 'unifrom' .*did you mean 'uniform'"),
])
def test_override_errors(override, message):
    with pytest.raises(ValueError, match=message):
        mocme().override([override])


def test_option_of_a_sampler_that_is_not_there():
    with pytest.raises(ValueError, match=r"'sampler.num_negatives'; recipe 'complex' has no "
                                         r"sampler, name one first: 'sampler=egns'"):
        find_recipe('complex').override(['sampler.num_negatives=3'])


# Building


def test_build_gives_the_sampler_training_triples_and_seen_entities_only(data):
    sampler = mocme().build(data).neg_sampling
    assert isinstance(sampler, EGNS)
    assert torch.equal(sampler.known.keys, build_index(data, ['train']).keys)
    assert torch.equal(sampler.candidates, seen_entities(data).nonzero().view(-1))
    assert sampler.num_negatives == 4
    assert type(mocme().override(['sampler=uniform']).build(data).neg_sampling) is Uniform
    assert mocme().override(['sampler=null']).build(data).neg_sampling is None


def test_build_counts_for_bernoulli(data):
    sampler = mocme().override(['sampler=bernoulli']).build(data).neg_sampling
    expected = Bernoulli.from_triples(*get_triples(data, 'train'), data['entity'].num_nodes,
                                      data[EDGE].num_relations)
    assert torch.equal(sampler.head_probability, expected.head_probability)


def test_build_passes_options_on(data):
    recipe = mocme().override({'num_experts': {'image': 2}, 'modalities': ['image'],
                               'label_smoothing': 0.25, 'objective': 'bce'})
    model = recipe.build(data)
    assert model.modalities == ['image', 'structure']
    assert (model.label_smoothing, model.objective) == (0.25, 'bce')
    with pytest.raises(ValueError, match="Unknown modality 'smell'"):
        recipe.override(['modalities=[smell]']).build(data)


# Files


def test_to_dict_survives_yaml_and_holds_every_option(data):
    recipe = mocme(select=None).override(['sampler.thresholds=[0.1, 0.2]', 'num_experts=2'])
    values = recipe.to_dict()
    assert set(values['train']) == set(TrainConfig.options())
    assert set(values['model']) == {'name', *class_options(MoCME)}
    assert values['model']['num_experts'] == 2
    again = Recipe.from_dict('again', load_yaml(yaml.safe_dump(values)))
    assert again.to_dict() == values
    torch.manual_seed(0)
    first = recipe.build(data)
    torch.manual_seed(0)
    second = again.build(data)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert second.neg_sampling.thresholds == (0.1, 0.2)


@pytest.mark.parametrize('text,message', [
    ('- a', r"needs a mapping with 'model'"),
    ('train: {lr: 0.1}', r"needs a mapping with 'model'.*got \['train'\]"),
    ('{model: {name: complex}, modle: 1}', r"needs a mapping with 'model'"),
    ('model: complex', r"needs 'model' as a mapping with a 'name' \(got 'complex'\)"),
    ('model: {hidden_channels: 4}', "needs 'model' as a mapping with a 'name'"),
    ('model: {name: complx}', "Unknown model 'complx'.*did you mean 'complex'"),
    ('model: {name: complex, hidden: 4}', r'Unknown option model.hidden in recipe .*did you mean'),
    ('{model: {name: complex}, train: [1]}', r"needs 'train' as a mapping \(got \[1\]\)"),
    ('{model: {name: complex}, train: {lr: -1}}', "'lr' needs to be positive"),
    ('{model: {name: complex}, sampler: {name: best}}', "Unknown sampler 'best'"),
    ('model: {name: complex', 'malformed YAML'),
    ('model: {name: complex, name: mocme}', "malformed YAML .*'name' occurs twice"),
    ('model: !!python/object/apply:os.getcwd []', 'malformed YAML'),
])
def test_malformed_recipe(tmp_path, text, message):
    path = tmp_path / 'bad.yaml'
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"bad.yaml': .*{message}"):
        Recipe.from_file(path)


def test_missing_recipe(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file '.*none.yaml'"):
        Recipe.from_file(tmp_path / 'none.yaml')


@pytest.mark.parametrize('text,expected', [
    ('1e-3', 0.001), ('-2E+4', -20000.0), ('1.5e3', 1500.0), ('1', 1), ('true', True),
    ('null', None), ('[1e-3, a]', [0.001, 'a']), ('1e', '1e'), ('e5', 'e5'),
])
def test_load_yaml(text, expected):
    value = load_yaml(text)
    assert value == expected
    assert type(value) is type(expected)


def test_recipe_by_its_name():
    assert get_recipe('MoCME-Atlas') == find_recipe('mocme', 'atlas')
    with pytest.raises(ValueError, match=r"Unknown recipe 'mocme-atlsa' .*mean 'mocme-atlas'"):
        get_recipe('mocme-atlsa')


def test_load_recipe(tmp_path):
    assert load_recipe('mocme', 'Atlas') == load_recipe('MoCME-Atlas') == find_recipe('mocme',
                                                                                      'atlas')
    path = tmp_path / 'mine.yaml'
    path.write_text('{model: {name: complex}, machine: {cores: 2}, time: 3}')
    recipe = load_recipe(str(path))
    assert (recipe.name, recipe.machine, recipe.time) == ('mine', {'cores': 2}, 3)
    assert recipe.to_dict()['time'] == 3
    with pytest.raises(FileNotFoundError, match=r"There is no file '.*other.yaml'"):
        load_recipe(str(tmp_path / 'other.yaml'))
    with pytest.raises(ValueError, match="Unknown model 'mokme'"):
        load_recipe('mokme')


@pytest.mark.parametrize('override', ['modality_dropout={smell: 0.5}', 'heads=[text, smell]',
                                      'model.num_experts={smell: 2}'])
def test_recipe_that_names_a_missing_modality_says_so(override, data):
    recipe = mocme().override([override])
    with pytest.raises(ValueError, match=r"Unknown modality 'smell' \(expected some of \['image', "
                                         r"'numeric', 'text'\]\): recipe 'mine' names it in "
                                         r"'model\.\w+', and the graph lacks it"):
        recipe.build(data)


def test_structure_and_the_joint_head_are_no_missing_modalities(data):
    mocme().override(['modality_dropout={structure: 0.5}', 'norm_weight={joint: 2.0}']).build(data)
