import json
import math
import re
import shutil
import subprocess

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import pyg_mmkgc.training.run as run_module
from pyg_mmkgc.data import EDGE, get_triples, set_modality
from pyg_mmkgc.evaluation import evaluate
from pyg_mmkgc.nn import ComplEx, DistMult, MoCME
from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.training import (
    Run,
    TrainConfig,
    Trainer,
    fingerprint,
    load_run,
    plot_curves,
    plot_modality_weights,
    relation_modality_weights,
    train_run,
)

SMALL = {'model.hidden_channels': 8, 'model.num_experts': 2, 'train.eval_every': 1}
SHARED = ('dataset', 'model', 'seed', 'split', 'protocol', 'both', 'head', 'tail', 'by_relation')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp('runs') / 'run'
    return train_run(FakeMMKG(inductive=True), epochs=2, seed=3, device='cpu', out=out,
                     overrides=SMALL)


@pytest.fixture
def copied(run, tmp_path):
    return shutil.copytree(run.path, tmp_path / 'copied')


def reload(run, path=None, **kwargs):
    return load_run(path or run.path, data=run.data, device='cpu', **kwargs)


# What a run leaves


def test_files(run):
    assert {path.name for path in run.path.iterdir()} == {
        'config.yaml', 'history.jsonl', 'model.safetensors', 'curves.png', 'modality_weights.png',
        'metrics.json', 'metrics-inductive_test.json', 'calibration.json', 'reliability.png'}
    for name in ('curves.png', 'modality_weights.png'):
        assert (run.path / name).read_bytes().startswith(b'\x89PNG\r\n\x1a\n')
    assert not run.interrupted
    assert str(run) == f'Run({str(run.path)!r}, MoCME(40, num_relations=5, hidden_channels=8))'


@pytest.mark.parametrize('name,split', [('metrics.json', 'test'),
                                        ('metrics-inductive_test.json', 'inductive_test')])
def test_metrics(run, name, split):
    metrics = json.loads((run.path / name).read_text())
    assert metrics == run.metrics[split]
    assert set(SHARED) | {'baseline'} <= set(metrics)
    for values, model in [(metrics, 'mocme'), (metrics['baseline'], 'complex')]:
        assert (values['dataset'], values['model'], values['seed'], values['split']) == (
            'fakemmkg', model, 3, split)
        assert values['protocol'].items() >= {
            'filtered': True, 'filter_splits': ['train', 'val', 'test', 'inductive_test'],
            'ties': 'realistic', 'sides': ['head', 'tail'], 'candidates': 'all'}.items()
        num_triples = get_triples(run.data, split)[0].numel()
        for side, count in [('both', 2 * num_triples), ('head', num_triples)]:
            assert set(values[side]) == {'mrr', 'mr', 'amri', 'hits@1', 'hits@3', 'hits@10',
                                         'count'}
            assert values[side]['count'] == count
        assert set(values['by_relation']) <= set(run.data[EDGE].label)
    expected = evaluate(run.model, run.data, split).to_dict()
    assert {key: metrics[key] for key in expected} == expected
    assert run.evaluate(split) == {k: v for k, v in metrics.items() if k != 'baseline'}


def test_baseline_is_the_one_that_is_trained_alone(run, tmp_path):
    alone = train_run(FakeMMKG(inductive=True), 'complex', epochs=2, seed=3, device='cpu',
                      out=tmp_path / 'alone')
    metrics = dict(alone.metrics['test'])
    assert metrics.pop('baseline') == metrics == run.metrics['test']['baseline']
    assert isinstance(alone.model, ComplEx)
    assert alone.config['baseline'] is None
    assert not (alone.path / 'modality_weights.png').exists()


def test_history(run):
    history = [json.loads(line) for line in (run.path / 'history.jsonl').read_text().splitlines()]
    assert history == run.history
    assert [entry['epoch'] for entry in history] == [1, 2]
    assert all(math.isfinite(entry['loss']) and 0 < entry['val_mrr'] <= 1 for entry in history)
    best = max(history, key=lambda entry: entry['val_mrr'])
    assert run.config['result']['best_epoch'] == best['epoch']
    assert run.config['result']['best_val_mrr'] == best['val_mrr']
    # The weights are those of that epoch:
    assert evaluate(run.model, run.data, 'val').mrr == best['val_mrr']


