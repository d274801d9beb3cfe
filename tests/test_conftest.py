import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def run_apart(path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    # The outer run's options would count here, too: its least coverage fails any small run.
    inherited = {name: value for name, value in os.environ.items() if name != 'PYTEST_ADDOPTS'}
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', str(path)]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=TESTS.parent,
                          env={**inherited, **environment})


def test_missing_browser_is_loud(tmp_path):
    out = run_apart(TESTS / 'report' / 'test_browser.py', '-k', 'colour', PATH=str(tmp_path),
                    PYG_MMKGC_CHROMIUM='')
    assert out.returncode == 0
    assert '!!! PAGES NOT TESTED IN A BROWSER, 1 tests skipped !!!' in out.stdout
    assert 'apt-get install chromium' in out.stdout


def test_missing_real_data_is_loud(tmp_path):
    out = run_apart(TESTS / 'datasets' / 'test_openke.py', '-k', 'published',
                    PYG_MMKGC_MIRROR=str(tmp_path))
    assert out.returncode == 0
    assert '!!! REAL DATA NOT TESTED: no mirror folder, 9 tests skipped !!!' in out.stdout
    assert 'set PYG_MMKGC_MIRROR or put the files into ../shared/data' in out.stdout
