import pytest
import torch

from pyg_mmkgc.data import STRUCTURE, seen_entities
from pyg_mmkgc.nn import LateFusion
from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.training import TrainConfig, Trainer

N, R, C = 24, 3, 6


@pytest.fixture(scope='module')
def data():
    return FakeMMKG(N, R, {'image': 5, 'text': 4}, seed=1)[0]


def make(data, **kwargs):
    torch.manual_seed(0)
    model = LateFusion.from_data(data, hidden_channels=C, init_scale=0.5, **kwargs).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


@torch.no_grad()
def test_the_score_is_the_weighted_sum_of_single_models(data):
    model = make(data)
    decision = model.decoder
    x = {'image': torch.where(model.mask_image.unsqueeze(1), model.x_image, 0.0),
         'text': torch.where(model.mask_text.unsqueeze(1), model.x_text, 0.0)}
    vectors = {m: x[m] @ model.projection[m] for m in x}
    vectors[STRUCTURE] = model.structure.weight
    has = {'image': model.mask_image, 'text': model.mask_text, STRUCTURE: model.seen}
    head_index, rel_type = torch.arange(N), torch.arange(N) % (2 * R)
    expected, of_head, common, offsets = (torch.zeros(N, N) for _ in range(4))
    for i, m in enumerate(sorted(vectors)):
        score = decision.decoders[m].score_all(
            decision.decoders[m].query(vectors[m], rel_type), vectors[m])
        gate = (decision.weight[i] + decision.relation_weight.weight[rel_type, i]).exp()
        offset = decision.offset[i] + decision.relation_offset.weight[rel_type, i]
        both = has[m][:, None] & has[m]
        expected += gate[:, None] * score * both
        of_head += gate[:, None] * has[m][:, None]
        common += gate[:, None] * both
        offsets += offset[:, None] * both
    expected = torch.where(common > 0, expected * of_head / common, 0.0) + offsets
    torch.testing.assert_close(model.score_all(head_index, rel_type), expected, rtol=1e-4,
                               atol=1e-4)


@torch.no_grad()
def test_modality_weights(data):
    model = make(data)
    weights = model.modality_weights(torch.arange(N), torch.arange(N) % R)
    i = model.modalities.index(STRUCTURE)
    assert not weights[~seen_entities(data), i].any()
    has = seen_entities(data) | model.mask_image | model.mask_text
    torch.testing.assert_close(weights.sum(dim=1), has.float())


def test_each_modality_has_a_loss_of_its_own_and_gates_learn_on_held_out_triples(data):
    model = make(data)
    log = {}
    batch = torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor([2, 3])
    model.held_out_gates = True
    model.loss(*batch, log=log).backward()
    assert set(log) == {'softmax_image', 'softmax_structure', 'softmax_text'}
    assert all(p.grad is None or not p.grad.any() for p in model.gates())
    before = [p.detach().clone() for p in model.gates()]
    Trainer(TrainConfig(epochs=2, eval_every=1, gate_split='val', device='cpu')).fit(model, data)
    assert not model.gates()[0].equal(before[0])


@pytest.mark.parametrize('kwargs, match', [
    ({'decoder': 'conve'}, r"Unknown 'decoder' 'conve' .*'complex', 'distmult'"),
    ({'structure_channels': 4}, r"'structure_channels' needs to be 0 or 'hidden_channels' \(6\)"),
    ({'norm_weight': {'audio': 1.0}}, r"'norm_weight' names the unknown decoder 'audio'"),
])
def test_bad_arguments(kwargs, match, data):
    with pytest.raises(ValueError, match=match):
        LateFusion.from_data(data, hidden_channels=C, **kwargs)