def test_history_is_written_as_it_goes(tmp_path, monkeypatch):
    lengths = []
    epoch = Trainer._epoch

    def spy(*args):
        lengths.append(len((tmp_path / 'run' / 'history.jsonl').read_text().splitlines()))
        return epoch(*args)

    monkeypatch.setattr(Trainer, '_epoch', spy)
    train_run(FakeMMKG(), 'complex', epochs=3, out=tmp_path / 'run', overrides={'select': None})
    assert lengths == [0, 1, 2]


def test_config(run):
    config = yaml.safe_load((run.path / 'config.yaml').read_text())
    assert config == run.config
    assert config['model']['hidden_channels'] == 8
    assert config['train'].items() >= {'epochs': 2, 'seed': 3, 'device': 'cpu'}.items()
    assert set(config['train']) == set(TrainConfig.options())
    assert config['versions'].items() >= {'torch': str(torch.__version__),
                                          'pyg_mmkgc': '0.1.0'}.items()
    assert config['recipe'] == 'mocme'
    assert config['data'] == fingerprint(run.data)
    assert config['baseline']['model']['name'] == 'complex'
    assert config['baseline']['train']['epochs'] == 2
    assert config['baseline']['train']['seed'] == 3


def test_same_seed_gives_the_same_run(run, tmp_path):
    kwargs = {'epochs': 2, 'device': 'cpu', 'overrides': SMALL}
    data = FakeMMKG(inductive=True)
    same = train_run(data, seed=3, out=tmp_path / 'same', **kwargs)
    other = train_run(data, seed=4, out=tmp_path / 'other', **kwargs)
    assert same.metrics == run.metrics
    assert other.metrics != run.metrics


def test_default_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_module.time, 'strftime', lambda *args: 'now')
    paths = [train_run(FakeMMKG(), 'complex', epochs=1, seed=5).path for _ in range(3)]
    assert [str(path) for path in paths] == [
        f'runs/complex-fakemmkg-5-now{end}' for end in ('', '-2', '-3')]


def test_epochs_limit_the_baseline_but_do_not_raise_it(tmp_path):
    few = run_module._baseline(run_module.find_recipe('mocme', 'db15k'), 'db15k', 3)
    many = run_module._baseline(run_module.find_recipe('mocme', 'db15k'), 'db15k', 300)
    assert (few.train_config().epochs, many.train_config().epochs) == (3, 10)


def test_git_hash_is_that_of_the_package(tmp_path, monkeypatch):
    def git(*args):
        subprocess.run(['git', '-C', str(tmp_path), '-c', 'user.name=n', '-c', 'user.email=e',
                        *args], check=True, capture_output=True)

    file = tmp_path / 'pyg_mmkgc' / '__init__.py'
    file.parent.mkdir()
    file.write_text('')
    monkeypatch.setattr(run_module.pyg_mmkgc, '__file__', str(file))
    git('init')
    assert run_module._git_hash() is None  # Not tracked: the repository is somebody else's.
    git('add', '.')
    git('commit', '-m', 'first')
    assert re.fullmatch('[0-9a-f]{40}', run_module._git_hash())
    file.write_text('changed')
    assert re.fullmatch('[0-9a-f]{40}-dirty', run_module._git_hash())
    monkeypatch.setenv('PATH', '')
    assert run_module._git_hash() is None  # No git.


# Loading


def test_load_run_gives_equal_scores(run):
    loaded = reload(run)
    assert isinstance(loaded, Run)
    assert isinstance(loaded.model, MoCME)
    assert not loaded.model.training
    assert loaded.metrics == run.metrics
    assert loaded.history == run.history
    assert loaded.config == run.config
    assert not loaded.interrupted
    query = torch.arange(4), torch.tensor([0, 1, 5, 9])
    with torch.no_grad():
        assert torch.equal(loaded.model.score_all(*query), run.model.score_all(*query))
    assert loaded.evaluate('val') == run.evaluate('val')
    question = {'head': 'entity 1', 'relation': 'relation 2'}
    assert loaded.predict(**question) == run.predict(**question)


