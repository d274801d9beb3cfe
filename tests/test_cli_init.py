import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from pyg_mmkgc.cli.base import CommandGroup
from pyg_mmkgc.cli.init import init
from pyg_mmkgc.data import EDGE
from pyg_mmkgc.datasets import MMKGFolder
from pyg_mmkgc.datasets.folder import init_folder


def invoke(folder):
    return CliRunner().invoke(CommandGroup('main', {'init': init}), ['init', str(folder)])


def ring(delimiter, n=12):
    return ''.join(delimiter.join([f'e{i}', f'r{k}', f'e{(i + k + 1) % n}']) + '\n'
                   for i in range(n) for k in range(3))


@pytest.mark.parametrize('name,delimiter', [('facts.csv', ';'), ('kg.txt', ' '), ('a.tsv', '\t'),
                                            ('triples.csv', ','), ('train.txt', '|')])
def test_init_finds_out(tmp_path, name, delimiter):
    (tmp_path / name).write_text(ring(delimiter))
    if name.startswith('train'):
        for split in ('val', 'test'):
            (tmp_path / f'{split}.txt').write_text(delimiter.join(['e0', 'r0', 'e1']))
    (tmp_path / 'texts.csv').write_text('name,description\ne0,zero\ne5,"five, of 12"\n')
    (tmp_path / 'numbers.tsv').write_text('name\tsize\ne1\t3\n')
    np.save(tmp_path / 'voice.npy', np.ones((2, 3)))
    (tmp_path / 'voice_index.txt').write_text('e3\ne4\n')
    result = invoke(tmp_path)
    assert result.exit_code == 0, result.output
    config = yaml.safe_load((tmp_path / 'dataset.yaml').read_text())
    assert config['delimiter'] == delimiter
    assert config['header'] is False
    lines = result.stdout.splitlines()
    assert lines[0] == '12 entities, 3 relations'
    splits = [36, 1, 1] if name.startswith('train') else [28, 4, 4]
    assert lines[1:] == [
        *(f'  {split}: {count} triples' for split, count in
          zip(('train', 'val', 'test'), splits, strict=True)),
        '  description: texts of 2 entities', '  size: numbers of 1 entities',
        '  voice: features of 2 entities', 'Modality voice: features as they are',
        'Modality numeric: encoder quantile', 'Modality text: encoder hash',
        f'Written: {tmp_path}/dataset.yaml', f'Next: pyg-mmkgc train --dataset {tmp_path}/']
    dataset = MMKGFolder(tmp_path)
    assert dataset.modalities == ['numeric', 'text', 'voice']
    assert dataset[0][EDGE].label == ['r0', 'r1', 'r2']


def test_init_is_what_the_folder_was(tmp_path):
    for split in ('train', 'val', 'test'):
        (tmp_path / f'{split}.tsv').write_text('tail\thead\trelation\nb\ta\tr\n')
    (tmp_path / 'entities.csv').write_text('name,kind\nb,x\na,1\n')
    (tmp_path / 'images').mkdir()
    before = MMKGFolder(tmp_path)[0]
    found = init_folder(tmp_path)
    assert found['texts'] == {'kind': 2}
    assert found['modalities'] == {'image': 'efficientnet-lite0', 'text': 'hash'}
    after = MMKGFolder(tmp_path)[0]
    assert after.to_dict().keys() == before.to_dict().keys()
    assert after['entity'].label == before['entity'].label == ['b', 'a']
    assert after['entity'].kind == before['entity'].kind
    assert after[EDGE].edge_index.tolist() == [[1], [0]]


def test_init_openke(tmp_path):
    for name, content in [('entity2id.txt', '2\na 0\nb 1\n'), ('relation2id.txt', '1\nr 0\n'),
                          ('train2id.txt', '1\n0 1 0\n'), ('valid2id.txt', '1\n0 1 0\n'),
                          ('test2id.txt', '1\n0 1 0\n')]:
        (tmp_path / name).write_text(content)
    result = invoke(tmp_path)
    assert result.exit_code == 0
    assert 'No modality but the structure' in result.stdout
    assert MMKGFolder(tmp_path).num_entities == 2


def check_refused(folder, message):
    before = sorted(folder.rglob('*')) if folder.exists() else []
    result = invoke(folder)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ''
    assert (sorted(folder.rglob('*')) if folder.exists() else []) == before


def test_init_refuses(tmp_path):
    check_refused(tmp_path / 'nowhere', 'There is no folder')
    check_refused(tmp_path, 'expected train, val and test, or one file of triples (got no file)')
    (tmp_path / 'a.tsv').write_text(ring('\t'))
    (tmp_path / 'b.tsv').write_text(ring('\t'))
    check_refused(tmp_path, "one file of triples (got ['a.tsv', 'b.tsv'])")
    (tmp_path / 'b.tsv').write_text('')
    (tmp_path / 'a.tsv').unlink()
    check_refused(tmp_path, 'b.tsv: the file is empty')
    (tmp_path / 'b.tsv').write_text('a\tr\tb\na\tr\n')
    check_refused(tmp_path, 'b.tsv:2: expected head, relation and tail')
    (tmp_path / 'b.tsv').unlink()
    (tmp_path / 'b.csv').write_text('x' * 200000 + ',r\n')
    check_refused(tmp_path, 'b.csv:1: malformed csv (field larger than')
    (tmp_path / 'dataset.yaml').write_text('triples: b.tsv')
    check_refused(tmp_path, "dataset.yaml' exists and is not overwritten")
