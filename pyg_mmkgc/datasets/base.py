r"""What all datasets share: one graph in memory, files with known hashes, caches without pickle."""
import contextlib
import copyreg
import difflib
import hashlib
import http
import http.client
import inspect
import json
import logging
import os
import secrets
import urllib.error
import urllib.request
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor
from torch_geometric.data import HeteroData, InMemoryDataset
from torch_geometric.data.data import BaseData
from tqdm import tqdm

from pyg_mmkgc.data.contents import EntityContents, entity_contents
from pyg_mmkgc.data.hetero import EDGE, build_data, modality_names, seen_entities, set_modality
from pyg_mmkgc.data.hetero import split_names as names_of_splits
from pyg_mmkgc.data.io import atomic_write, load_data, save_data
from pyg_mmkgc.data.labels import Labels, unique_labels
from pyg_mmkgc.data.splits import clean_splits, split_entities
from pyg_mmkgc.datasets.openke import read_descriptions, read_numeric_triples, read_openke
from pyg_mmkgc.datasets.released import RELEASED_FILES, find_fill, find_released, read_released
from pyg_mmkgc.transforms.encode_content import HUGGING_FACE
from pyg_mmkgc.transforms.encode_numeric import EncodeNumeric
from pyg_mmkgc.transforms.encode_text import ENCODERS, EncodeText, TextEncoder