def test_load_run_of_a_named_dataset_needs_no_data(tmp_path):
    trained = train_run('ATLAS', 'complex', epochs=1, seed=0, device='cpu', out=tmp_path / 'run',
                        overrides={'hidden_channels': 8})
    assert trained.config['dataset'] == 'atlas'
    loaded = load_run(tmp_path / 'run', device='cpu')
    metrics = dict(trained.metrics['test'])
    del metrics['baseline']
    assert loaded.evaluate('test') == metrics
    assert metrics['protocol']['candidates'] == 'seen'


def test_examples(run):
    examples = run.examples('test', num=3, top=4)
    head_index, rel_type, tail_index = get_triples(run.data, 'test')
    count = torch.bincount(rel_type, minlength=5)
    labels = run.data[EDGE].label
    found = [labels.index(example['relation']) for example in examples]
    assert found == sorted(range(5), key=lambda r: (-int(count[r]), r))[:3]
    train = {tuple(t) for t in torch.stack(get_triples(run.data, 'train'), 1).tolist()}
    test = {tuple(t) for t in torch.stack(get_triples(run.data, 'test'), 1).tolist()}
    entities = run.data['entity'].label
    for example, r in zip(examples, found, strict=True):
        i = int((rel_type == r).nonzero()[0])
        assert (example['head'], example['tail']) == (entities[head_index[i]],
                                                      entities[tail_index[i]])
        assert len(example['answers']) == 4
        for answer in example['answers']:
            triple = int(head_index[i]), r, entities.index(answer['entity'])
            assert triple not in train
            assert (answer['known'] != 'new') or triple not in test


def test_changed_data_is_noticed(run):
    for change, part in [('triples', 'triples'), ('label', 'labels'), ('feature', 'features'),
                         ('mask', 'features'), ('relation', 'labels')]:
        data = FakeMMKG(inductive=True)[0].clone()
        if change == 'triples':
            data[EDGE].test_edge_label_type[0] += 1
        elif change == 'label':
            data['entity'].label = ['another', *data['entity'].label[1:]]
        elif change == 'relation':
            data[EDGE].label = [*data[EDGE].label[:-1], 'another']
        elif change == 'mask':
            data['entity'].text_mask[0] ^= True
        else:
            data['entity'].image[2, 0] += 1
        different = [key for key, value in fingerprint(data).items()
                     if value != fingerprint(run.data)[key]]
        assert different == [part]
        with pytest.raises(ValueError, match=f'The {part} of the dataset are not those that the '
                                             f"model was trained on .*config.yaml'"):
            load_run(run.path, data=data)


def test_another_modality_changes_the_fingerprint(run):
    data = FakeMMKG(inductive=True)[0].clone()
    set_modality(data, 'sound', torch.ones(data['entity'].num_nodes, 2))
    assert fingerprint(data)['features'] != fingerprint(run.data)['features']
    assert fingerprint(FakeMMKG(inductive=True)[0]) == fingerprint(run.data)


def test_missing_parts(run, copied):
    with pytest.raises(FileNotFoundError, match="There is no run folder '/nowhere'"):
        load_run('/nowhere')
    (copied / 'model.safetensors').rename(copied / 'away')
    with pytest.raises(FileNotFoundError, match=r"model.safetensors': the run has no weights"):
        reload(run, copied)
    (copied / 'config.yaml').unlink()
    with pytest.raises(FileNotFoundError, match=r"config.yaml', so this is no run folder"):
        reload(run, copied)


def test_truncated_weights(run, copied):
    path = copied / 'model.safetensors'
    content = path.read_bytes()
    for size in (0, 7, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"model.safetensors' is damaged or no safetensors"):
            reload(run, copied)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"model.safetensors' is damaged \(its checksum"):
        reload(run, copied)


def test_pickled_weights_are_not_run(run, copied):
    torch.save(run.model.state_dict(), copied / 'model.safetensors')
    with pytest.raises(ValueError, match=r"model.safetensors' is damaged or no safetensors"):
        reload(run, copied)


