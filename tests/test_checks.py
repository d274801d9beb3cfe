"""The scripts of `.ci` that judge, where there is something wrong."""
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PIP_AUDIT = '''
import sys
from pathlib import Path
content, error, status = {!r}, {!r}, {}
if content:
    Path(sys.argv[sys.argv.index('--output') + 1]).write_text(content)
sys.stderr.write(error)
sys.exit(status)
'''
SOUND = {'name': 'numpy', 'version': '2.0', 'vulns': []}
BAD = {'name': 'pyyaml', 'version': '5.0', 'vulns': [{'id': 'CVE-1', 'fix_versions': ['5.4']}]}
SKIPPED = {'name': 'torch', 'skip_reason': 'not found'}


@pytest.mark.parametrize('packages, error, status, expected, says', [
    ([SOUND, SKIPPED], '', 0, 0, '1 of 2 packages audited, 0 vulnerabilities'),
    ([SOUND, BAD], '', 1, 1, 'pyyaml 5.0: CVE-1, fixed in 5.4'),
    ([SKIPPED], '', 0, 0, 'NOT AUDITED: the advisory service knows none of 1 packages'),
    (None, 'ERROR: ConnectionError: pypi.org', 1, 0, 'NOT AUDITED: the advisory service could not'),
    (None, 'ERROR: something else', 1, 1, 'pip-audit failed (1):'),
])
def test_audit(tmp_path, packages, error, status, expected, says):
    content = '' if packages is None else json.dumps({'dependencies': packages})
    (tmp_path / 'pip_audit.py').write_text(PIP_AUDIT.format(content, error, status))
    run = subprocess.run([sys.executable, ROOT / '.ci' / 'audit'], text=True, capture_output=True,
                         env={'PYTHONPATH': str(tmp_path)}, check=False)
    assert run.returncode == expected, run.stderr
    assert says in run.stdout + run.stderr


@pytest.mark.parametrize('extra, size, says', [
    (None, 10, None),
    ('pyg_mmkgc/left.csv', 10, 'holds pyg_mmkgc/left.csv'),
    ('tests/test_a.py', 10, 'holds tests/test_a.py'),
    (None, 6 * 10**6, 'bytes (expected below 5,000,000)'),
])
def test_contents(tmp_path, extra, size, says):
    clone, dist = tmp_path / 'clone', tmp_path / 'dist'
    tracked = ['pyg_mmkgc/__init__.py', 'tests/test_b.py']
    for name in tracked:
        (clone / name).parent.mkdir(parents=True)
        (clone / name).touch()
    subprocess.run(['git', 'init', '-q', clone], check=True)
    subprocess.run(['git', '-C', clone, 'add', '.'], check=True)
    dist.mkdir()
    with zipfile.ZipFile(dist / 'a-1.whl', 'w') as f:
        f.writestr('a-1.dist-info/RECORD', '0' * size)
        for name in filter(None, ['pyg_mmkgc/__init__.py', extra]):
            f.writestr(name, '')
    with tarfile.open(dist / 'a-1.tar.gz', 'w:gz') as f:
        for name in tracked:
            f.addfile(tarfile.TarInfo(f'a-1/{name}'), io.BytesIO())
    run = subprocess.run([sys.executable, ROOT / '.ci' / 'contents', dist], cwd=clone, text=True,
                         capture_output=True, check=False)
    assert run.returncode == (0 if says is None else 1), run.stderr
    assert says is None or says in run.stderr