#: Goes into the name of each cache; to be raised when the same options give another result.
CACHE_VERSION = 2
DESCRIPTIONS = 'descriptions.tsv'
#: The repository and commit that all five benchmarks' triples come from.
NATIVE = ('zjukg/NATIVE', 'c72291c3d571b36c754897935d21718aa4568fe7')
SPLITS = ('official', 'clean', 'inductive')
FEATURES = ('auto', 'released', 'labels', None)
DESCRIPTION = ('joined', 'modality')
_TIMEOUT = 30.0  # In seconds, for each answer of a server.
_CHUNK = 1 << 16
_PART = '.part'
_DEPTH = 10  # Of options within options; a loop would have no end.

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
    def __init__(self, root: Optional[str] = None, transform: Optional[Callable[..., Any]] = None,
                 pre_transform: Optional[Callable[..., Any]] = None, force_reload: bool = False):
        super().__init__(root, transform, pre_transform, log=False, force_reload=force_reload)

    @classmethod
    def save(cls, data_list: Sequence[BaseData], path: str) -> None:
        r"""Saves the one graph with :func:`~pyg_mmkgc.data.io.save_data`, not by pickling."""
        data, = data_list
        save_data(data, path)

    def load(self, path: str, data_cls: type = HeteroData) -> None:
        r"""Loads the graph with :func:`~pyg_mmkgc.data.io.load_data`, not by unpickling."""
        self.data, self.slices = load_data(path), None

    def encode_content(self, modality: str, content: Any) -> Tensor:
        r"""The vector :math:`(1, C)` of content that no entity of the dataset has, by the encoder
        that made those of the others.

        Args:
            modality (str): The modality.
            content (Any): A text, the path of a file, or numbers by name.

        Raises:
            ImportError: If there is no such encoder, or it needs a package that is not installed.
            ValueError: If it cannot encode the content.
        """
        raise ImportError(f'{self.__class__.__name__} has no encoder of it')

    def encode_entity(self, contents: Mapping[str, Any]) -> Dict[str, Tensor]:
        r"""Features of an entity that the dataset does not hold, by the encoders that made the
        features of the others; for :meth:`~pyg_mmkgc.nn.MultiModalModel.embed` and
        :func:`~pyg_mmkgc.evaluation.predict`.

        Args:
            contents (Mapping[str, Any]): For each modality at hand a text, the path of a file, or
                numbers by name.

        Raises:
            ValueError: If there is no such modality, or no encoder of it on this machine; the
                message says what to do instead.
            FileNotFoundError: If there is no such file.
        """
        out = {}
        for modality, content in contents.items():
            if modality not in self.modalities:
                raise ValueError(f'Unknown modality {modality!r} of {self.__class__.__name__} '
                                 f'(expected some of {self.modalities})')
            channels = self._data['entity'][modality].size(1)
            try:
                x = self.encode_content(modality, content)
            except ImportError as error:
                raise ValueError(f'modality {modality!r} cannot be encoded here ({error}); give '
                                 f'its vector of {channels} numbers instead, by features= or '
                                 f'--features') from error
            except ValueError as error:
                raise ValueError(f'modality {modality!r}: {error}') from error
            if x.shape != (1, channels):
                raise ValueError(f'modality {modality!r} was encoded to shape {list(x.shape)} '
                                 f'(expected {[1, channels]}); give its vector instead, by '
                                 f'features= or --features')
            out[modality] = x
        return out

    def contents(self, entity: int) -> EntityContents:
        r"""What of an entity people can look at, as far as the dataset has it at hand.

        Args:
            entity (int): The entity's id.
        """
        return entity_contents(self._data, entity)

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

    **Files** are taken from the folder `raw` of the dataset's own folder, else from the mirror,
    else from GitHub at a pinned commit; what has another SHA-256 than the published file is
    refused. A download that breaks off or is interrupted leaves nothing under the name of the
    file; what came is kept as `raw/.<file>.part`, which the next try continues (and removes if
    the hash is wrong then).

    **Released features** (``'image'``, ``'text'``, ``'numeric'``, ``'audio'``, ``'video'``) lie on
    cloud drives and have no known hash. They are read where the user has put them, in the folder
    `raw` or in `<mirror>/<NAME>` if the mirror is a folder: NativE's `<NAME>-visual.pth`,
    `-textual.pth`, `-numeric.pth`, `-audio.pth` and `-video.pth`, MoMoK's `img_features.pth`,
    `text_features.pth` and `numeric_features.pth`.

    **The graph** is kept in the folder `processed` as safetensors, in one file for each
    combination of options; a damaged one is noticed and built again, and so is one whose released
    files have changed. Several processes may build at the same time. Beside triples, labels and
    modalities the graph holds:

    - ``data['entity'].description_text``: the descriptions, where the benchmark has some;
    - ``data['entity'].numeric_attribute``: the label of each attribute of ``numeric``;
    - ``data.feature_sources``: where each modality comes from.

    Args:
        root (str, optional): The folder of all datasets. (default: `$PYG_MMKGC_ROOT`, else
            `./datasets`)
        splits (str, optional): ``'official'``: as published; ``'clean'``: without repeats and
            overlap, see :func:`~pyg_mmkgc.data.clean_splits`; ``'inductive'``: all triples split
            anew, such that 5 % of the entities occur in split ``'inductive_test'`` alone, see
            :func:`~pyg_mmkgc.data.split_entities` (seed 0). (default: :obj:`'official'`)
        features (str, optional): ``'released'``: the released files; ``'labels'``: modality
            ``text`` from labels and descriptions, and ``numeric`` where the benchmark has
            literals, which needs no other download; ``'auto'``: each modality from its released
            file where there is one, else from labels; :obj:`None`: no modality.
            (default: :obj:`'auto'`)
        mirror (str, optional): A folder or an address that holds `<NAME>/<file>`.
            (default: `$PYG_MMKGC_MIRROR`, else none)
        transform (callable, optional): Applied at each access. (default: :obj:`None`)
        pre_transform (callable, optional): Applied once, before the graph is cached.
            (default: :obj:`None`)
        force_reload (bool, optional): Whether to build anew what is cached.
            (default: :obj:`False`)
        encoder (str or callable, optional): The encoder of labels and descriptions: ``'hash'``,
            ``'minilm'``, ``'hf:<name or folder>'`` or one of your own, see
            :class:`~pyg_mmkgc.transforms.EncodeText`. (default: :obj:`'hash'`)
        description (str, optional): ``'joined'``: ``text`` is the label, and the description
            behind it where there is one; ``'modality'``: ``text`` is the label alone, and
            ``description`` a modality of its own, which is truly missing where there is none.
            (default: :obj:`'joined'`)
        numeric (EncodeNumeric, optional): How literals are encoded; its ``source`` is not read,
            and statistics are always learned from entities in train.
            (default: ``EncodeNumeric()``)
        mask_fill (bool, optional): Whether rows of released files that are no features but the
            publishers' fill are masked, as far as they can be told, see
            :func:`~pyg_mmkgc.datasets.released.find_fill`. If not, they are taken as they are.
            (default: :obj:`True`)

    A callable that holds a function, or anything else that cannot be told from another (a lambda
    as :obj:`pre_transform`, say), is not cached: the graph is then built each time.

    Raises:
        ValueError: If an option is unknown or does not fit the benchmark, or a file is damaged or
            not the published one.
        FileNotFoundError: If the mirror lacks a file, or there is no released file, description
            or literal although an option asks for it.
        ConnectionError: If a download fails.
    """
    #: The name of the folder in a mirror.
    name: str
    #: Other names under which released features were published.
    aliases: Tuple[str, ...] = ()
    #: The published files.
    files: Tuple[RawFile, ...]
    #: The file of numeric literals, if there is one.
    numeric_file: Optional[str] = None
    #: Where the released features are, for those who look for them.
    released_at: str = ('https://github.com/zjukg/NATIVE and https://github.com/zjukg/MoMoK '
                        '(their READMEs link the cloud drives)')
    #: The named encoders that do not read the language of the labels.
    unread_by: Tuple[str, ...] = ()

    def __init__(self, root: Optional[str] = None, splits: str = 'official',
                 features: Optional[str] = 'auto', mirror: Optional[str] = None,
                 transform: Optional[Callable[..., Any]] = None,
                 pre_transform: Optional[Callable[..., Any]] = None, force_reload: bool = False,
                 encoder: Union[str, TextEncoder] = 'hash', description: str = 'joined',
                 numeric: Optional[EncodeNumeric] = None, mask_fill: bool = True):
        for argument, value, choices in [('splits', splits, SPLITS),
                                         ('features', features, FEATURES),
                                         ('description', description, DESCRIPTION)]:
            if value not in choices:
                raise ValueError(f'Unknown {argument} {value!r} of {self.name} '
                                 f'(expected one of {list(choices)})')
        if not callable(encoder) and encoder not in list(ENCODERS) and \
                not str(encoder).startswith(HUGGING_FACE):
            raise ValueError(f"Unknown encoder {encoder!r} of {self.name} (expected a callable or "
                             f"one of {sorted(ENCODERS)}, or '{HUGGING_FACE}' with a name or "
                             f'folder)')
        if description == 'modality' and DESCRIPTIONS not in {file.name for file in self.files}:
            raise ValueError(f"{self.name} has no descriptions, so 'description' needs to be "
                             f"'joined' (got {description!r})")
        if numeric is not None and self.numeric_file is None:
            raise ValueError(f"{self.name} has no numeric literals, so 'numeric' needs to be None "
                             f'(got {numeric})')
        if numeric is not None and numeric.fit_mask is not None:
            raise ValueError("'numeric' needs to have no 'fit_mask', since statistics are learned "
                             'from entities in train')
        if numeric is not None and numeric.modality in ('text', 'description'):
            raise ValueError(f"'numeric' needs a modality of its own (got {numeric.modality!r})")
        if features in ('auto', 'labels') and encoder in self.unread_by:
            warnings.warn(f'{self.name}: the encoder {encoder!r} does not read the language of '
                          f"the labels; use encoder='hash', which reads any script, or a "
                          f"multilingual encoder (encoder='hf:<name or folder>', or a callable)",
                          stacklevel=2)
        folder = Path(root or os.environ.get('PYG_MMKGC_ROOT') or 'datasets').expanduser()
        folder /= self.__class__.__name__.lower()
        mirror = mirror or os.environ.get('PYG_MMKGC_MIRROR') or None
        self.mirror = None if mirror is None else os.fspath(mirror)
        self._released: Dict[str, Path] = {}
        if features in ('auto', 'released'):
            self._released = find_released(self._folders(folder / 'raw'),
                                           [self.name, *self.aliases])
        self.splits = splits
        self.features = 'labels' if features == 'auto' and not self._released else features
        self.encoder = encoder
        self.description = description
        self.numeric = numeric
        self.mask_fill = mask_fill
        self._graph: Optional[HeteroData] = None
        super().__init__(str(folder), transform, pre_transform, force_reload)
        self.data, self.slices = self._graph, None
        del self._graph
        for modality, source in self._data.feature_sources.items():
            logger.info('%s: modality %r from %s', self.name, modality, source)

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
        options: Dict[str, Any] = {'pre_transform': self.pre_transform}
        if self.features in ('auto', 'labels'):
            if isinstance(self.encoder, str) and self.encoder in ENCODERS:
                parts.append(self.encoder)
            else:
                parts.append('custom')
                options['encoder'] = self.encoder
            parts.append(self.description)
            options['numeric'] = self.numeric
        if self.features in ('auto', 'released') and not self.mask_fill:
            parts.append('filled')
        options = {key: _describe(value) for key, value in options.items() if value is not None}
        if options:
            parts.append(hashlib.sha256(json.dumps(options).encode()).hexdigest()[:12])
        return [f'{"-".join(parts)}.safetensors']

    @property
    def _cacheable(self) -> bool:
        options = [self.pre_transform]
        if self.features in ('auto', 'labels'):
            options += [self.encoder, self.numeric]
        return all(_describe(option) is not None for option in options)

    def _folders(self, raw: Path) -> List[Path]:
        # Where files of this dataset may be.
        if self.mirror is None or '://' in self.mirror:
            return [raw]
        return [raw, Path(self.mirror).expanduser() / self.name]

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
                    _copy(source, target, file)
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
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f'.{file.name}{_PART}')
        # Under a name of this process's own, so that no other continues the same part.
        mine = target.with_name(f'.{file.name}.{os.getpid()}-{secrets.token_hex(4)}{_PART}')
        if part.exists():
            with contextlib.suppress(FileNotFoundError):  # Another process was faster.
                os.replace(part, mine)
        try:
            _download(url, mine, f'{self.name}/{file.name}')
            _check_hash(mine, file, f"'{url}'")
            os.replace(mine, target)
        except (OSError, http.client.HTTPException) as error:  # `URLError` is an `OSError`.
            raise ConnectionError(
                f"'{url}' could not be downloaded ({error}). By hand: save it as '{target}' "
                f"(SHA-256 {file.sha256}), or name a folder that holds '{self.name}/{file.name}' "
                f'by mirror= or PYG_MMKGC_MIRROR') from error
        except ValueError:  # All of it is there, and it is wrong.
            mine.unlink()
            raise
        finally:
            if mine.exists():
                if mine.stat().st_size > 0:
                    os.replace(mine, part)
                else:
                    mine.unlink()

    def _verify(self, file: RawFile) -> Path:
        path = Path(self.raw_dir) / file.name
        _check_hash(path, file, f"'{path}'", '; delete it to fetch it anew')
        return path

    # The graph ################################################################################

    def process(self) -> None:
        r"""Builds the graph and caches it."""
        present = {file.name: self._verify(file) for file in self.files
                   if (Path(self.raw_dir) / file.name).exists()}
        released = {path.name: _state(path) for path in self._released.values()}
        entities, relations, splits = read_openke(self.raw_dir)
        if self.splits == 'clean':
            splits = clean_splits(splits)
        elif self.splits == 'inductive':
            splits = split_entities(torch.cat(list(splits.values())))
        data = build_data(splits, unique_labels(self.entity_labels(entities), entities),
                          unique_labels(self.relation_labels(relations), relations))
        data.candidates = 'all'
        if DESCRIPTIONS in present:
            data['entity'].description_text = Labels(
                read_descriptions(present[DESCRIPTIONS], entities))
        sources: Dict[str, str] = {}
        if self.features in ('auto', 'released'):
            sources |= self._add_released(data)
        if self.features in ('auto', 'labels'):
            sources |= self._add_encoded(data, entities, present)
        if self.pre_transform is not None:
            data = self.pre_transform(data)
            if not isinstance(data, HeteroData):
                raise ValueError(f"'pre_transform' needs to return the graph (got "
                                 f'{type(data).__name__})')
        data.feature_sources = sources
        data.raw_files = sorted(present)
        data.released_files = released
        self._graph = data
        if self._cacheable:
            self.save([data], self.processed_paths[0])

    def _add_released(self, data: HeteroData) -> Dict[str, str]:
        if not self._released:
            names = [pattern.format(name=name) for patterns in RELEASED_FILES.values()
                     for pattern in patterns for name in (self.name, *self.aliases)]
            raise FileNotFoundError(
                f"There is no released feature file of {self.name} in '{self.raw_dir}' or in a "
                f"mirror folder (expected one of {sorted(set(names))}). By hand: get them from "
                f"{self.released_at}, or use features='labels'")
        out: Dict[str, str] = {}
        for modality, path in self._released.items():
            x, mask = read_released(path, data['entity'].num_nodes), None
            out[modality] = f"'{path.name}'"
            if self.mask_fill:
                mask = ~find_fill(x)
                out[modality] += f' ({int((~mask).sum())} rows masked as fill)'
            set_modality(data, modality, x, mask)
        return out

    def encode_content(self, modality: str, content: Any) -> Tensor:
        texts = self._texts(DESCRIPTIONS in self._data.raw_files)
        numeric = EncodeNumeric() if self.numeric is None else self.numeric
        if self.pre_transform is None and modality not in self._released:
            if modality in texts:
                return EncodeText(self.encoder, texts[modality]).encode_new(self._data, content)
            if modality == numeric.modality and self.numeric_file is not None:
                return self._encode_numbers(self.numeric_file, numeric, content)
        return super().encode_content(modality, content)

    def _encode_numbers(self, file: str, numeric: EncodeNumeric,
                        numbers: Mapping[str, float]) -> Tensor:
        entities = read_openke(self.raw_dir)[0]
        value, attributes = read_numeric_triples(Path(self.raw_dir) / file, entities)
        labels = unique_labels(self.attribute_labels(attributes), attributes)
        return numeric.encode_new(value, seen_entities(self._data), number_row(numbers, labels))

    def _texts(self, described: bool) -> Dict[str, List[str]]:
        # The modalities made of texts, and which texts.
        if self.description == 'modality':
            return {'text': ['label'], 'description': ['description_text']}
        return {'text': ['label', 'description_text'] if described else ['label']}

    def _add_encoded(self, data: HeteroData, entities: List[str],
                     present: Dict[str, Path]) -> Dict[str, str]:
        out: Dict[str, str] = {}
        encoder = self.encoder if isinstance(self.encoder, str) else type(self.encoder).__name__
        if self.description == 'modality':
            self._require(DESCRIPTIONS, present, "description='modality'")
        for modality, sources in self._texts(DESCRIPTIONS in present).items():
            if modality not in self._released:
                EncodeText(self.encoder, sources, modality).forward(data)
                out[modality] = f'{" and ".join(sources)}, encoded by {encoder!r}'

        if self.numeric_file is None:
            return out
        numeric = EncodeNumeric() if self.numeric is None else self.numeric
        if self.numeric is not None:
            self._require(self.numeric_file, present, "'numeric'")
        if self.numeric_file in present and numeric.modality not in self._released:
            value, attributes = read_numeric_triples(present[self.numeric_file], entities)
            x, mask, kept = numeric.encode(value, seen_entities(data))
            set_modality(data, numeric.modality, x, mask)
            labels = unique_labels(self.attribute_labels(attributes), attributes)
            data['entity'].numeric_attribute = [labels[i] for i in kept.tolist()]
            out[numeric.modality] = f"'{self.numeric_file}'"
        return out

    def _require(self, name: str, present: Mapping[str, Path], option: str) -> None:
        if name not in present:
            file = next(file for file in self.files if file.name == name)
            raise FileNotFoundError(
                f"{option} of {self.name} needs the file '{name}' ({file.derived}), which cannot "
                f"be downloaded: put it into '{self.raw_dir}' or into a mirror")

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
        # Whether there now is an optional file that the cached graph was built without, or a
        # released one that it was built without or that has changed.
        return any((folder / file.name).exists()
                   for file in self.files for folder in self._folders(Path(self.raw_dir))
                   if file.name not in data.raw_files) or any(
                       data.released_files.get(path.name) != _state(path)
                       for path in self._released.values())


def number_row(numbers: Mapping[str, float], names: Sequence[str]) -> Tensor:
    r"""Numbers by name as a vector in the order of :obj:`names`, NaN where there is none.

    Raises:
        ValueError: If a name is unknown.
    """
    index = {name: i for i, name in enumerate(names)}
    out = torch.full((len(names), ), float('nan'), dtype=torch.double)
    for name, value in numbers.items():
        if name not in index:
            close = difflib.get_close_matches(name, names, n=3)
            hint = f'did you mean {" or ".join(map(repr, close))}?' if close else (
                f'expected some of {list(names)[:20]}')
            raise ValueError(f'Unknown number {name!r} ({hint})')
        out[index[name]] = value
    return out


def _copy(source: Path, target: Path, file: RawFile) -> None:
    # Nothing appears at the target unless its hash is right.
    digest = hashlib.sha256()
    with open(source, 'rb') as content, atomic_write(target, 'wb') as f:
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
            f.write(chunk)
        _check_digest(digest.hexdigest(), file, f"'{source}'")


def _download(url: str, path: Path, label: str) -> None:
    # Continues what is at the path, if the server can.
    offset = path.stat().st_size if path.exists() else 0
    request = urllib.request.Request(url)
    if offset > 0:
        request.add_header('Range', f'bytes={offset}-')
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if offset == 0 or error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        path.unlink()
        return _download(url, path, label)
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            offset = 0
        length = response.headers.get('Content-Length')
        total = None if length is None else offset + int(length)
        with open(path, 'ab' if offset > 0 else 'wb') as f, \
                tqdm(total=total, initial=offset, desc=label, unit='B', unit_scale=True,
                     leave=False, disable=None) as bar:  # Shown on a terminal only.
            while chunk := response.read(_CHUNK):
                f.write(chunk)
                bar.update(len(chunk))
            f.flush()
            os.fsync(f.fileno())
    size = path.stat().st_size
    if total is not None and size < total:
        raise ConnectionError(f'it broke off after {size} of {total} bytes')


def _check_hash(path: Path, file: RawFile, where: str, hint: str = '') -> None:
    digest = hashlib.sha256()
    with open(path, 'rb') as f:
        while chunk := f.read(_CHUNK):
            digest.update(chunk)
    _check_digest(digest.hexdigest(), file, where, hint)


def _check_digest(digest: str, file: RawFile, where: str, hint: str = '') -> None:
    if digest != file.sha256:
        raise ValueError(f'{where} is not the published file (SHA-256 {digest}, expected '
                         f'{file.sha256}{hint})')


def _state(path: Path) -> List[int]:
    # Tells whether a file has changed, without reading hundreds of megabytes.
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _describe(option: Any, depth: int = 0) -> Optional[str]:
    # All that an option holds, or None if that cannot be said: functions have no content.
    if depth > _DEPTH:
        return None
    if isinstance(option, str) and option.startswith(HUGGING_FACE):
        files = sorted(path for path in Path(option[len(HUGGING_FACE):]).glob('*')
                       if path.is_file())  # None, if it is a name on the hub.
        return repr([option, *([path.name, _state(path)] for path in files)])
    if option is None or isinstance(option, (bool, int, float, str)):
        return repr(option)
    if isinstance(getattr(option, 'cache_key', None), str):  # An encoder says what it holds.
        return repr([type(option).__qualname__, option.cache_key])
    if isinstance(option, Tensor):
        content = option.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
        return f'{option.dtype}{list(option.shape)}{hashlib.sha256(content).hexdigest()}'
    if isinstance(option, Mapping):
        parts = [_describe(part, depth + 1) for item in option.items() for part in item]
    elif isinstance(option, (list, tuple)):
        parts = [_describe(part, depth + 1) for part in option]
    else:
        parts = [_describe_state(option, depth)]
    said = [part for part in parts if part is not None]
    if len(said) < len(parts):
        return None
    kind = type(option)
    return f'{kind.__module__}.{kind.__qualname__}({", ".join(said)})'


def _describe_state(option: Any, depth: int) -> Optional[str]:
    # What pickling would keep of an object, if that is all that there is.
    if isinstance(option, type) or inspect.isroutine(option) or inspect.ismodule(option):
        return None
    try:
        function, arguments, state, *items = option.__reduce_ex__(2)
    except (TypeError, ValueError):
        return None
    new = copyreg.__newobj__  # type: ignore[attr-defined]  # Typeshed lacks it.
    if function is not new or len(arguments) > 1 or any(items):
        return None
    return _describe(state, depth + 1)
