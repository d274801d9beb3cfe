"""Fixtures for all tests, and a loud line when the real data was not there."""
import os
import shutil
from pathlib import Path

import pytest

NO_MIRROR = 'REAL DATA NOT TESTED: no mirror folder'
NO_BROWSER = 'PAGES NOT TESTED IN A BROWSER'
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome')
#: Nothing is looked up or reported at the start; root has no sandbox.
BROWSER_FLAGS = ('--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
                 '--disable-background-networking', '--disable-component-update', '--disable-sync')


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


@pytest.fixture(scope='session')
def browser():
    """A headless Chromium: `$PYG_MMKGC_CHROMIUM`, else the one that is installed."""
    path = os.environ.get('PYG_MMKGC_CHROMIUM') or next(filter(None, map(shutil.which, BROWSERS)),
                                                        None)
    if path is None:
        pytest.skip(f'{NO_BROWSER}: no Chromium (apt-get install chromium)')
    api = pytest.importorskip('playwright.sync_api', reason=f'{NO_BROWSER}: no playwright (pip '
                                                            f'install "pyg-mmkgc[browser]")')
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=BROWSER_FLAGS)
        yield browser
        browser.close()


def pytest_terminal_summary(terminalreporter):
    for what in (NO_MIRROR, NO_BROWSER):
        skipped = [report for report in terminalreporter.stats.get('skipped', [])
                   if what in str(report.longrepr)]
        if skipped:
            terminalreporter.write_sep('!', f'{what}, {len(skipped)} tests skipped', red=True,
                                       bold=True)
