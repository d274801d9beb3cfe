import copy
import json
import sys

import pytest
import torch

from pyg_mmkgc.data import (
    EDGE,
    build_index,
    get_triples,
    hold_out,
    seen_entities,
    set_triples,
)
from pyg_mmkgc.datasets import Atlas
from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.training import (
    Fit,
    calibrate,
    cross_predict,
    find_recipe,
    load_run,
    suspects,
    train_run,
)

SMALL = {'model.hidden_channels': 8, 'train.select': None, 'train.epochs': 2}


def plant(data, share, seed):
    r"""Training triples of which some have another tail, and which these are."""
    generator = torch.Generator().manual_seed(seed)
    head_index, rel_type, tail_index = get_triples(data, 'train')
    known, pool = build_index(data), seen_entities(data).nonzero().view(-1)
    planted = torch.zeros(rel_type.numel(), dtype=torch.bool)
    planted[torch.randperm(rel_type.numel(), generator=generator)[:round(
        share * rel_type.numel())]] = True
    wrong = pool[torch.randint(pool.numel(), tail_index.shape, generator=generator)]
    planted &= ~known.contains(head_index, rel_type, wrong)
    out = copy.copy(data)
    out.candidates = 'all'
    set_triples(out, 'train', torch.stack(
        [head_index, rel_type, torch.where(planted, wrong, tail_index)], dim=1))
    return out, planted


def area(probability, planted):
    r"""How likely a planted triple comes before another, by comparing all pairs."""
    below = probability[planted].unsqueeze(1) < probability[~planted]
    equal = probability[planted].unsqueeze(1) == probability[~planted]
    return float((below.double() + 0.5 * equal.double()).mean())


def test_planted_triples_come_first():
    r"""Means of two seeds; one half is chance, and so is 5 % among the first."""
    areas, shares = {}, {}
    for seed in (0, 1):
        data, planted = plant(Atlas()[0], 0.05, seed)
        nearest = Fit(find_recipe('nearest', 'atlas').override({'train.seed': seed}), data)
        nearest()
        recipe = find_recipe('complex', 'atlas').override(
            {'hidden_channels': 100, 'epochs': 20, 'select': None, 'train.seed': seed})
        memory = Fit(recipe, data)
        memory()
        triples = get_triples(data, 'train')
        for name, found in [('nearest', nearest.model.predict_triples(*triples)),
                            ('remembers', memory.model.predict_triples(*triples)),
                            ('folds', cross_predict(recipe, data, 3))]:
            areas[name] = areas.get(name, 0) + area(found.probability, planted) / 2
            first = [triple['index'] for triple in suspects(data, found, top=int(planted.sum()))]
            shares[name] = shares.get(name, 0) + float(planted[first].double().mean()) / 2
    # Nearest neighbours never see a triple when they judge it:
    assert areas['nearest'] > 0.75, areas
    assert shares['nearest'] > 0.1, shares
    # What a structure-only model was trained on it believes, unless it is trained without:
    assert areas['folds'] > 0.65, areas
    assert shares['folds'] > 0.15, shares
    assert areas['remembers'] < areas['folds'] - 0.1, areas


def test_suspects():
    data = FakeMMKG()[0]
    fit = Fit(find_recipe('additive').override(SMALL), data)
    fit()
    found = fit.model.predict_triples(*get_triples(data, 'val'))
    listed = suspects(data, found, 'val', top=7)
    order = sorted(range(found.score.numel()), key=lambda i: float(found.probability[i]))
    assert [triple['probability'] for triple in listed] == [float(found.probability[i])
                                                            for i in order[:7]]
    for triple in listed:
        i = triple['index']
        h, r, t = (int(x[i]) for x in get_triples(data, 'val'))
        assert (triple['head'], triple['relation'], triple['tail']) == (
            data['entity'].label[h], data[EDGE].label[r], data['entity'].label[t])
        assert triple['head_rank'] == float(found.head_rank[i])
    with pytest.raises(ValueError, match=r"'found' is of .* triples \(expected the"):
        suspects(data, found, 'train')
    with pytest.raises(ValueError, match="'top' needs to be at least 1"):
        suspects(data, found, 'val', top=0)


def test_a_fold_is_judged_by_a_model_without_it(monkeypatch):
    module = sys.modules['pyg_mmkgc.training.suspects']  # The function has its name.
    data, known = FakeMMKG()[0], []
    predict_triples = module.predict_triples

    def spy(model, *triples):
        known.append((model.train_known, triples[:3]))
        return predict_triples(model, *triples)

    monkeypatch.setattr(module, 'predict_triples', spy)
    found = cross_predict(find_recipe('additive').override(SMALL), data, 3)
    assert len(known) == 3
    for train, triples in known:
        assert not train.contains(*triples).any()  # Not even a repeat of it.
    assert sum(triples[0].numel() for _, triples in known) == found.score.numel()
    for train, triples in known:
        total = get_triples(data, 'train')
        held = ~train.contains(*total)
        assert torch.equal(torch.stack([x[held] for x in total]), torch.stack(triples))
    with pytest.raises(ValueError, match="'folds' needs to be from 2 to the"):
        cross_predict(find_recipe('additive'), data, 1)


def test_run(tmp_path):
    run = train_run(FakeMMKG(), 'additive', device='cpu', out=tmp_path / 'run', overrides=SMALL)
    first = run.suspects(top=4)
    assert len(first) == 4
    expected = suspects(run.data, run.model.predict_triples(
        *get_triples(run.data, 'train'), temperature=run.calibration['temperature']), top=4)
    assert first == expected
    assert len(run.suspects(top=3, folds=2)) == 3
    with pytest.raises(ValueError, match="'folds' are of split 'train'.*got 'val'"):
        run.suspects('val', folds=2)
    # What is kept of the calibration:
    kept = json.loads((tmp_path / 'run' / 'calibration.json').read_text())
    assert kept == run.calibration == load_run(tmp_path / 'run', data=run.data).calibration
    assert kept['temperature'] > 0
    assert kept['filter_splits'] == ['train', 'val']
    assert set(kept['reliability']) == {'val', 'test'}
    assert run.predict(head=1, relation=0) == run.predict(head=1, relation=0,
                                                          temperature=kept['temperature'])
    assert run.predict(head=1, relation=0) != run.predict(head=1, relation=0, temperature=None)
    with pytest.raises(ValueError, match="loaded for given 'data', so its encoders are not"):
        load_run(tmp_path / 'run', data=run.data).encode_entity({'text': 'x'})
    with pytest.raises(ValueError, match="'text' cannot be encoded here .FakeMMKG has no encoder"):
        run.encode_entity({'text': 'x'})


def test_nothing_is_calibrated_on_a_spent_validation():
    data = FakeMMKG()[0]
    fit = Fit(find_recipe('complex').override(SMALL), data)
    values, parts = calibrate(fit.model, data)
    assert values['temperature'] > 0
    assert set(parts) == {'before', 'after'}
    spent = copy.copy(data)
    set_triples(spent, 'val', torch.stack(get_triples(data, 'train'), dim=1)[:20])
    values, parts = calibrate(fit.model, spent)
    assert values['temperature'] is None
    assert parts == {}
    assert 'stands mostly in train' in values['reason']
    none = copy.copy(hold_out(data))
    del none[EDGE].val_edge_label_index, none[EDGE].val_edge_label_type
    assert calibrate(fit.model, none)[0] == {'temperature': None,
                                             'reason': "there is no split 'val'"}
