r"""A folder of one's own as a dataset."""
import logging
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Union

from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_mmkgc.data.contents import EntityContents
from pyg_mmkgc.data.hetero import modality_names, seen_entities
from pyg_mmkgc.data.labels import Labels
from pyg_mmkgc.datasets.base import GraphDataset, number_row
from pyg_mmkgc.datasets.folder.config import CONFIG, KINDS, FolderConfig, read_config
from pyg_mmkgc.datasets.folder.read import read_folder
from pyg_mmkgc.datasets.folder.write import write_folder
from pyg_mmkgc.transforms.encode_image import thumbnail

logger = logging.getLogger(__name__)


class MMKGFolder(GraphDataset):
    r"""A multi-modal knowledge graph from a folder of one's own, read anew each time.

    **Triples**, in one of these layouts:

    - `train`, `val` (or `valid`) and `test`, optionally `inductive_test`, each as `.tsv`, `.txt`,
      `.csv` or `.parquet` with the columns head, relation, tail, with or without a header
      (`.tsv` and `.txt` know tabs and no quotes), or as RDF, `.nt` or `.ttl`, see
      :class:`~pyg_mmkgc.datasets.folder.rdf.RDFFile`;
    - one such file `triples` or `graph`, which is split such that every entity and relation occurs
      in training, see :func:`~pyg_mmkgc.data.split_triples`; by default 0.8 / 0.1 / 0.1, seed 0;
    - OpenKE: `entity2id.txt`, `relation2id.txt`, `train2id.txt`, `valid2id.txt` and
      `test2id.txt`, see :func:`~pyg_mmkgc.datasets.openke.read_openke`.

    Entities and relations are sorted by name, unless `entities` or `relations` lists them: a
    `.txt` with one name a line, or a table (`.tsv`, `.csv`, `.parquet`) with a header whose first
    column is the name. Labels are stripped, and never changed otherwise; two Unicode forms of one
    text are two labels, with a warning. Cells that are integers are labels, too, unless a list of
    other names makes them ids, from 0 or from 1.

    **Attributes** are columns of the table `entities` and of `attributes`, `texts` and `numbers`,
    whose first column names the entity: `label` (readable labels; the names are kept as
    ``data['entity'].name``, unless their column is called `id`), numbers (``numeric_value`` and
    ``numeric_attribute``) and texts, each under its own name. A column is one of numbers if all
    its cells are; `texts` and `numbers` in `dataset.yaml` say otherwise. Also `descriptions.tsv`,
    without header. A text column such as `image_path` holds paths of files; so do the folders
    `images`, `audio` and `video`, see
    :func:`~pyg_mmkgc.datasets.folder.attributes.find_files`.

    **Features** are modalities. `<modality>.npy` has a row for each entity in the order of their
    list, or for each of `<modality>_index.npy` (ids or names) or `<modality>_index.txt`
    (names), and `<modality>_mask.npy` is False where an entity lacks them; in `.npz` and
    `.safetensors` the same stands under the same names.

    **Encoded modalities**: ``text`` from label and text columns, if there are any (labels alone
    are encoded only if `dataset.yaml` has ``modalities: {text: {}}``), ``numeric`` from numbers,
    ``image``, ``audio`` and ``video`` from files, unless features have that name.

    `dataset.yaml` sets what is guessed here, see
    :class:`~pyg_mmkgc.datasets.folder.config.FolderConfig`; `pyg-mmkgc init FOLDER` writes one.

    Args:
        path (str or os.PathLike): The folder.
        transform (callable, optional): Applied at each access. (default: :obj:`None`)
        pre_transform (callable, optional): Applied once. (default: :obj:`None`)

    Raises:
        FileNotFoundError: If the folder or a file that it must have is missing.
        ImportError: If a file or an encoder needs a package that is not installed.
        ValueError: If a file is malformed, a split is empty, a label is not listed, or features
            do not match the entities or are not finite. The message names the file, and the line.
    """
    def __init__(self, path: Union[str, 'os.PathLike[str]'],
                 transform: Optional[Callable[..., Any]] = None,
                 pre_transform: Optional[Callable[..., Any]] = None):
        self.path = Path(path).expanduser()
        if not self.path.is_dir():
            raise FileNotFoundError(f"There is no folder '{path}'")
        super().__init__(transform=transform, pre_transform=pre_transform)
        config = read_config(self.path)
        data = read_folder(self.path, config)
        self._encoded = encode(data, self.path, config)
        self.data = data if pre_transform is None else pre_transform(data)

    def encode_content(self, modality: str, content: Any) -> Tensor:
        if self.pre_transform is not None or modality not in self._encoded:
            return super().encode_content(modality, content)
        data, transform = self._data, self._encoded[modality]()
        if hasattr(transform, 'contents'):
            return transform.encode_new(data, content)
        return transform.encode_new(data['entity'][transform.source], seen_entities(data),
                                    number_row(content, data['entity'].numeric_attribute))

    def contents(self, entity: int) -> EntityContents:
        out, store = super().contents(entity), self._data['entity']
        path = store.image_path[entity] if 'image_path' in store else None
        if path is None:
            return out
        try:
            return replace(out, pictures={'image': thumbnail(path)})
        except (ImportError, ValueError) as error:  # A page without it is better than none.
            logger.warning('A picture is left out: %s', error)
            return out

    @staticmethod
    def write(data: HeteroData, path: Union[str, 'os.PathLike[str]']) -> None:
        r"""Writes a graph as a folder, see :func:`~pyg_mmkgc.datasets.folder.write_folder`."""
        write_folder(data, path)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({str(self.path)!r})'


