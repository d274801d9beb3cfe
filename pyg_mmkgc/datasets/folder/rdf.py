r"""RDF: N-Triples and Turtle."""
from collections import defaultdict
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple
from urllib.parse import unquote

import numpy as np

from pyg_mmkgc.data.tables import AttributeTable, TripleTable

RDF_SUFFIXES = ('.nt', '.ttl')
_XSD = 'http://www.w3.org/2001/XMLSchema#'
_LANG_STRING = 'http://www.w3.org/1999/02/22-rdf-syntax-ns#langString'
_TEXT_TYPES = (f'{_XSD}string', _LANG_STRING)
_NUMBER_TYPES = {_XSD + name for name in (
    'byte', 'decimal', 'double', 'float', 'int', 'integer', 'long', 'negativeInteger',
    'nonNegativeInteger', 'nonPositiveInteger', 'positiveInteger', 'short', 'unsignedByte',
    'unsignedInt', 'unsignedLong', 'unsignedShort')}
#: Properties that name a thing, the first found wins, and properties that describe one.
_LABELS = ('http://www.w3.org/2004/02/skos/core#prefLabel',
           'http://www.w3.org/2000/01/rdf-schema#label')
_DESCRIPTIONS = ('http://www.w3.org/2000/01/rdf-schema#comment',
                 'http://purl.org/dc/terms/description', 'http://schema.org/description',
                 'https://schema.org/description')


class Literals:
    r"""What the literals of some files say, as attributes of whom they are about.

    `rdfs:label` and `skos:prefLabel` become the label (else the last segment of the IRI),
    `rdfs:comment` and the like ``description``, numbers a numeric column (several are averaged),
    and other texts a column with the last segment of the property as its name. Of several texts
    the one without language wins, then English, then the first. Literals of other types (dates,
    say) are left out.
    """
    def __init__(self) -> None:
        self._texts: Dict[str, Dict[str, Tuple[Any, ...]]] = defaultdict(dict)
        self._numbers: Dict[str, Dict[str, List[float]]] = defaultdict(lambda: defaultdict(list))

    def add(self, path: Path, name: str, key: str, literal: Any) -> None:
        r"""Note down one literal.

        Raises:
            ValueError: If a literal with the type of a number is none.
        """
        if literal.datatype.value in _TEXT_TYPES:
            rank = (_rank(key), {None: 0, 'en': 1}.get(literal.language, 2))
            column = self._texts[_column(key)]
            if name not in column or rank < column[name][0]:
                column[name] = rank, literal.value
        elif literal.datatype.value in _NUMBER_TYPES:
            try:
                self._numbers[_column(key)][name].append(float(literal.value))
            except ValueError:
                raise ValueError(f'{path}: expected a number for {key!r} of {name!r} '
                                 f'(got {literal.value!r})') from None

    def table(self, path: Path, names: List[str]) -> AttributeTable:
        r"""The attributes of some entities or relations."""
        import pyarrow as pa

        columns = {}
        for column, texts in self._texts.items():
            values = [texts[n][1] if n in texts else None for n in names]
            if any(values):
                columns[column] = pa.array(values, pa.string())
        labels = self._texts['label']
        columns['label'] = pa.array([
            ' '.join(labels[n][1].split()) if n in labels else _last_segment(n) or n
            for n in names], pa.string())
        for column, numbers in self._numbers.items():
            if any(n in numbers for n in names):
                columns[column] = pa.array(
                    [sum(numbers[n]) / len(numbers[n]) if n in numbers else None for n in names],
                    pa.float64())
        return AttributeTable(path, 'name', names, columns)


class RDFFile:
    r"""A file in N-Triples (`.nt`) or Turtle (`.ttl`). IRIs and blank nodes become entities,
    literals attributes.

    pyoxigraph reads it: a parser in Rust that streams, names the line of an error and brings no
    other package along; rdflib, the alternative, parses in Python and keeps all in memory.

    Args:
        path (Path): The file.
        literals (Literals): Where literals are noted down.

    Raises:
        ImportError: If pyoxigraph is not installed.
        FileNotFoundError: If there is no such file.
    """
    def __init__(self, path: Path, literals: Literals):
        if not path.is_file():
            raise FileNotFoundError(f"There is no file '{path}'")
        self.path = path
        self.literals = literals
        self._pyoxigraph()

    def read(self) -> TripleTable:
        r"""Read the file.

        Raises:
            ValueError: If it is malformed. The message names the line.
        """
        literal = self._pyoxigraph().Literal
        entity: Dict[str, int] = {}
        relation: Dict[str, int] = {}
        codes: List[int] = []
        for subject, predicate, value in self._parse():
            name, key = _name(subject), predicate.value
            if isinstance(value, literal):
                self.literals.add(self.path, name, key, value)
            else:
                codes += (entity.setdefault(name, len(entity)),
                          relation.setdefault(key, len(relation)),
                          entity.setdefault(_name(value), len(entity)))
        head, rel, tail = np.array(codes, dtype=np.int32).reshape(-1, 3).T
        return TripleTable(head, rel, tail, list(entity), list(relation))

    def locate(self, wrong: Callable[[str, str, str], bool]) -> str:
        r"""The path: the parser tells no line of a statement that is well formed."""
        return str(self.path)

    def _parse(self) -> Any:
        ox = self._pyoxigraph()
        form = ox.RdfFormat.N_TRIPLES if self.path.suffix == '.nt' else ox.RdfFormat.TURTLE
        try:
            with open(self.path, 'rb') as f:
                if f.read(3) != b'\xef\xbb\xbf':
                    f.seek(0)
                for quad in ox.parse(f, format=form):
                    yield quad.subject, quad.predicate, quad.object
        except (SyntaxError, UnicodeDecodeError) as error:
            line = getattr(error, 'lineno', None)
            where = self.path if line is None else f'{self.path}:{line}'
            raise ValueError(f'{where}: malformed RDF ({getattr(error, "msg", error)})') from error

    @staticmethod
    def _pyoxigraph() -> Any:
        try:
            import pyoxigraph
        except ImportError as error:
            raise ImportError('Reading RDF needs an extra package: '
                              'pip install "pyg-mmkgc[rdf]"') from error
        return pyoxigraph


def _name(node: Any) -> str:
    return node.value if node.__class__.__name__ == 'NamedNode' else str(node)


def _rank(key: str) -> int:
    return _LABELS.index(key) if key in _LABELS else 0


def _column(key: str) -> str:
    if key in _LABELS:
        return 'label'
    if key in _DESCRIPTIONS:
        return 'description'
    return _last_segment(key)


def _last_segment(iri: str) -> str:
    return unquote(iri.rstrip('/#').replace('#', '/').rsplit('/', 1)[-1]).strip()
