import json
import subprocess
import sys
import zipfile

import pytest
import torch

from pyg_mmkgc.export import export_scorer
from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.training.recipe import MODELS

EXPORTED = sorted(set(MODELS) - {'nearest'})
#: What a process does that has torch and nothing of ours, nor of PyG.
CHILD = """
import importlib.abc, json, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('pyg_mmkgc', 'torch_geometric', 'torch_scatter', 'pyg_lib'):
            raise ImportError(f'{name} is blocked')

sys.meta_path.insert(0, Block())
try:
    import pyg_mmkgc
    raise SystemExit('not blocked')
except ImportError:
    pass
import torch

for path in sys.argv[1:]:
    files = {'labels.json': ''}
    scorer = torch.export.load(f'{path}.pt2', extra_files=files).module()
    labels = json.loads(files['labels.json'])
    expected = torch.load(f'{path}.expected', weights_only=True)
    for head_index, rel_type, score in expected:
        found = scorer(head_index, rel_type)
        assert found.shape == (len(head_index), len(labels['entities'])), found.shape
        torch.testing.assert_close(found, score)
        assert torch.equal(found.argmax(1), score.argmax(1))
assert not {'pyg_mmkgc', 'torch_geometric'} & {name.split('.')[0] for name in sys.modules}
print('equal', len(labels['entities']), len(labels['relations']))
"""


@pytest.fixture(scope='module')
def data():
    return FakeMMKG()[0]


def build(name, data, **kwargs):
    torch.manual_seed(1)
    model = MODELS[name].from_data(data, hidden_channels=8, **kwargs)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_fresh_process_with_torch_alone(data, tmp_path):
    paths = []
    for name in EXPORTED:
        model = build(name, data, exclude_loops=True)
        paths.append(str(tmp_path / name))
        assert export_scorer(model, data, f'{paths[-1]}.pt2') == tmp_path / f'{name}.pt2'
        assert model.training  # As it was.
        expected = []
        for size in (1, 2, 7, 500):
            head_index, rel_type = torch.randint(40, (size, )), torch.randint(10, (size, ))
            with torch.no_grad():
                score = model.eval().score_all(head_index, rel_type)
            expected.append((head_index, rel_type, score))
        torch.save(expected, f'{paths[-1]}.expected')
    out = subprocess.run([sys.executable, '-c', CHILD, *paths], capture_output=True, text=True,
                         check=False, env={'PATH': '/usr/bin:/bin', 'OMP_NUM_THREADS': '1'})
    assert (out.returncode, out.stdout) == (0, 'equal 40 5\n'), out.stderr


@pytest.mark.parametrize('kwargs', [
    {'decoder': 'rotate'}, {'decoder': 'tucker', 'heads': [], 'uniform': True},
    {'structure_channels': 0, 'decoder': 'transe', 'intra': False, 'inter': False},
], ids=str)
def test_options_of_mocme(kwargs, data, tmp_path):
    model = build('mocme', data, **kwargs).eval()
    export_scorer(model, data, tmp_path / 'x.pt2')
    scorer = torch.export.load(tmp_path / 'x.pt2').module()
    head_index, rel_type = torch.arange(40), torch.arange(40) % 10
    torch.testing.assert_close(scorer(head_index, rel_type),
                               model.score_all(head_index, rel_type).detach())


def test_distances_in_blocks(data, tmp_path, monkeypatch):
    monkeypatch.setattr('pyg_mmkgc.export.scorer.ROWS', 7)
    model = build('rotate', data).eval()
    export_scorer(model, data, tmp_path / 'x.pt2')
    index = torch.arange(10)
    torch.testing.assert_close(torch.export.load(tmp_path / 'x.pt2').module()(index, index),
                               model.score_all(index, index).detach())


def test_nothing_is_written_that_is_not_asked_for(tmp_path):
    # Raw features are not there where no relation changes how they are seen, and no table twice.
    data = FakeMMKG(num_entities=4000, modalities={'image': 500})[0]
    model = build('additive', data)
    export_scorer(model, data, tmp_path / 'x.pt2')
    program = torch.export.load(tmp_path / 'x.pt2')
    assert not any(500 in x.shape for x in program.constants.values())
    assert not program.state_dict
    table = 4000 * 8 * 4
    assert table < (tmp_path / 'x.pt2').stat().st_size < 2 * table + 50_000 + 20 * 4000
    with zipfile.ZipFile(tmp_path / 'x.pt2') as archive:
        assert {name.split('/')[0] for name in archive.namelist()} == {'archive'}
        labels = json.loads(archive.read('archive/extra/labels.json'))
    assert labels['relations'] == [f'relation {i}' for i in range(5)]


def test_errors(data, tmp_path):
    model = MODELS['nearest'].from_data(data)
    with pytest.raises(ValueError, match="'NearestNeighbour' looks triples up"):
        export_scorer(model, data, tmp_path / 'x.pt2')
    with pytest.raises(ValueError, match=r"'path' needs to end in '.pt2' \(got '.*x.pt'\)"):
        export_scorer(build('complex', data), data, tmp_path / 'x.pt')
    (tmp_path / 'x.pt2').write_text('mine')
    with pytest.raises(FileExistsError, match=r"x.pt2' exists and is not overwritten"):
        export_scorer(build('complex', data), data, tmp_path / 'x.pt2')
    assert (tmp_path / 'x.pt2').read_text() == 'mine'
