import logging

import pytest
import torch

from pyg_mmkgc.data import build_data, get_triples, modality_dicts
from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.training import Fit, Recipe, Trainer

TRAIN = {'epochs': 4, 'batch_size': 64, 'eval_every': 1, 'device': 'cpu'}


def recipe(name='complex', sampler=None, **train):
    model = {'name': name, 'hidden_channels': 8}
    if name == 'mocme':
        model.update(num_references=8, max_samples=16)
    return Recipe('test', model, sampler, {**TRAIN, **train})


def spent_data():
    r"""A graph whose validation triples are training triples."""
    data = FakeMMKG(seed=1)[0]
    splits = {split: torch.stack(get_triples(data, split), dim=1) for split in ('train', 'test')}
    splits['val'] = splits['train'][:40]
    x, mask = modality_dicts(data)
    return build_data(splits, data['entity'].label, data['entity', 'to', 'entity'].label,
                      {m: (x[m], mask[m]) for m in x})


def state_of(model):
    return {name: x.clone() for name, x in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def test_trains_as_the_trainer_does():
    data, entries = FakeMMKG(seed=1)[0], []
    fit = Fit(recipe(), data, on_epoch=entries.append)
    result = fit()
    other = Fit(recipe(), data)
    expected = Trainer(recipe().train_config()).fit(other.model, data)
    assert same(state_of(fit.model), state_of(other.model))
    assert (result.best_epoch, result.best_mrr) == (expected.best_epoch, expected.best_mrr)
    assert entries == result.history
    assert not any('choosing' in entry for entry in entries)


def test_spent_validation_is_not_used(monkeypatch, caplog):
    data, seen = spent_data(), []
    fit_trainer = Trainer.fit

    def spy(self, model, data):
        seen.append((get_triples(data, 'train'), get_triples(data, 'val'), self.config.select,
                     self.config.epochs, model.train_known))
        return fit_trainer(self, model, data)

    monkeypatch.setattr(Trainer, 'fit', spy)
    with caplog.at_level(logging.WARNING):
        fit = Fit(recipe(held_out=0.1), data)
        result = fit()
    assert "'val' stands mostly in train, so nothing is chosen on it" in caplog.text
    first, second = seen
    assert first[2] == 'val'
    assert not bool(first[4].contains(*first[1]).any())  # Nor does the model know them.
    assert second[2:4] == (None, result.best_epoch)
    assert torch.equal(torch.stack(second[0]), torch.stack(get_triples(data, 'train')))
    choosing = [entry for entry in result.history if 'choosing' in entry]
    final = [entry for entry in result.history if 'choosing' not in entry]
    assert [entry['epoch'] for entry in final] == list(range(1, result.best_epoch + 1))
    assert result.best_mrr == max(entry['val_mrr'] for entry in choosing)
    assert fit.model.known is not None
    assert same(state_of(fit.model), state_of(self_trained(data, result.best_epoch)))


def self_trained(data, epochs):
    fit = Fit(recipe(select=None, epochs=epochs), data)
    fit()
    return fit.model


def test_fixed_epochs_need_no_validation(monkeypatch, caplog):
    Fit(recipe(select=None), spent_data())()
    assert caplog.text == ''


def test_weights_of_modalities_are_kept(monkeypatch):
    data, gates = spent_data(), []
    fit_trainer = Trainer.fit

    def spy(self, model, data):
        result = fit_trainer(self, model, data)
        gates.append([p.detach().clone() for p in model.gates()])
        return result

    monkeypatch.setattr(Trainer, 'fit', spy)
    fit = Fit(recipe('mocme', gate_split='val'), data)
    start = [p.detach().clone() for p in fit.model.gates()]
    fit()
    assert len(start) > 0
    assert any(not a.equal(b) for a, b in zip(start, gates[0], strict=True))  # They were learned,
    assert all(a.equal(b) for a, b in zip(gates[0], gates[1], strict=True))  # and then kept.
    assert all(p.requires_grad for p in fit.model.gates())


def test_interrupted_while_choosing(monkeypatch):
    calls, epoch = [], Trainer._epoch

    def interrupted(self, *args):
        calls.append(self)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return epoch(self, *args)

    monkeypatch.setattr(Trainer, '_epoch', interrupted)
    fit = Fit(recipe(), spent_data())
    result = fit()
    assert result.interrupted
    assert len(result.history) == 2
    assert result.best_mrr == max(entry['val_mrr'] for entry in result.history)


def test_held_out_share_is_checked():
    with pytest.raises(ValueError, match=r"'held_out' needs to be between 0 and 1 \(got 1.5\)"):
        recipe(held_out=1.5)
