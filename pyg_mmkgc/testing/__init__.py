r"""Tools for tests, of this package and of others that build on it."""
from pyg_mmkgc.testing.fake_mmkg import FakeMMKG
from pyg_mmkgc.testing.no_sync import NoSync

__all__ = classes = [
    'FakeMMKG',
    'NoSync',
]
