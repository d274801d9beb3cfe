r"""On small files in ogb's layout: the real ones are not in reach of these tests."""
import gzip
import logging
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pyg_mmkgc.data import EDGE, get_triples, modality_names, split_names
from pyg_mmkgc.data.io import load_data, save_data
from pyg_mmkgc.datasets.ogb import OGBBioKG, OGBWikiKG2, read_mapping

NUM_ENTITIES, NUM_RELATIONS, NUM_NEGATIVES = 30, 4, 5
SIZES = {'protein': 7, 'disease': 4, 'drug': 5}  # Not in alphabetical order, as ogb's are not.
NUM_TRIPLES = {'train': 40, 'valid': 6, 'test': 9}


def write_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, 'wt') as f:
        f.write(''.join(','.join(map(str, row)) + '\n' for row in rows))


def save(parts, path, old_numpy=False, **kwargs):
    r"""As ogb's authors did; NumPy before 2.0 gave another name to the function that restores
    arrays, and PyTorch before 1.6 wrote another kind of file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(parts, path, **kwargs)
    if not old_numpy:
        return
    new, old = b'cnumpy._core.multiarray\n_reconstruct', b'cnumpy.core.multiarray\n_reconstruct'
    content = path.read_bytes()
    if not zipfile.is_zipfile(path):
        assert new in content
        path.write_bytes(content.replace(new, old))
        return
    with zipfile.ZipFile(path) as f:
        entries = {name: f.read(name) for name in f.namelist()}
    assert any(new in entry for entry in entries.values())
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_STORED) as f:
        for name, entry in entries.items():
            f.writestr(name, entry.replace(new, old))


def wiki_parts(seed=0):
    rng = np.random.default_rng(seed)
    out = {}
    for split, size in NUM_TRIPLES.items():
        out[split] = {'head': rng.integers(0, NUM_ENTITIES, size),
                      'relation': rng.integers(0, NUM_RELATIONS, size),
                      'tail': rng.integers(0, NUM_ENTITIES, size)}
        if split != 'train':
            for side in ('head', 'tail'):
                out[split][f'{side}_neg'] = rng.integers(0, NUM_ENTITIES, (size, NUM_NEGATIVES))
    out['train']['relation'][:NUM_RELATIONS] = range(NUM_RELATIONS)
    return out


def write_wiki(root, parts=None, mapping=True, folder='ogbl_wikikg2', **kwargs):
    path = root / folder
    for split, part in (parts or wiki_parts()).items():
        save(part, path / 'split' / 'time' / f'{split}.pt', **kwargs)
    write_csv(path / 'raw' / 'num-node-list.csv.gz', [[NUM_ENTITIES]])
    if mapping:
        # Out of order on purpose.
        write_csv(path / 'mapping' / 'nodeidx2entityid.csv.gz',
                  [['node idx', 'entity id'], *([i, f'Q{i + 100}']
                                                for i in reversed(range(NUM_ENTITIES)))])
        write_csv(path / 'mapping' / 'reltype2relid.csv.gz',
                  [['reltype', 'rel id'], *([i, f'P{i + 10}'] for i in range(NUM_RELATIONS))])
    return path


def bio_parts(seed=0):
    rng = np.random.default_rng(seed)
    out = {}
    for split, size in NUM_TRIPLES.items():
        part = {'relation': rng.integers(0, NUM_RELATIONS, size)}
        for side in ('head', 'tail'):
            types = rng.choice(list(SIZES), size).tolist()
            part[f'{side}_type'] = types
            part[side] = np.array([rng.integers(SIZES[name]) for name in types])
            if split != 'train':
                part[f'{side}_neg'] = np.stack([rng.integers(0, SIZES[name], NUM_NEGATIVES)
                                                for name in types])
        out[split] = part
    out['train']['relation'][:NUM_RELATIONS] = range(NUM_RELATIONS)
    return out


def write_bio(root, parts=None, mapping=True):
    path = root / 'ogbl_biokg'
    for split, part in (parts or bio_parts()).items():
        save(part, path / 'split' / 'random' / f'{split}.pt')
    write_csv(path / 'raw' / 'num-node-dict.csv.gz', [list(SIZES), list(SIZES.values())])
    if mapping:
        for name, size in SIZES.items():
            # The same names in each type, as gene and drug numbers may be.
            write_csv(path / 'mapping' / f'{name}_entidx2name.csv.gz',
                      [['ent idx', 'ent name'], *([i, i + 50] for i in range(size))])
        write_csv(path / 'mapping' / 'relidx2relname.csv.gz',
                  [['rel idx', 'rel name'],
                   *([i, f'"a ""{i}"", b"'] for i in range(NUM_RELATIONS))])
    return path


def triples(data, split):
    return torch.stack(get_triples(data, split), dim=1).tolist()


@pytest.mark.parametrize('kwargs', [
    {}, {'old_numpy': True}, {'_use_new_zipfile_serialization': False},
    {'_use_new_zipfile_serialization': False, 'old_numpy': True},
], ids=['new', 'old numpy', 'old torch', 'both old'])
def test_wikikg2(tmp_path, kwargs):
    path = write_wiki(tmp_path, **kwargs)
    dataset = OGBWikiKG2(tmp_path)
    assert str(dataset) == f"OGBWikiKG2('{path}')"
    assert (dataset.num_entities, dataset.num_relations) == (NUM_ENTITIES, NUM_RELATIONS)
    data = dataset[0]
    data.validate()
    assert (data.ogb_name, data.candidates) == ('ogbl-wikikg2', 'all')
    assert modality_names(data) == []
    assert split_names(data) == ['train', 'val', 'test']
    assert list(data['entity'].label) == [f'Q{i + 100}' for i in range(NUM_ENTITIES)]
    assert list(data[EDGE].label) == ['P10', 'P11', 'P12', 'P13']
    for split, part in wiki_parts().items():
        split = 'val' if split == 'valid' else split
        expected = [[int(part[key][i]) for key in ('head', 'relation', 'tail')]
                    for i in range(len(part['head']))]
        assert triples(data, split) == expected
        for side in ('head', 'tail'):
            if split == 'train':
                assert f'train_{side}_neg' not in data[EDGE]
            else:
                negatives = data[EDGE][f'{split}_{side}_neg']
                assert negatives.dtype == torch.int32
                assert negatives.tolist() == part[f'{side}_neg'].tolist()
    save_data(data, tmp_path / 'copy.safetensors')
    assert triples(load_data(tmp_path / 'copy.safetensors'), 'test') == triples(data, 'test')


def test_biokg(tmp_path):
    write_bio(tmp_path)
    data = OGBBioKG(tmp_path)[0]
    names = sorted(SIZES)
    ids = [(name, i) for name in names for i in range(SIZES[name])]
    position = {pair: i for i, pair in enumerate(ids)}
    assert list(data['entity'].label) == [f'{name}:{i + 50}' for name, i in ids]
    assert list(data['entity'].entity_type_label) == names
    assert data['entity'].entity_type.tolist() == [names.index(name) for name, _ in ids]
    assert data[EDGE].label[1] == 'a "1", b'
    for split, part in bio_parts().items():
        split = 'val' if split == 'valid' else split
        rows = range(len(part['relation']))
        expected = [[position[part['head_type'][i], int(part['head'][i])],
                     int(part['relation'][i]),
                     position[part['tail_type'][i], int(part['tail'][i])]] for i in rows]
        assert triples(data, split) == expected
        if split != 'train':
            for side in ('head', 'tail'):
                assert data[EDGE][f'{split}_{side}_neg'].tolist() == [
                    [position[part[f'{side}_type'][i], int(x)] for x in part[f'{side}_neg'][i]]
                    for i in rows]


def test_without_mapping(tmp_path, caplog):
    write_wiki(tmp_path, mapping=False)
    write_bio(tmp_path, mapping=False)
    with caplog.at_level(logging.INFO):
        wiki, bio = OGBWikiKG2(tmp_path)[0], OGBBioKG(tmp_path)[0]
    assert list(wiki['entity'].label) == [str(i) for i in range(NUM_ENTITIES)]
    assert list(wiki[EDGE].label) == ['0', '1', '2', '3']
    assert bio['entity'].label[:5] == ['disease:0', 'disease:1', 'disease:2', 'disease:3',
                                       'drug:0']
    assert "nodeidx2entityid.csv.gz', so ids stand for names" in caplog.text


def test_root_and_transforms(tmp_path, monkeypatch):
    path = write_wiki(tmp_path, folder='ogbl_wikikg2_pyg')
    monkeypatch.setenv('PYG_MMKGC_ROOT', str(tmp_path))
    before = sorted(tmp_path.rglob('*'))

    def mark(data):
        data.mark = data.get('mark', 0) + 1
        return data

    dataset = OGBWikiKG2(transform=mark, pre_transform=mark)
    assert dataset.path == path
    assert dataset[0].mark == 2
    assert sorted(tmp_path.rglob('*')) == before  # Nothing is written.


def test_missing_files(tmp_path):
    message = (r"There is no folder '.*ogbl_biokg', and this package does not download it. By ogb: "
               r"LinkPropPredDataset\('ogbl-biokg', root='.*'\). By hand: unpack .*biokg.zip in")
    with pytest.raises(FileNotFoundError, match=message):
        OGBBioKG(tmp_path)
    path = write_wiki(tmp_path)
    for name in ['split/time/valid.pt', 'raw/num-node-list.csv.gz']:
        (path / name).rename(path / 'elsewhere')
        with pytest.raises(FileNotFoundError, match=f"There is no file '.*{name}'"):
            OGBWikiKG2(tmp_path)
        (path / 'elsewhere').rename(path / name)
    OGBWikiKG2(tmp_path)


# Files that are not what they should be ##########################################################


class Command:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path), )


@pytest.mark.parametrize('content', ['alone', 'beside'])
@pytest.mark.parametrize('zipped', [True, False])
def test_code_in_a_file_is_not_run(tmp_path, content, zipped):
    path = write_wiki(tmp_path)
    target = tmp_path / 'pwned'
    before = set(torch.serialization.get_safe_globals())
    parts = {**wiki_parts()['valid'], 'more': Command(target)}
    save(Command(target) if content == 'alone' else parts, path / 'split' / 'time' / 'valid.pt',
         _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r'valid.pt: refused, since it is damaged or holds more '
                                         r'than arrays of integers \(UnpicklingError: .*mkdir'):
        OGBWikiKG2(tmp_path)
    assert not target.exists()
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.filterwarnings('ignore:Detected pickle protocol 4')
def test_newer_pickle_protocol(tmp_path):
    write_wiki(tmp_path, pickle_protocol=4)
    with pytest.raises(ValueError, match=r'train.pt: refused.*newer pickle protocol than weights-'
                                         r'only loading reads. If you trust it: torch.save'):
        OGBWikiKG2(tmp_path)


@pytest.mark.parametrize('value', [np.array([object()], dtype=object), np.array(['a']),
                                   np.ones(3), np.ones(3, dtype=bool)], ids=str)
def test_other_arrays_are_refused(tmp_path, value):
    path = write_wiki(tmp_path)
    save({**wiki_parts()['valid'], 'head': value}, path / 'split' / 'time' / 'valid.pt')
    with pytest.raises(ValueError, match='valid.pt: refused'):
        OGBWikiKG2(tmp_path)


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
def test_damaged_files_never_give_a_foreign_error(tmp_path):
    path = write_wiki(tmp_path) / 'split' / 'time' / 'test.pt'
    rng = np.random.default_rng(0)
    for zipped in (True, False):
        save(wiki_parts()['test'], path, _use_new_zipfile_serialization=zipped)
        whole = path.read_bytes()
        num_refused = 0
        for i in range(120):
            content = bytearray(whole)
            if i % 3 == 0:
                content = content[:rng.integers(len(content))]
            for _ in range(4):
                if content:
                    content[rng.integers(len(content))] = rng.integers(256)
            path.write_bytes(content)
            try:
                OGBWikiKG2(tmp_path)
            except ValueError as error:
                num_refused += 1
                assert 'test.pt: ' in str(error)  # noqa: PT017
        assert num_refused > 40
    path.write_bytes(pickle.dumps({'head': [1]}))
    with pytest.raises(ValueError, match='test.pt: '):
        OGBWikiKG2(tmp_path)


@pytest.mark.parametrize('change,message', [
    ({'head': None}, "expected 'head' to be an array of integers with 1 dimensions "
                     r'\(got NoneType'),
    ({'tail': np.zeros((6, 1), dtype=int)}, r"expected 'tail' .* \(got int64, \[6, 1\]"),
    ({'tail': np.zeros(5, dtype=int)}, r"'tail', its types and the relations differ .*\(5, 1, 6\)"),
    ({'head': np.full(6, 30)}, r"id 30 in row 0 of 'head' is out of range \(expected 0 to 29"),
    ({'head': np.array([0, 1, 2, 3, -1, 2])}, "id -1 in row 4 of 'head' is out of range"),
    ({'relation': np.array([0, 1, 2, 4, 1, 2])}, r"id 4 in row 3 of 'relation' is .*\(expected 0 "
                                                 r'to 3'),
    ({'tail_neg': np.zeros((5, 2), dtype=int)}, r"expected one row of 'tail_neg' for .*\(got 5"),
    ({'tail_neg': np.array([[0, 0]] * 5 + [[0, 77]])}, "id 77 in row 5 of 'tail_neg' is out of"),
    ({'head_type': ['x'] * 6}, r"unknown type 'x' in 'head_type' \(expected one of \[''\]"),
])
def test_malformed_split(tmp_path, change, message):
    parts = wiki_parts()
    parts['valid'].update(change)
    write_wiki(tmp_path, parts)
    with pytest.raises(ValueError, match=f'valid.pt: {message}'):
        OGBWikiKG2(tmp_path)


@pytest.mark.parametrize('change,message', [
    ({'head_type': None}, r"expected 'head_type' to be a list of types \(got NoneType"),
    ({'head_type': ['drug'] * 5}, r"'head', its types and the relations differ .*\(6, 5, 6\)"),
    ({'tail_type': ['drug', 'gene'] * 3}, r"unknown type 'gene' in 'tail_type' \(expected one of "
                                          r"\['disease', 'drug', 'protein'\]"),
    # Within the bounds of another type.
    ({'tail_type': ['disease'] * 6, 'tail': np.array([0, 1, 2, 3, 4, 0])},
     r"id 4 in row 4 of 'tail' is out of range \(expected 0 to 3"),
    ({'tail_type': ['protein'] * 5 + ['disease'], 'tail': np.zeros(6, dtype=int),
      'tail_neg': np.full((6, 2), 6)}, r"id 6 in row 5 of 'tail_neg' is .*\(expected 0 to 3"),
])
def test_malformed_types(tmp_path, change, message):
    parts = bio_parts()
    parts['valid'].update(change)
    write_bio(tmp_path, parts)
    with pytest.raises(ValueError, match=f'valid.pt: {message}'):
        OGBBioKG(tmp_path)


def test_no_dictionary(tmp_path):
    path = write_wiki(tmp_path)
    save([1, 2], path / 'split' / 'time' / 'test.pt')
    with pytest.raises(ValueError, match=r'test.pt: expected a dictionary of arrays \(got list'):
        OGBWikiKG2(tmp_path)


@pytest.mark.parametrize('rows,message', [
    ([['3'], ['4']], r':1: expected the number of entities alone'),
    ([], r':1: expected the number of entities alone'),
    ([['x']], r":1: expected a number \(got 'x'"),
])
def test_malformed_number_of_entities(tmp_path, rows, message):
    path = write_wiki(tmp_path)
    write_csv(path / 'raw' / 'num-node-list.csv.gz', rows)
    with pytest.raises(ValueError, match=f'num-node-list.csv.gz{message}'):
        OGBWikiKG2(tmp_path)


@pytest.mark.parametrize('rows,message', [
    ([['a', 'b'], ['1']], ':1: expected a line of types and one of their sizes'),
    ([['a', 'a'], ['1', '2']], ':1: expected a line of types and one of their sizes'),
    ([['a', 'b'], ['1', '-2']], r":2: expected a number \(got '-2'"),
])
def test_malformed_numbers_of_types(tmp_path, rows, message):
    path = write_bio(tmp_path)
    write_csv(path / 'raw' / 'num-node-dict.csv.gz', rows)
    with pytest.raises(ValueError, match=f'num-node-dict.csv.gz{message}'):
        OGBBioKG(tmp_path)


@pytest.mark.parametrize('rows,message', [
    ([['i', 'n'], ['x', 'a']], r":2: expected a number \(got 'x'"),
    ([['i', 'n'], ['0', 'a'], ['0', 'b']], r':3: id 0 is out of range or occurs twice \(expected '
                                           r'0 to 1'),
    ([['i', 'n'], ['0', 'a'], ['2', 'b']], ':3: id 2 is out of range'),
    ([['i', 'n'], ['0', 'a', 'b']], r":2: expected an id and a name \(got \['0', 'a', 'b'\]"),
    ([['i', 'n'], ['0', '']], r':2: expected an id and a name'),
    ([['i', 'n'], ['0']], r':2: expected an id and a name'),
])
def test_malformed_mapping(tmp_path, rows, message):
    write_csv(tmp_path / 'map.csv.gz', rows)
    with pytest.raises(ValueError, match=f'map.csv.gz{message}'):
        read_mapping(tmp_path / 'map.csv.gz')


def test_mapping_of_another_graph_or_damaged(tmp_path):
    path = write_wiki(tmp_path) / 'mapping' / 'nodeidx2entityid.csv.gz'
    write_csv(path, [['i', 'n'], ['0', 'a']])
    with pytest.raises(ValueError, match=r'entityid.csv.gz: expected 30 names \(got 1\)'):
        OGBWikiKG2(tmp_path)
    content = path.read_bytes()
    for damaged in [b'no gzip', content[:-6], content[:-8] + bytes(8),
                    gzip.compress(b'i,n\n0,\xff\n'), gzip.compress(b'i,n\n0,"' + b'x' * 200_000)]:
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match='entityid.csv.gz: damaged or no compressed table'):
            OGBWikiKG2(tmp_path)


@pytest.mark.parametrize('file', ['datasets/ogb.py', 'evaluation/ogb.py'])
def test_ogb_is_not_imported_at_the_top(file):
    import pyg_mmkgc
    source = (Path(pyg_mmkgc.__path__[0]) / file).read_text()
    assert not any(line.startswith(('import ogb', 'from ogb')) for line in source.splitlines())
