r"""What holds for all models whatever the graph: what is missing has no content, and what is saved
is what comes back."""
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyg_mmkgc.data import build_data, get_triples, modality_dicts, split_triples
from pyg_mmkgc.nn import AdditiveComplEx, ComplEx, MoCME, MoMoK

N, R = 9, 2
MODALITIES = {'image': 3, 'text': 2}
MODELS = {
    'additive': (AdditiveComplEx, {}),
    'mocme': (MoCME, {'num_references': 4, 'max_samples': 4, 'num_experts': 2}),
    'mocme_club': (MoCME, {'num_references': 4, 'max_samples': 4, 'estimator': 'club'}),
    'mocme_rotate': (MoCME, {'num_references': 4, 'max_samples': 4, 'decoder': 'rotate'}),
    'momok': (MoMoK, {'num_samples': 4, 'num_experts': 2}),
    'momok_tuned': (MoMoK, {'num_samples': 4, 'num_experts': 2, 'tune_features': True}),
}
SETTINGS = settings(max_examples=12, derandomize=True, deadline=None, database=None,
                    suppress_health_check=list(HealthCheck))

triples = st.lists(st.tuples(st.integers(0, N - 1), st.integers(0, R - 1), st.integers(0, N - 1)),
                   min_size=1, max_size=12)
masks = st.lists(st.lists(st.booleans(), min_size=N, max_size=N), min_size=2, max_size=2)
garbage = st.sampled_from([float('nan'), float('inf'), -float('inf'), 1e30, 7.0])


def build(rows, mask, seed=0):
    generator = torch.Generator().manual_seed(seed)
    train = torch.tensor(rows)
    modalities = {m: (torch.randn(N, channels, generator=generator), torch.tensor(has))
                  for (m, channels), has in zip(MODALITIES.items(), mask, strict=True)}
    return build_data({'train': train, 'val': train[:1], 'test': train[:1]},
                      [f'e{i}' for i in range(N)], [f'r{i}' for i in range(R)], modalities)


def make(cls, data, seed=0, **kwargs):
    torch.manual_seed(seed)
    model = cls.from_data(data, hidden_channels=4, init_scale=0.5, **kwargs)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
        model.train().encode()
    return model.eval()


def scores(model):
    every = torch.arange(N).repeat_interleave(2 * R), torch.arange(2 * R).repeat(N)
    with torch.no_grad():
        return torch.cat([model.score_all(*every).flatten(), model(*every, every[0].flip(0))])


def spoil(model, value):
    """Something else where nothing is known: missing features, and vectors of unseen entities."""
    with torch.no_grad():
        for m in MODALITIES:
            missing = ~getattr(model, f'mask_{m}')
            getattr(model, f'x_{m}')[missing] = value
            if m in getattr(model, 'shift', ()):
                model.shift[m].weight[missing] = value
        model.structure.weight[~model.seen] = value


@pytest.mark.parametrize('name', MODELS)
@SETTINGS
@given(rows=triples, mask=masks, value=garbage)
def test_what_is_missing_has_no_content(name, rows, mask, value):
    cls, options = MODELS[name]
    data = build(rows, mask)
    model, spoiled = make(cls, data.clone(), **options), make(cls, data.clone(), **options)
    for m in MODALITIES:  # Features are shared with the data and among models.
        setattr(spoiled, f'x_{m}', getattr(spoiled, f'x_{m}').clone())
    expected = scores(model)
    assert bool(expected.isfinite().all())
    spoil(spoiled, value)
    assert scores(spoiled).equal(expected)

    # Nor does it reach a weight of another entity in training, dropout and noise being the same:
    batch, grads = get_triples(data, 'train'), []
    for each in (model, spoiled):
        each.train()
        torch.manual_seed(1)
        loss = each.loss(*batch)
        assert bool(loss.isfinite())
        loss.backward()
        grads.append({n: p.grad for n, p in each.named_parameters() if p.grad is not None})
    for n, grad in grads[0].items():
        assert bool(grads[1][n].isfinite().all()), n
        assert torch.allclose(grads[1][n], grad, rtol=1e-5, atol=1e-6), n


@SETTINGS
@given(rows=triples, mask=masks, seed=st.integers(0, 2**31), num_experts=st.integers(1, 3),
       decoder=st.sampled_from(['complex', 'distmult', 'rotate', 'transe', 'tucker']),
       heads=st.sampled_from([None, [], ['text'], ['structure', 'image']]),
       structure_channels=st.sampled_from([None, 3]), inter=st.booleans(),
       estimator=st.sampled_from(['info_nce', 'club']))
def test_what_is_saved_comes_back(rows, mask, seed, num_experts, **options):
    data = build(rows, mask)
    options = {'num_references': 4, 'max_samples': 4, 'num_experts': num_experts, **options}
    model, other = make(MoCME, data, seed, **options), make(MoCME, data, seed + 1, **options)
    content = safetensors.torch.save(model.state_dict())
    other.load_state_dict(safetensors.torch.load(content))
    assert scores(other).equal(scores(model))


@SETTINGS
@given(rows=triples, seed=st.integers(0, 100))
def test_a_split_keeps_every_triple_once_and_every_entity_in_train(rows, seed):
    train = torch.tensor(rows * 3 + [(i, i % R, (i + k) % N) for i in range(N) for k in (1, 2, 3)])
    splits = split_triples(train, (0.6, 0.2, 0.2), seed)
    found = torch.cat(list(splits.values()))
    assert sorted(map(tuple, found.tolist())) == sorted(set(map(tuple, train.tolist())))
    assert set(splits['train'][:, [0, 2]].flatten().tolist()) == set(range(N))
    assert set(splits['train'][:, 1].tolist()) == set(range(R))


@SETTINGS
@given(rows=triples, mask=masks, order=st.permutations(range(N)))
def test_the_names_of_entities_do_not_matter(rows, mask, order):
    data, perm = build(rows, mask), torch.tensor(order)
    inverse = perm.argsort()
    x, has = modality_dicts(data)
    train = torch.stack(get_triples(data, 'train'), dim=1)
    train[:, [0, 2]] = perm[train[:, [0, 2]]]
    other = build_data({'train': train, 'val': train[:1], 'test': train[:1]},
                       data['entity'].label, [f'r{i}' for i in range(R)],
                       {m: (x[m][inverse], has[m][inverse]) for m in x})
    for cls in (ComplEx, AdditiveComplEx):
        kwargs = {} if cls is ComplEx else {'dropout': 0.0, 'modality_dropout': 0.0}
        model, renamed = make(cls, data, **kwargs), make(cls, other, **kwargs)
        with torch.no_grad():
            renamed.structure.weight.copy_(model.structure.weight[inverse])
        loss = model.loss(*get_triples(data, 'train'))
        torch.testing.assert_close(renamed.loss(*get_triples(other, 'train')), loss, rtol=1e-5,
                                   atol=1e-6)