def test_foreign_weights(run, copied, tmp_path):
    path = copied / 'model.safetensors'
    save_file(load_file(path), path)
    with pytest.raises(ValueError, match=r"model.safetensors' holds no weights of this package"):
        reload(run, copied)
    other = train_run(FakeMMKG(inductive=True), 'complex', epochs=1, out=tmp_path / 'other')
    shutil.copy(other.path / 'model.safetensors', path)
    with pytest.raises(ValueError, match=r"model.safetensors' does not fit the model of .*config"):
        reload(run, copied)
    other = train_run(FakeMMKG(inductive=True), epochs=1, out=tmp_path / 'wider',
                      overrides={**SMALL, 'hidden_channels': 12})
    shutil.copy(other.path / 'model.safetensors', path)
    with pytest.raises(ValueError, match=r"model.safetensors' does not fit .*size mismatch"):
        reload(run, copied)


@pytest.mark.parametrize('text,message', [
    ('', "it needs a mapping with a mapping 'data'"),
    ('{name: x, data: 3}', "it needs a mapping with a mapping 'data'"),
    ('{name: x, data: {}}', "'dataset' is missing"),
    ('{name: x, dataset: x, data: {}, model: {name: gpt}, sampler: null, train: {}}',
     "Unknown model 'gpt'"),
    ('a: [', 'malformed YAML'),
    ('a: !!python/object/apply:os.getcwd []', 'malformed YAML'),
])
def test_damaged_config(run, copied, text, message):
    (copied / 'config.yaml').write_text(text)
    with pytest.raises(ValueError, match=rf"config.yaml' is damaged or of another version "
                                         rf'\({message}'):
        reload(run, copied)


