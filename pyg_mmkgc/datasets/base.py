r"""What all datasets share: one graph in memory, files with known hashes, caches without pickle."""
import hashlib
import http.client
import logging
import os
import urllib.request
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Callable, Dict, List, Optional, Sequence, Tuple

from torch_geometric.data import HeteroData, InMemoryDataset
from torch_geometric.data.data import BaseData

from pyg_mmkgc.data.hetero import EDGE, build_data, modality_names, seen_entities, set_modality
from pyg_mmkgc.data.hetero import split_names as names_of_splits
from pyg_mmkgc.data.io import atomic_write, load_data, save_data
from pyg_mmkgc.data.labels import Labels
from pyg_mmkgc.datasets.openke import read_descriptions, read_numeric_triples, read_openke
from pyg_mmkgc.transforms.encode_numeric import EncodeNumeric
from pyg_mmkgc.transforms.encode_text import ENCODERS, EncodeText

#: Goes into the name of each cache; to be raised when the same options give another result.
CACHE_VERSION = 1
DESCRIPTIONS = 'descriptions.tsv'
_TIMEOUT = 30.0  # In seconds, for each answer of a server.
_CHUNK = 1 << 20

logger = logging.getLogger(__name__)


class GraphDataset(InMemoryDataset):
    r"""A dataset of exactly one multi-modal knowledge graph.

    Args:
        root (str, optional): The dataset's own folder, if it has one. (default: :obj:`None`)
        transform (callable, optional): Applied at each access. (default: :obj:`None`)
        pre_transform (callable, optional): Applied once, before the graph is kept.
            (default: :obj:`None`)
        force_reload (bool, optional): Whether to build anew what is cached.
            (default: :obj:`False`)
    """
    def __init__(self, root: Optional[str] = None, transform: Optional[Callable] = None,
                 pre_transform: Optional[Callable] = None, force_reload: bool = False):
        super().__init__(root, transform, pre_transform, log=False, force_reload=force_reload)

    @classmethod
    def save(cls, data_list: Sequence[BaseData], path: str) -> None:
        r"""Saves the one graph with :func:`~pyg_mmkgc.data.io.save_data`, not by pickling."""
        data, = data_list
        save_data(data, path)

    def load(self, path: str, data_cls: type = HeteroData) -> None:
        r"""Loads the graph with :func:`~pyg_mmkgc.data.io.load_data`, not by unpickling."""
        self.data, self.slices = load_data(path), None

    @property
    def num_entities(self) -> int:
        r"""The number of entities."""
        return self._data['entity'].num_nodes

    @property
    def num_relations(self) -> int:
        r"""The number of relations, inverse ones not counted."""
        return self._data[EDGE].num_relations

    @property
    def modalities(self) -> List[str]:
        r"""The names of the modalities."""
        return modality_names(self._data)

    @property
    def split_names(self) -> List[str]:
        r"""The names of the splits."""
        return names_of_splits(self._data)


@dataclass(frozen=True)
class RawFile:
    r"""One published file.

    Args:
        name (str): Its name here and in a mirror.
        sha256 (str): The SHA-256 of its content, in hexadecimal digits.
        repo (str): The GitHub repository it comes from.
        commit (str): The commit.
        path (str): Its path there.
        derived (str, optional): How it was made from that file, if it is not the same. Such a
            file cannot be downloaded; it is used where a mirror or the raw folder has it.
            (default: :obj:`''`)
    """
    name: str
    sha256: str
    repo: str
    commit: str
    path: str
    derived: str = ''

    @property
    def optional(self) -> bool:
        r"""Whether the dataset can do without."""
        return bool(self.derived)

    @property
    def url(self) -> str:
        r"""The address of the original."""
        return f'https://raw.githubusercontent.com/{self.repo}/{self.commit}/{self.path}'


