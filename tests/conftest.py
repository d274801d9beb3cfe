"""Fixtures for all tests, and a loud line when the real data was not there."""
import os
from pathlib import Path

import pytest

NO_MIRROR = 'REAL DATA NOT TESTED: no mirror folder'


def find_mirror():
    """The folder of the published files: `$PYG_MMKGC_MIRROR`, else `../shared/data`."""
    named = os.environ.get('PYG_MMKGC_MIRROR')
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / 'shared' / 'data'
    return folder if (folder / 'DB15K' / 'train2id.txt').is_file() else None


@pytest.fixture(scope='session')
def mirror():
    folder = find_mirror()
    if folder is None:
        pytest.skip(f'{NO_MIRROR} (set PYG_MMKGC_MIRROR or put the files into ../shared/data)')
    return folder


def pytest_terminal_summary(terminalreporter):
    skipped = [report for report in terminalreporter.stats.get('skipped', [])
               if NO_MIRROR in str(report.longrepr)]
    if skipped:
        terminalreporter.write_sep('!', f'{NO_MIRROR}, {len(skipped)} tests skipped', red=True,
                                   bold=True)