@pytest.mark.parametrize('name', ['metrics.json', 'history.jsonl'])
@pytest.mark.parametrize('text', ['{"a": ', '[1]'])
def test_damaged_json(run, copied, name, text):
    (copied / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{name}' is damaged"):
        reload(run, copied)


def test_unknown_device(run):
    for device in ('gpu', 'cpu:x'):
        with pytest.raises(ValueError, match=f"'device' '{device}' is unknown or not there"):
            load_run(run.path, data=run.data, device=device)


# What goes wrong, and what is left then


def test_data_without_a_test_split(tmp_path):
    dataset = FakeMMKG()
    del dataset._data[EDGE]['test_edge_label_type']
    with pytest.raises(ValueError, match=r"The data has no split 'test' \(got \['train', 'val'\]"):
        train_run(dataset, out=tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_existing_folder(tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'precious').write_text('x')
    with pytest.raises(FileExistsError, match=r"The run folder '.*run' exists; a run is never"):
        train_run(FakeMMKG(), 'complex', epochs=1, out=tmp_path / 'run')
    assert [path.name for path in (tmp_path / 'run').iterdir()] == ['precious']


def test_folder_that_appears_meanwhile(tmp_path, monkeypatch):
    class Racing(run_module.Fit):
        def __init__(self, *args, **kwargs):
            (tmp_path / 'run').mkdir()
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(run_module, 'Fit', Racing)
    with pytest.raises(FileExistsError, match='a run is never overwritten'):
        train_run(FakeMMKG(), 'complex', epochs=1, out=tmp_path / 'run')
    assert list((tmp_path / 'run').iterdir()) == []


def interrupt(monkeypatch, epoch, times=1):
    r"""Make training raise `KeyboardInterrupt` in an epoch, in the first `times` trainings."""
    calls, run_epoch = [], Trainer._epoch

    def interrupted(self, *args):
        calls.append(self)
        if len(calls) == epoch:
            raise KeyboardInterrupt
        return run_epoch(self, *args)

    monkeypatch.setattr(Trainer, '_epoch', interrupted)


def test_interrupt_keeps_the_best_weights(tmp_path, monkeypatch, caplog):
    interrupt(monkeypatch, epoch=4)
    run = train_run(FakeMMKG(), epochs=9, out=tmp_path / 'run', overrides=SMALL)
    assert run.interrupted
    assert f'3 epochs: the best weights so far are in {run.path / "model.safetensors"}' in (
        caplog.text)
    assert len(run.history) == 3
    best = max(entry['val_mrr'] for entry in run.history)
    loaded = load_run(run.path, data=run.data)
    assert loaded.interrupted
    assert loaded.metrics == {}
    assert evaluate(loaded.model, run.data, 'val').mrr == best
    assert not (run.path / 'metrics.json').exists()
    assert loaded.config['result']['interrupted']


def test_interrupt_in_the_first_epoch(tmp_path, monkeypatch):
    interrupt(monkeypatch, epoch=1)
    run = train_run(FakeMMKG(), epochs=9, out=tmp_path / 'run', overrides=SMALL)
    assert run.interrupted
    assert load_run(run.path, data=run.data).history == []


@pytest.mark.parametrize('where', ['baseline', 'evaluation'])
def test_interrupt_after_training(tmp_path, monkeypatch, where):
    if where == 'baseline':
        interrupt(monkeypatch, epoch=3)
    else:
        def raising(*args, **kwargs):
            raise KeyboardInterrupt
        monkeypatch.setattr(run_module, 'evaluate', raising)
    run = train_run(FakeMMKG(), epochs=2, out=tmp_path / 'run', overrides=SMALL)
    assert run.interrupted
    assert load_run(run.path, data=run.data).interrupted
    assert len(run.history) == 2


def test_interrupt_before_training(tmp_path, monkeypatch):
    def raising(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, '_fit', raising)
    with pytest.raises(KeyboardInterrupt):
        train_run(FakeMMKG(), out=tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_diverging_training(tmp_path, monkeypatch):
    run_epoch, calls = Trainer._epoch, []

    def diverging(self, *args):
        calls.append(self)
        if len(calls) == diverge_at:
            raise FloatingPointError('the loss is not finite')
        return run_epoch(self, *args)

    monkeypatch.setattr(Trainer, '_epoch', diverging)
    diverge_at = 1
    with pytest.raises(FloatingPointError, match='^the loss is not finite$'):
        train_run(FakeMMKG(), epochs=9, out=tmp_path / 'run', overrides=SMALL)
    assert not (tmp_path / 'run').exists()
    diverge_at = 4
    with pytest.raises(FloatingPointError, match=r'the best weights before that are in .*run'):
        train_run(FakeMMKG(), epochs=9, out=tmp_path / 'run', overrides=SMALL)
    assert len(load_run(tmp_path / 'run', data=FakeMMKG()[0]).history) == 2


# Pictures


def test_relation_modality_weights(run):
    weights = relation_modality_weights(run.model, run.data)
    assert weights.shape == (10, 4)
    head_index, rel_type, tail_index = get_triples(run.data, 'train')
    with torch.no_grad():
        for r in range(5):
            mask = rel_type == r
            for row, index in [(r, head_index[mask]), (r + 5, tail_index[mask])]:
                if r == 4:  # Never in training.
                    assert bool(weights[row].isnan().all())
                    continue
                expected = sum(run.model.modality_weights(i.view(1), torch.tensor([row]))[0]
                               for i in index) / len(index)
                assert torch.allclose(weights[row], expected, atol=1e-5)
                assert weights[row].sum() == pytest.approx(1, abs=1e-5)


def test_relation_modality_weights_need_a_model_that_weighs():
    data = FakeMMKG()[0]
    with pytest.raises(ValueError, match='DistMult does not weigh modalities'):
        relation_modality_weights(DistMult.from_data(data, hidden_channels=4), data)


def test_rare_relations_are_left_out(run, monkeypatch):
    monkeypatch.setattr('pyg_mmkgc.training.plots.MAX_RELATIONS', 2)
    frequency = torch.bincount(get_triples(run.data, 'train')[1], minlength=5)
    kept = ~relation_modality_weights(run.model, run.data).isnan().any(1)
    top = set(frequency.argsort(descending=True, stable=True)[:2].tolist())
    assert {r for r in range(5) if kept[r]} == top
    assert torch.equal(kept[:5], kept[5:])


def test_plots(tmp_path):
    history = [{'epoch': 1, 'loss': 2.0}, {'epoch': 2, 'loss': 1.0, 'val_mrr': 0.25}]
    plot_curves(history, tmp_path / 'a.png')
    plot_curves(history[:1], tmp_path / 'b.png')
    plot_curves([], tmp_path / 'c.png')
    weights = torch.tensor([[0.5, 0.5], [float('nan')] * 2] * 2)
    plot_modality_weights(weights, ['text', 'image'], ['$\\frac{', 's'], tmp_path / 'd.png')
    contents = {path.read_bytes() for path in tmp_path.glob('*.png')}
    assert len(contents) == 4
    assert len(list(tmp_path.iterdir())) == 4
