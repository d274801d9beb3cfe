import pytest

import pyg_mmkgc.datasets
from pyg_mmkgc.datasets import (
    DATASETS,
    DB15K,
    KVC16K,
    MKGW,
    MKGY,
    TIVA,
    Atlas,
    GraphDataset,
    MMKGDataset,
    MMKGFolder,
    OGBDataset,
    get_dataset,
    normalize_name,
    resolve,
)


@pytest.mark.parametrize('name', ['MKG-W', 'mkg-w', 'mkgw', 'MKGW', 'mkg_w', 'Mkg-W'])
def test_normalize_name(name):
    assert normalize_name(name) == 'mkgw'


@pytest.mark.parametrize('name,cls', [('atlas', Atlas), ('Atlas', Atlas), ('DB15K', DB15K),
                                      ('db15k', DB15K), ('DB-15k', DB15K),
                                      ('MKG-W', MKGW), ('mkg_y', MKGY), ('tiva', TIVA),
                                      ('KVC16K', KVC16K)])
def test_resolve(name, cls):
    assert resolve(name) is cls


def test_every_exported_dataset_has_a_name():
    exported = [getattr(pyg_mmkgc.datasets, name) for name in pyg_mmkgc.datasets.__all__]
    concrete = {cls for cls in exported if isinstance(cls, type) and issubclass(cls, GraphDataset)}
    assert set(DATASETS.values()) == concrete - {GraphDataset, MMKGDataset, MMKGFolder, OGBDataset}
    for key, cls in DATASETS.items():
        assert key == normalize_name(key)
        if issubclass(cls, MMKGDataset):  # The command line and mirrors mean the same.
            assert normalize_name(cls.name) == key


@pytest.mark.parametrize('name,match', [
    ('atals', r"Unknown dataset 'atals' .expected one of \['atlas', 'db15k'.*\] or a folder; did "
     r"you mean 'atlas'\?"),
    ('DB15', r"Unknown dataset 'DB15' .*did you mean 'db15k'\?"),
    ('zzz', r"Unknown dataset 'zzz' .*or a folder\)$"),
    ('', r"Unknown dataset ''"),
])
def test_unknown_name(name, match):
    with pytest.raises(ValueError, match=match):
        resolve(name)
    with pytest.raises(ValueError, match=match):
        get_dataset(name)


def test_get_dataset_atlas(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'atlas').mkdir()  # The name wins over the folder.
    assert isinstance(get_dataset('atlas', root='x', mirror='y'), Atlas)
    with pytest.raises(FileNotFoundError, match='entity2id.txt'):
        get_dataset('./atlas')
    with pytest.raises(FileNotFoundError, match="There is no folder './nowhere'"):
        get_dataset('./nowhere')


def test_get_dataset_passes_arguments_on(tmp_path):
    with pytest.raises(FileNotFoundError, match="The mirror '.*empty' of DB15K has no file"):
        get_dataset('db15k', root=tmp_path, mirror=tmp_path / 'empty', features=None)
    with pytest.raises(ValueError, match="Unknown splits 'x' of DB15K"):
        get_dataset('db15k', root=tmp_path, splits='x')


@pytest.mark.parametrize('as_path', [False, True])
def test_get_dataset_folder(tmp_path, monkeypatch, as_path):
    folder = tmp_path / 'mine'
    folder.mkdir()
    for split in ['train', 'val', 'test']:
        (folder / f'{split}.tsv').write_text('a\tr\tb\n')
    monkeypatch.chdir(tmp_path)
    dataset = get_dataset(folder if as_path else 'mine', root='x', mirror='y')
    assert isinstance(dataset, MMKGFolder)
    assert dataset.num_entities == 2