def encode(data: HeteroData, folder: Path, config: FolderConfig) -> Dict[str, Callable[[], Any]]:
    r"""Make the modalities that need an encoder, in place.

    Returns:
        Dict[str, Callable]: For each of them, what makes its transform.

    Raises:
        ImportError: If an encoder needs a package that is not installed.
        ValueError: If an encoder or its source is unknown, or the modality is there already.
    """
    ready = modality_names(data)
    out: Dict[str, Callable[[], Any]] = {}
    for name, options in planned(data, config).items():
        if options.get('encoder', '') is None or (name in ready and 'encoder' not in options):
            continue
        if name in ready:
            raise ValueError(f'{folder / CONFIG}: modality {name!r} has an encoder, but features '
                             f'of that name lie in the folder')
        try:
            out[name] = partial(_transform, options.get('kind', name), name, data, options)
            out[name]().forward(data)
        except ValueError as error:
            raise ValueError(f'{folder}: modality {name!r}: {error}') from error
    return out


def planned(data: HeteroData, config: FolderConfig) -> Dict[str, Dict[str, Any]]:
    r"""The modalities that are encoded unless features have their name, with their options."""
    store = data['entity']
    found = ['text'] if _texts(data) else []
    found += ['numeric'] if 'numeric_value' in store else []
    found += [kind for kind in KINDS if f'{kind}_path' in store]
    return {name: config.modalities.get(name, {}) for name in sorted({*found, *config.modalities})}


def _texts(data: HeteroData) -> List[str]:
    # The columns that describe an entity in words.
    return [key for key, value in data['entity'].items() if isinstance(value, Labels)
            and key not in ('label', 'name') and not key.endswith('_path')]


def _transform(kind: str, name: str, data: HeteroData, options: Dict[str, Any]) -> Any:
    # Imported here: some encoders are slow to import, or extras.
    from pyg_mmkgc import transforms

    if kind == 'numeric':
        return transforms.EncodeNumeric(options.get('source', 'numeric_value'), name,
                                        options.get('encoder', 'quantile'))
    if kind == 'text':
        return transforms.EncodeText(options.get('encoder', 'hash'),
                                     options.get('source', ['label', *_texts(data)]), name)
    encoder = {} if 'encoder' not in options else {'encoder': options['encoder']}
    return getattr(transforms, f'Encode{kind.capitalize()}')(
        source=options.get('source', f'{name}_path'), modality=name, **encoder)
