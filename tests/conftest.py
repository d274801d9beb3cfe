"""Fixtures for all tests, and a loud line when the real data was not there."""
import os
import shutil
from pathlib import Path

import pytest

from pyg_mmkgc.training import load_run, train_run

NO_MIRROR = 'REAL DATA NOT TESTED: no mirror folder'
NO_BROWSER = 'PAGES NOT TESTED IN A BROWSER'
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome')
#: Nothing is looked up or reported at the start; root has no sandbox.
BROWSER_FLAGS = ('--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
                 '--disable-background-networking', '--disable-component-update', '--disable-sync')
#: Labels that would be markup, or the end of a script, if they were taken for it.
NAMES = ['<script>alert(1)</script>', '" onmouseover="alert(2)" x="',
         '</style><img src=x onerror=1>', "'; --x: url(javascript:alert(3))", "'); alert(4); ('",
         *(f'plain {i}' for i in range(7))]
RELATIONS = ['<b>bold</b>', '{{ 7 * 7 }}']


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


@pytest.fixture(scope='session')
def structure(tmp_path_factory):
    """A run of a model that sees no modalities."""
    out = tmp_path_factory.mktemp('runs') / 'structure'
    train_run('atlas', 'complex', epochs=1, device='cpu', out=out,
              overrides={'model.hidden_channels': 4})
    return load_run(out, device='cpu')


@pytest.fixture(scope='session')
def markup(tmp_path_factory):
    """A run on a graph whose labels, texts and relations are markup."""
    folder = tmp_path_factory.mktemp('markup') / 'graph'
    folder.mkdir()
    lines = [f'{name}\t{relation}\t{NAMES[(i + j + 1) % len(NAMES)]}'
             for i, name in enumerate(NAMES) for j, relation in enumerate(RELATIONS)]
    for split, part in (('train', lines), ('val', lines[1::6]), ('test', lines[::3])):
        (folder / f'{split}.tsv').write_text('\n'.join(part) + '\n')
    (folder / 'texts.tsv').write_text('name\tstory\n' + ''.join(
        f'{name}\tA story of {name}\n' for name in NAMES))
    (folder / 'dataset.yaml').write_text('modalities: {text: {encoder: hash}}\n')
    out = folder.parent / 'run'
    train_run(folder, 'mocme', epochs=1, device='cpu', out=out,
              overrides={'model.hidden_channels': 8})
    return load_run(out, device='cpu')


def pytest_terminal_summary(terminalreporter):
    for what in (NO_MIRROR, NO_BROWSER):
        skipped = [report for report in terminalreporter.stats.get('skipped', [])
                   if what in str(report.longrepr)]
        if skipped:
            terminalreporter.write_sep('!', f'{what}, {len(skipped)} tests skipped', red=True,
                                       bold=True)
