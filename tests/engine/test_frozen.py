r"""What is kept between batches while nothing is trained, against what is computed each time."""
import pytest
import torch

from pyg_mmkgc.data import get_triples
from pyg_mmkgc.evaluation import evaluate
from pyg_mmkgc.nn import ComplEx, MoCME, MoMoK
from pyg_mmkgc.nn.decoders import TuckERDecoder, tucker
from pyg_mmkgc.nn.models import base
from pyg_mmkgc.sampler import Uniform
from pyg_mmkgc.testing import FakeMMKG

N, R, C = 40, 3, 6


@pytest.fixture(scope='module')
def data():
    return FakeMMKG(N, R, {'image': 5, 'text': 4}, num_triples=90, seed=1)[0]


@torch.no_grad()
@pytest.mark.parametrize('max_numel', [0, 2**26])
def test_frozen_matrices_are_built_once_and_right(monkeypatch, max_numel):
    monkeypatch.setattr(tucker, 'MAX_NUMEL', max_numel)
    torch.manual_seed(0)
    decoder = TuckERDecoder(R, C, 4).double().eval()
    built, matrix = [], decoder._matrix
    monkeypatch.setattr(decoder, '_matrix', lambda x: built.append(x.size(0)) or matrix(x))
    query = decoder.frozen_query()
    for rel_type in torch.tensor([[1, 1, 1], [5, 0, 5], [2, 2, 0], [4, 3, 4], [1, 1, 1]]):
        head = torch.randn(3, C, dtype=torch.double)
        expected = torch.einsum('kij,bk,bi->bj', decoder.core, decoder.rel_emb(rel_type), head)
        torch.testing.assert_close(query(head, rel_type, decoder.distinct(rel_type)), expected)
    # The first batch does not pay for all relations; with no room for them, none does.
    assert built == ([] if max_numel == 0 else [1, 2 * R])


def test_frozen_queries_are_not_frozen_in_training():
    torch.manual_seed(0)
    decoder = TuckERDecoder(R, C).double()
    query, head = decoder.frozen_query(), torch.randn(4 * R, C, dtype=torch.double)
    rel_type = torch.arange(4 * R) % (2 * R)
    for _ in range(2):
        out = query(head, rel_type, decoder.distinct(rel_type))
        torch.testing.assert_close(out, decoder.query(head, rel_type))
        grad, = torch.autograd.grad(out.sum(), decoder.core)
        assert bool(grad.any())
        with torch.no_grad():
            decoder.core.mul_(2)


@pytest.mark.parametrize('cls', [ComplEx, MoCME, MoMoK])
def test_scores_under_autocast_are_those_of_each_batch(cls, data):
    # The table of candidates is cast once.
    torch.manual_seed(0)
    model = cls.from_data(data, hidden_channels=8, init_scale=0.5).eval()
    head_index, rel_type, _ = get_triples(data, 'test')
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        encoded = model.encode()
        query = model.decoder.query(model.head_vectors(encoded, head_index, rel_type), rel_type)
        expected = model.decoder.score_all(query, model.candidate_vectors(encoded)).float()
        out = model.scorer()(head_index, rel_type, 0, N).float()
    torch.testing.assert_close(out, expected, rtol=0.03, atol=0.03)
    assert float(out.std()) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize('rows', [1, 7, 512])
def test_candidates_in_blocks(monkeypatch, rows, data):
    from pyg_mmkgc.nn.models import momok
    torch.manual_seed(0)
    model = MoMoK.from_data(data, hidden_channels=8).eval()
    monkeypatch.setattr(momok, 'BLOCK_ROWS', rows)
    encoded = model.encode()
    torch.testing.assert_close(model.candidate_vectors(encoded), model._vectors(encoded))


def test_a_graph_is_indexed_when_it_is_asked(monkeypatch, data):
    splits, build_index = [], base.build_index

    def spy(data, names=None):
        splits.append(names)
        return build_index(data, names)

    monkeypatch.setattr(base, 'build_index', spy)
    batch = get_triples(data, 'train')
    model = ComplEx.from_data(data, hidden_channels=4)
    model.loss(*batch)
    evaluate(model, data, 'test')
    assert splits == []
    model = ComplEx.from_data(data, hidden_channels=4, objective='bce')
    model.loss(*batch)
    model.loss(*batch)
    assert splits == [['train']]
    model.test(*batch, batch_size=8, log=False)
    assert splits == [['train'], None]
    assert torch.equal(model.known.keys, build_index(data).keys)
    assert torch.equal(model.train_known.keys, build_index(data, ['train']).keys)


def test_gates_of_a_large_graph_are_trained_on_some_candidates(monkeypatch, data):
    torch.manual_seed(0)
    sampler = Uniform(N, 3)
    model = MoCME.from_data(data, hidden_channels=4, init_scale=0.5, objective='sampled',
                            neg_sampling=sampler, num_references=8, max_samples=16).double()
    model.train().encode()
    val = get_triples(data, 'val')
    found, encode = [], model.encode
    monkeypatch.setattr(model, 'encode', lambda index=None: found.append(index) or encode(index))
    monkeypatch.setattr(base, 'ENCODE_CHUNK', 9)
    loss = model.gate_loss(*val)
    index, = found
    assert index.numel() <= 9 + 2 * val[0].numel()
    loss.backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in model.gates())
    monkeypatch.setattr(base, 'ENCODE_CHUNK', N)
    score = model.eval().score_all(*val[:2])
    facts = set(zip(*(x.tolist() for x in get_triples(data, 'train')), strict=True))
    expected = 0
    for i, (h, r, t) in enumerate(zip(*(x.tolist() for x in val), strict=True)):
        others = [e for e in index.tolist() if e == t or (h, r, e) not in facts]
        expected += score[i, others].logsumexp(dim=0) - score[i, t]
    torch.testing.assert_close(loss, expected / val[0].numel())