class MMKGDataset(GraphDataset):
    r"""The base of the published benchmarks. A benchmark is a declaration: :attr:`name`,
    :attr:`files` and how labels are made from the names in the files.

    Files are taken from the folder `raw` of the dataset's own folder, else from the mirror, else
    from GitHub at a pinned commit; what has another SHA-256 than the published file is refused.
    The finished graph is kept in the folder `processed` as safetensors, in one file for each
    combination of options; a damaged one is noticed and built again. Several processes may build
    at the same time.

    Args:
        root (str, optional): The folder of all datasets. (default: `$PYG_MMKGC_ROOT`, else
            `./datasets`)
        splits (str, optional): ``'official'``: as published. (default: :obj:`'official'`)
        features (str, optional): ``'labels'``: modality ``text`` from labels and descriptions,
            and ``numeric`` where the benchmark has numbers, which needs no other download;
            ``'auto'``: the best there is (now the same as ``'labels'``); :obj:`None`: no
            modality. (default: :obj:`'auto'`)
        mirror (str, optional): A folder or an address that holds `<NAME>/<file>`.
            (default: `$PYG_MMKGC_MIRROR`, else none)
        transform (callable, optional): Applied at each access. (default: :obj:`None`)
        pre_transform (callable, optional): Applied once, before the graph is cached. One whose
            ``repr`` tells nothing but its address (a lambda) cannot be told from another, so then
            nothing is cached. (default: :obj:`None`)
        force_reload (bool, optional): Whether to build anew what is cached.
            (default: :obj:`False`)
        encoder (str, optional): The encoder of ``text``: ``'hash'`` or ``'minilm'``, see
            :class:`~pyg_mmkgc.transforms.EncodeText`. (default: :obj:`'hash'`)

    Raises:
        ValueError: If an option is unknown, or a file is not the published one.
        FileNotFoundError: If the mirror lacks a file.
        ConnectionError: If a download fails.
    """
    #: The name of the folder in a mirror.
    name: str
    #: The published files.
    files: Tuple[RawFile, ...]
    #: The values of :obj:`splits`.
    split_choices: Tuple[str, ...] = ('official', )
    #: The values of :obj:`features`.
    feature_choices: Tuple[Optional[str], ...] = ('auto', 'labels', None)
    #: The file of numeric literals, if there is one.
    numeric_file: Optional[str] = None

    def __init__(self, root: Optional[str] = None, splits: str = 'official',
                 features: Optional[str] = 'auto', mirror: Optional[str] = None,
                 transform: Optional[Callable] = None, pre_transform: Optional[Callable] = None,
                 force_reload: bool = False, encoder: str = 'hash'):
        for argument, value, choices in [('splits', splits, self.split_choices),
                                         ('features', features, self.feature_choices),
                                         ('encoder', encoder, sorted(ENCODERS))]:
            if value not in choices:
                raise ValueError(f'Unknown {argument} {value!r} of {self.name} '
                                 f'(expected one of {list(choices)})')
        root = Path(root or os.environ.get('PYG_MMKGC_ROOT') or 'datasets').expanduser()
        mirror = mirror or os.environ.get('PYG_MMKGC_MIRROR') or None
        self.splits = splits
        self.features = 'labels' if features == 'auto' else features
        self.mirror = None if mirror is None else os.fspath(mirror)
        self.encoder = encoder
        self._graph: Optional[HeteroData] = None
        super().__init__(str(root / self.__class__.__name__.lower()), transform, pre_transform,
                         force_reload)
        self.data, self.slices = self._graph, None
        del self._graph

    # Names ####################################################################################

    def entity_labels(self, names: List[str]) -> List[str]:
        r"""The readable label of each entity, from the names in `entity2id.txt`."""
        return names

    def relation_labels(self, names: List[str]) -> List[str]:
        r"""The readable label of each relation, from the names in `relation2id.txt`."""
        return names

    def attribute_labels(self, names: List[str]) -> List[str]:
        r"""The readable label of each numeric attribute, from the names in the file."""
        return names

    @property
    def raw_file_names(self) -> List[str]:
        r"""The files that the dataset cannot do without."""
        return [file.name for file in self.files if not file.optional]

    @property
    def processed_file_names(self) -> List[str]:
        r"""The one cache; every option that changes the graph is in its name."""
        parts = [f'v{CACHE_VERSION}', self.splits, str(self.features).lower()]
        if self.features is not None:
            parts.append(self.encoder)
        if self.pre_transform is not None:
            parts.append(hashlib.sha256(repr(self.pre_transform).encode()).hexdigest()[:12])
        return [f'{"-".join(parts)}.safetensors']

    # Raw files ################################################################################

    def download(self) -> None:
        r"""Puts each file that the raw folder lacks there, from the mirror or from GitHub."""
        first = not all(Path(path).exists() for path in self.raw_paths)
        for file in self.files:
            target = Path(self.raw_dir) / file.name
            if target.exists():
                continue
            if self.mirror is not None and '://' not in self.mirror:
                source = Path(self.mirror).expanduser() / self.name / file.name
                if source.is_file():
                    with open(source, 'rb') as f:
                        _store(f, target, file, str(source))
                elif not file.optional:
                    raise FileNotFoundError(f"The mirror '{self.mirror}' of {self.name} has no "
                                            f"file '{self.name}/{file.name}'")
            elif not file.optional:
                url = file.url
                if self.mirror is not None:
                    url = f'{self.mirror.rstrip("/")}/{self.name}/{file.name}'
                self._fetch(url, target, file)
            elif self.mirror is not None and first:
                # Asked for once only, not each time that the dataset is loaded.
                try:
                    self._fetch(f'{self.mirror.rstrip("/")}/{self.name}/{file.name}', target, file)
                except ConnectionError as error:
                    logger.info('%s', error)
            if file.optional and not target.exists():
                logger.info("%s: no file '%s' (%s), so what it tells is left out", self.name,
                            file.name, file.derived)

    def _fetch(self, url: str, target: Path, file: RawFile) -> None:
        logger.info('%s: downloading %s', self.name, url)
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
                _store(response, target, file, url)
        except (OSError, http.client.HTTPException) as error:  # `URLError` is an `OSError`.
            raise ConnectionError(
                f"'{url}' could not be downloaded ({error}). By hand: save it as '{target}' "
                f"(SHA-256 {file.sha256}), or name a folder that holds '{self.name}/{file.name}' "
                f'by mirror= or PYG_MMKGC_MIRROR') from error

    def _verify(self, file: RawFile) -> Path:
        path = Path(self.raw_dir) / file.name
        _check_hash(hashlib.sha256(path.read_bytes()).hexdigest(), file, f"'{path}'",
                    '; delete it to fetch it anew')
        return path

    # The graph ################################################################################

    def process(self) -> None:
        r"""Builds the graph and caches it."""
        present = {file.name: self._verify(file) for file in self.files
                   if (Path(self.raw_dir) / file.name).exists()}
        entities, relations, splits = read_openke(self.raw_dir)
        data = build_data(splits, _unique(self.entity_labels(entities), entities),
                          _unique(self.relation_labels(relations), relations))
        data.candidates = 'all'
        if DESCRIPTIONS in present:
            data['entity'].description = Labels(
                read_descriptions(present[DESCRIPTIONS], entities))
        if self.features == 'labels':
            self._add_features(data, entities, present)
        if self.pre_transform is not None:
            data = self.pre_transform(data)
            if not isinstance(data, HeteroData):
                raise ValueError(f"'pre_transform' needs to return the graph (got "
                                 f'{type(data).__name__})')
        data.raw_files = sorted(present)
        self._graph = data
        if self._cacheable:
            self.save([data], self.processed_paths[0])

    def _add_features(self, data: HeteroData, entities: List[str],
                      present: Dict[str, Path]) -> None:
        logger.info("%s: features are rebuilt from labels with the encoder '%s'", self.name,
                    self.encoder)
        sources = ['label'] + (['description'] if DESCRIPTIONS in present else [])
        EncodeText(self.encoder, sources).forward(data)
        if self.numeric_file in present:
            value, attributes = read_numeric_triples(present[self.numeric_file], entities)
            x, mask, kept = EncodeNumeric().encode(value, seen_entities(data))
            set_modality(data, 'numeric', x, mask)
            labels = _unique(self.attribute_labels(attributes), attributes)
            data['entity'].numeric_attribute = [labels[i] for i in kept.tolist()]

    @property
    def _cacheable(self) -> bool:
        return ' at 0x' not in repr(self.pre_transform)

    def _download(self) -> None:
        # PyG asks for raw files even where a cache makes them needless, and never for optional
        # ones. What is needed is decided in `_process`.
        pass

    def _process(self) -> None:
        # In place of PyG's, which notes down `pre_transform` in pickled files, not atomically,
        # and reads them back without protection.
        path = Path(self.processed_paths[0])
        if not self.force_reload and self._cacheable and path.exists():
            try:
                self._graph = load_data(path)
            except ValueError as error:
                logger.warning('%s: %s; it is built again', self.name, error)
            else:
                if not self._new_files(self._graph):
                    return
        self.download()
        self.process()

    def _new_files(self, data: HeteroData) -> bool:
        # Whether there now is an optional file that the cached graph was built without.
        folders = [Path(self.raw_dir)]
        if self.mirror is not None and '://' not in self.mirror:
            folders.append(Path(self.mirror).expanduser() / self.name)
        return any((folder / file.name).exists() for file in self.files for folder in folders
                   if file.name not in data.raw_files)


def _store(source: IO[bytes], target: Path, file: RawFile, where: str) -> None:
    # Nothing appears at the target unless its hash is right.
    digest = hashlib.sha256()
    with atomic_write(target, 'wb') as f:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            f.write(chunk)
        _check_hash(digest.hexdigest(), file, f"'{where}'")


def _check_hash(digest: str, file: RawFile, where: str, hint: str = '') -> None:
    if digest != file.sha256:
        raise ValueError(f'{where} is not the published file (SHA-256 {digest}, expected '
                         f'{file.sha256}{hint})')


def _unique(labels: List[str], names: List[str]) -> List[str]:
    # Labels that several names share get their name appended.
    count = Counter(labels)
    return [f'{label} ({name})' if count[label] > 1 else label
            for label, name in zip(labels, names, strict=True)]
