r"""The audit: what makes figures on a graph say less than they seem to."""
import io
import textwrap
import unicodedata
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import (
    TYPE_CHECKING,
    Any,
    Dict,
    Iterable,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_mmkgc.data.hetero import (
    EDGE,
    build_data,
    get_triples,
    modality_dicts,
    seen_entities,
    split_names,
)
from pyg_mmkgc.data.io import PathLike, atomic_path
from pyg_mmkgc.data.relation_classes import RELATION_CLASSES, relation_classes
from pyg_mmkgc.data.splits import SPENT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: The severities of a finding, the worst first.
SEVERITIES = ('error', 'warning', 'info')
#: One relation repeats another where at least this share of its triples, and so many, do.
MIN_SHARE, MIN_SHARED = 0.8, 5
#: The share of a split from which on its leaks are an error rather than a warning.
ERROR_SHARE = 0.05
#: Equal rows of features are a placeholder rather than chance from this share of entities on.
PLACEHOLDER_SHARE = 0.01
#: Two rows of features are nearly equal up to this distance, relative to the longer one.
NEAR_DISTANCE = 0.01
#: Nearly equal rows are looked for among this many at most, since each meets each.
MAX_ROWS = 32768
#: Examples that are kept of each kind.
MAX_EXAMPLES = 20
_CHUNK = 1024
_WIDTH = 100
_MAX_LABEL = 25


@dataclass(frozen=True)
class Finding:
    r"""One thing that a user ought to know.

    Args:
        severity (str): ``'error'``: figures on the split are misleading; ``'warning'``: to be
            reported beside them; ``'info'``: good to know.
        topic (str): What it is about: ``'repeats'``, ``'overlap'``, ``'leakage'``,
            ``'unseen entities'``, ``'unseen relations'``, ``'features'`` or ``'duplicates'``.
        text (str): What was found and what to do.
    """
    severity: str
    topic: str
    text: str


@dataclass(frozen=True)
class Audit:
    r"""What :func:`audit` found. All values are ready for JSON; ``str(audit)`` is the report.

    Args:
        name (str): The name of the graph.
        num_entities (int): The number of entities.
        num_relations (int): The number of relations, inverse ones not counted.
        splits (Dict[str, Dict[str, int]]): For each split, the number of ``'lines'``, of
            ``'distinct'`` triples, of ``'repeats'`` (lines less distinct triples), and of lines
            and of distinct triples that name an entity or a relation which train lacks:
            ``'unseen_entities'``, ``'unseen_entities_distinct'``, ``'unseen_relations'``,
            ``'unseen_relations_distinct'``.
        overlap (Dict[str, Dict[str, int]]): The number of distinct triples that stand in both of
            two splits.
        leakage (Dict[str, Dict[str, int]]): For each split but train, of its distinct triples
            that do not stand in train (``'distinct'``) the number of those that train tells all
            the same: by the ``'inverse'`` relation, by the ``'symmetric'`` relation itself, by a
            ``'duplicate'`` relation, by any of these (``'any'``); and of those whose two
            entities some training triple joins (``'linked'``).
        relation_pairs (List[Dict[str, Any]]): The ``'source'`` relations whose training triples
            say what a triple of the ``'target'`` says. Of the ``'triples'`` of the source between
            two different entities, ``'shared'`` (a ``'share'`` of at least 0.8) have their copy
            (``'kind'``: ``'duplicate'``) or their reverse (``'inverse'``; ``'symmetric'`` if the
            relation is the same) under the target in some split.
        entities (Dict[str, int]): The number of entities ``'seen'`` in train, ``'unseen'``
            there but in another split, and ``'isolated'``, which are in no triple.
        relations_never_in_train (List[int]): The ids of relations that train lacks.
        degrees (Dict[str, Any]): The number of distinct training triples of an entity that has
            any: ``'mean'``, ``'median'``, ``'max'``, ``'max_entity'``; and a ``'histogram'`` over
            all entities.
        relation_classes (Dict[str, Dict[str, int]]): For each class of
            :func:`relation_classes`, the number of ``'relations'`` and of distinct triples in
            each split.
        modalities (Dict[str, Dict[str, Any]]): For each modality, its ``'channels'``, the number
            and the ``'share'`` of ``'entities'`` that have it, of rows that are ``'constant'`` or
            equal to that of an earlier entity (``'duplicate'``), the size of the
            ``'largest_group'`` of equal rows, and the number of entities whose row is nearly, not
            quite, that of another (``'near'``; :obj:`None` if there are too many to look).
        num_without_modality (int): The number of entities that have no modality at all.
        same_label (Dict[str, Any]): The number of ``'entities'`` that share their label with
            another but for case, width of characters and spaces, and ``'examples'``, the ids.
        findings (List[Finding]): What of all that matters, the worst first.
    """
    name: str
    num_entities: int
    num_relations: int
    splits: Dict[str, Dict[str, int]]
    overlap: Dict[str, Dict[str, int]]
    leakage: Dict[str, Dict[str, int]]
    relation_pairs: List[Dict[str, Any]]
    entities: Dict[str, int]
    relations_never_in_train: List[int]
    degrees: Dict[str, Any]
    relation_classes: Dict[str, Dict[str, int]]
    modalities: Dict[str, Dict[str, Any]]
    num_without_modality: int
    same_label: Dict[str, Any]
    findings: List[Finding] = field(default_factory=list)

    def to_dict(self) -> Dict[str, Any]:
        r"""All of it, ready for JSON."""
        return asdict(self)

    def worst(self) -> Optional[str]:
        r"""The worst severity that was found, :obj:`None` if there is no finding."""
        return self.findings[0].severity if self.findings else None

    def plot(self, path: PathLike) -> None:
        r"""Draw splits, overlap, leakage, degrees, relation classes and coverage in one picture.

        Args:
            path (str or os.PathLike): The PNG file, written atomically.
        """
        # A figure of its own, not `pyplot`, which would keep it and choose a window system.
        from matplotlib.figure import Figure

        figure = Figure(figsize=(15, 8), layout='constrained')
        figure.suptitle(f'{self.name}: {self.num_entities:,} entities, {self.num_relations:,} '
                        f'relations', parse_math=False)
        axes = figure.subplots(2, 3)
        _bars(axes[0, 0], list(self.splits),
              {key: [row[key] for row in self.splits.values()] for key in ('lines', 'distinct')},
              'triples by split')
        self._plot_overlap(axes[0, 1])
        self._plot_leakage(axes[0, 2])
        histogram = self.degrees['histogram']
        _bars(axes[1, 0], [_range(bin['from'], bin['to']) for bin in histogram],
              {'': [bin['entities'] for bin in histogram]}, 'entities by training triples')
        classes = {name: row for name, row in self.relation_classes.items() if row['relations']}
        _bars(axes[1, 1], [f'{name}\n{row["relations"]:,} rel.' for name, row in classes.items()],
              {split: [row[split] / max(1, self.splits[split]['distinct'])
                       for row in classes.values()] for split in self.splits},
              'share of triples by relation class')
        _bars(axes[1, 2], list(self.modalities),
              {'': [row['share'] for row in self.modalities.values()]},
              'share of entities that have a modality' if self.modalities else 'no modality')
        axes[1, 2].set_ylim(0, 1.1)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=120)

    def _plot_overlap(self, axes: 'Axes') -> None:
        names = list(self.splits)
        share = np.array([[self.overlap[a][b] / max(1, self.overlap[a][a]) for b in names]
                          for a in names])
        axes.imshow(share, vmin=0, vmax=1, cmap='Reds')
        axes.set_xticks(range(len(names)), names, rotation=20)
        axes.set_yticks(range(len(names)), names)
        axes.set_title('share of a row\'s triples in a column')
        for i, row in enumerate(share):
            for j, value in enumerate(row):
                axes.text(j, i, f'{value:.1%}\n{self.overlap[names[i]][names[j]]:,}', ha='center',
                          va='center', color='white' if value > 0.6 else 'black')

    def _plot_leakage(self, axes: 'Axes') -> None:
        kinds = ['inverse', 'symmetric', 'duplicate', 'linked']
        series = {split: [row[kind] / max(1, row['distinct']) for kind in kinds]
                  + [self.splits[split]['unseen_entities'] / self.splits[split]['lines']]
                  for split, row in self.leakage.items()}
        _bars(axes, [*kinds, 'unseen\nentities'], series, 'share of triples outside train that are')

    def __str__(self) -> str:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        out = io.StringIO()
        console = Console(file=out, width=_WIDTH, highlight=False, color_system=None)

        def show(title: str, header: Sequence[str], rows: Iterable[Sequence[Any]],
                 names: int = 1) -> None:
            # The first columns, `names` of them, hold names, the others numbers.
            table = Table(title=Text(title), title_justify='left')
            for i, column in enumerate(header):
                table.add_column(column, justify='left' if i < names else 'right')
            for row in rows:
                table.add_row(*(Text(_cell(value)) for value in row))
            console.print(table)
            console.print()

        console.print(Text(f'{self.name}: {self.num_entities:,} entities, '
                           f'{self.num_relations:,} relations, '
                           f'{sum(row["lines"] for row in self.splits.values()):,} lines'))
        console.print()
        show('Splits, and their lines that name what train lacks',
             ['split', 'lines', 'distinct', 'repeats', 'unseen entities', 'unseen relations'],
             [[name, row['lines'], row['distinct'], row['repeats'], row['unseen_entities'],
               row['unseen_relations']] for name, row in self.splits.items()])
        show('Distinct triples that stand in two splits', ['split', *self.splits],
             [[name, *('' if name == other else shared for other, shared in row.items())]
              for name, row in self.overlap.items()])
        if self.leakage:
            show('What train tells of distinct triples that do not stand in it',
                 ['split', 'triples', 'inverse', 'symmetric', 'duplicate', 'any of these',
                  'linked'], [[name, *row.values()] for name, row in self.leakage.items()])
        if self.relation_pairs:
            shown = self.relation_pairs[:MAX_EXAMPLES]
            show(f'Relations that repeat others ({len(shown)} of {len(self.relation_pairs)})',
                 ['kind', 'relation', 'says the same as', 'triples', 'shared', 'share'],
                 [[pair['kind'], _shorten(pair['source_label']), _shorten(pair['target_label']),
                   pair['triples'], pair['shared'], f'{pair["share"]:.1%}'] for pair in shown], 3)
        show('Relation classes', ['class', 'relations', *self.splits],
             [[name, *row.values()] for name, row in self.relation_classes.items()])
        if self.modalities:
            show('Modalities', ['modality', 'channels', 'entities', 'share', 'constant rows',
                                'duplicate rows', 'nearly equal rows'],
                 [[name, row['channels'], row['entities'], f'{row["share"]:.1%}', row['constant'],
                   row['duplicate'], '' if row['near'] is None else row['near']]
                  for name, row in self.modalities.items()])
        degrees = self.degrees
        console.print(Text(
            f'Entities: {self.entities["seen"]:,} seen in train, {self.entities["unseen"]:,} only '
            f'in other splits, {self.entities["isolated"]:,} in no triple. Training triples of a '
            f'seen entity: mean {degrees["mean"]:.1f}, median {degrees["median"]:,}, most '
            f'{degrees["max"]:,} ({degrees["max_entity"]}).'))
        console.print()
        console.print(Text('Findings' if self.findings else 'No findings'))
        for finding in self.findings:
            console.print(Text(textwrap.fill(
                f'{finding.severity:<8} {finding.text}', _WIDTH, subsequent_indent=' ' * 9,
                break_long_words=False, break_on_hyphens=False)))
        # Without the spaces that fill up titles.
        return '\n'.join(line.rstrip() for line in out.getvalue().splitlines())


def audit(data: Union[HeteroData, Mapping[str, Tensor]], name: str = 'graph') -> Audit:
    r"""Look for all that makes figures on a graph say less than they seem to.

    Repeats within a split and overlap between splits, triples that train tells by an inverse, a
    symmetric or a duplicate relation (as in FB15k), entities and relations unseen in train,
    degrees and relation classes, coverage of the modalities, constant and equal rows of features,
    entities under the same label.

    That one relation repeats another is found from the training triples of the one and the
    triples of the other in all splits: counted in train alone, an exact inverse would show no
    more than the share of triples that were split to train.

    Args:
        data (HeteroData or Mapping[str, torch.Tensor]): The graph, or the triples ``[T, 3]`` of
            each split in columns head, relation, tail.
        name (str, optional): What to call it. (default: :obj:`'graph'`)

    Raises:
        ValueError: If the triples are malformed, there is no ``'train'``, or there are too many
            entities and relations for 64-bit keys.
    """
    if not isinstance(data, HeteroData):
        data = _as_data(data)
    classes = relation_classes(data)  # First, since it refuses a graph that has no 64-bit keys.
    num_entities, num_relations = data['entity'].num_nodes, data[EDGE].num_relations
    entity_labels = _labels(data['entity'], num_entities)
    relation_labels = _labels(data[EDGE], num_relations)
    lines = {split: _Triples(*get_triples(data, split), num_entities)
             for split in split_names(data)}
    distinct = {split: triples.distinct() for split, triples in lines.items()}
    train = distinct['train']

    seen = seen_entities(data)
    rel_seen = torch.zeros(num_relations, dtype=torch.bool)
    rel_seen[train.rel_type] = True
    mentioned = torch.zeros(num_entities, dtype=torch.bool)
    for triples in distinct.values():
        mentioned[triples.head_index] = mentioned[triples.tail_index] = True
    by_split = {
        split: {
            'lines': len(lines[split]),
            'distinct': len(distinct[split]),
            'repeats': len(lines[split]) - len(distinct[split]),
            'unseen_entities': lines[split].count_unseen(seen),
            'unseen_entities_distinct': distinct[split].count_unseen(seen),
            'unseen_relations': int((~rel_seen[lines[split].rel_type]).sum()),
            'unseen_relations_distinct': int((~rel_seen[distinct[split].rel_type]).sum()),
        } for split in lines
    }
    overlap = {a: {b: int(torch.isin(distinct[a].key, distinct[b].key).sum()) for b in distinct}
               for a in distinct}
    rules = _find_rules(train, _Triples.union(distinct.values(), num_entities), num_relations)
    leakage = {split: _leakage(triples, train, rules, num_relations)
               for split, triples in distinct.items() if split != 'train'}
    by_class = {
        name: {'relations': int((classes == i).sum()),
               **{split: int((classes[triples.rel_type] == i).sum())
                  for split, triples in distinct.items()}}
        for i, name in enumerate(RELATION_CLASSES)
    }
    x_dict, mask_dict = modality_dicts(data)
    any_modality = torch.zeros(num_entities, dtype=torch.bool)
    for mask in mask_dict.values():
        any_modality |= mask.cpu()

    out = Audit(
        name=name,
        num_entities=num_entities,
        num_relations=num_relations,
        splits=by_split,
        overlap=overlap,
        leakage=leakage,
        relation_pairs=_describe_rules(rules, relation_labels),
        entities={'seen': int(seen.sum()), 'unseen': int((mentioned & ~seen).sum()),
                  'isolated': int((~mentioned).sum())},
        relations_never_in_train=(~rel_seen).nonzero().view(-1).tolist(),
        degrees=_degrees(train, num_entities, entity_labels),
        relation_classes=by_class,
        modalities={m: _audit_features(x_dict[m].cpu(), mask_dict[m].cpu()) for m in x_dict},
        num_without_modality=int((~any_modality).sum()),
        same_label=_same_labels(entity_labels),
    )
    findings = [*_split_findings(out), *_leakage_findings(out),
                *_unseen_findings(out, relation_labels), *_entity_findings(out, entity_labels)]
    return replace(out, findings=sorted(findings, key=lambda f: SEVERITIES.index(f.severity)))


# Triples ######################################################################################


class _Triples:
    # Triples on the CPU with their keys.
    def __init__(self, head_index: Tensor, rel_type: Tensor, tail_index: Tensor,
                 num_entities: int):
        self.head_index, self.rel_type, self.tail_index = (
            part.cpu().long() for part in (head_index, rel_type, tail_index))
        self.num_entities = num_entities
        self.key = (self.rel_type * num_entities + self.head_index) * num_entities + self.tail_index

    @classmethod
    def from_keys(cls, key: Tensor, num_entities: int) -> '_Triples':
        query = key // num_entities
        return cls(query % num_entities, query // num_entities, key % num_entities, num_entities)

    @classmethod
    def union(cls, parts: Iterable['_Triples'], num_entities: int) -> '_Triples':
        return cls.from_keys(torch.cat([part.key for part in parts]).unique(), num_entities)

    def distinct(self) -> '_Triples':
        return self.from_keys(self.key.unique(), self.num_entities)

    def without(self, mask: Tensor) -> '_Triples':
        return self.from_keys(self.key[~mask], self.num_entities)

    def pairs(self, reverse: bool = False) -> Tensor:
        first, second = self.head_index, self.tail_index
        if reverse:
            first, second = second, first
        return first * self.num_entities + second

    def count_unseen(self, seen: Tensor) -> int:
        return int((~(seen[self.head_index] & seen[self.tail_index])).sum())

    def __len__(self) -> int:
        return self.key.numel()


@dataclass(frozen=True)
class _Rules:
    # For one direction: source * R + target of each relation pair, ascending, with its counts.
    code: Tensor
    shared: Tensor
    triples: Tensor
    num_relations: int

    @property
    def source(self) -> Tensor:
        return self.code // self.num_relations

    @property
    def target(self) -> Tensor:
        return self.code % self.num_relations


def _match(query: Tensor, key: Tensor) -> Tuple[Tensor, Tensor]:
    # Each row of `query` with each position in the sorted `key` that holds the same.
    start = torch.searchsorted(key, query)
    count = torch.searchsorted(key, query, right=True) - start
    row = torch.repeat_interleave(torch.arange(query.numel()), count)
    position = torch.arange(row.numel()) - (count.cumsum(0) - count)[row] + start[row]
    return row, position


def _find_rules(train: _Triples, graph: _Triples, num_relations: int) -> Dict[bool, _Rules]:
    # Which relation implies which, in the same direction (False) and in reverse (True).
    train = train.without(train.head_index == train.tail_index)  # Its own reverse tells nothing.
    size = torch.bincount(train.rel_type, minlength=num_relations)
    pair, order = graph.pairs().sort()
    out = {}
    for reverse in (False, True):
        row, position = _match(train.pairs(reverse), pair)
        source, target = train.rel_type[row], graph.rel_type[order[position]]
        code = source * num_relations + target
        if not reverse:
            code = code[source != target]
        code, shared = code.unique(return_counts=True)
        triples = size[code // num_relations]
        kept = (shared >= MIN_SHARED) & (shared >= MIN_SHARE * triples)
        out[reverse] = _Rules(code[kept], shared[kept], triples[kept], num_relations)
    return out


def _leakage(split: _Triples, train: _Triples, rules: Mapping[bool, _Rules],
             num_relations: int) -> Dict[str, int]:
    split = split.without(torch.isin(split.key, train.key))
    pair, order = train.pairs().sort()
    hits = {kind: torch.zeros(len(split), dtype=torch.bool)
            for kind in ('inverse', 'symmetric', 'duplicate', 'any', 'linked')}
    for reverse, rule in rules.items():
        row, position = _match(split.pairs(reverse), pair)
        hits['linked'][row] = True
        source, target = train.rel_type[order[position]], split.rel_type[row]
        implied = torch.isin(source * num_relations + target, rule.code)
        hits['any'][row[implied]] = True
        same = source == target
        if reverse:
            hits['symmetric'][row[implied & same]] = True
            hits['inverse'][row[implied & ~same]] = True
        else:
            hits['duplicate'][row[implied]] = True
    return {'distinct': len(split), **{kind: int(mask.sum()) for kind, mask in hits.items()}}


def _describe_rules(rules: Mapping[bool, _Rules], labels: Sequence[str]) -> List[Dict[str, Any]]:
    out = []
    for reverse, rule in rules.items():
        for source, target, shared, triples in zip(
                rule.source.tolist(), rule.target.tolist(), rule.shared.tolist(),
                rule.triples.tolist(), strict=True):
            kind = ('symmetric' if source == target else 'inverse') if reverse else 'duplicate'
            out.append({'kind': kind, 'source': source, 'target': target,
                        'source_label': labels[source], 'target_label': labels[target],
                        'triples': triples, 'shared': shared, 'share': shared / triples})
    return sorted(out, key=lambda pair: -pair['shared'])


def _degrees(train: _Triples, num_entities: int, labels: Sequence[str]) -> Dict[str, Any]:
    degree = torch.bincount(torch.cat([train.head_index, train.tail_index]),
                            minlength=num_entities)
    present = degree[degree > 0]
    # 0, 1, 2-3, 4-7 and so on; `frexp` is exact.
    count = torch.bincount(torch.frexp(degree.double()).exponent.long())
    return {
        'mean': float(present.double().mean()),
        'median': int(present.median()),
        'max': int(degree.max()),
        'max_entity': labels[int(degree.argmax())],
        'histogram': [{'from': 0 if i == 0 else 2**(i - 1), 'to': 2**i - 1, 'entities': entities}
                      for i, entities in enumerate(count.tolist())],
    }


# Entities #####################################################################################


def _audit_features(x: Tensor, mask: Tensor) -> Dict[str, Any]:
    x = x[mask].float() + 0.0  # [num_present, channels]; -0 becomes 0.
    out: Dict[str, Any] = {
        'channels': x.size(1), 'entities': x.size(0), 'share': x.size(0) / mask.numel(),
        'constant': 0, 'duplicate': 0, 'largest_group': 0, 'near': 0,
    }
    if x.numel() == 0:
        return out
    constant = x.amin(dim=1) == x.amax(dim=1)
    if x.size(1) == 1:
        constant = x.squeeze(1) == 0  # A single number is constant in no other sense.
    # Rows as strings of bytes, which are sorted fast.
    rows = x.numpy().view(np.dtype((np.void, x.size(1) * x.element_size()))).ravel()
    _, first, size = np.unique(rows, return_index=True, return_counts=True)
    out['constant'] = int(constant.sum())
    out['duplicate'] = x.size(0) - len(first)
    out['largest_group'] = int(size.max())
    kept = torch.from_numpy(first)
    x = x[kept[~constant[kept]]]
    out['near'] = _count_near(x) if x.size(0) <= MAX_ROWS else None
    return out


def _count_near(x: Tensor) -> int:
    # Rows that have another nearly equal to them, in blocks; all rows are different.
    square = x.square().sum(dim=1)
    near = torch.zeros(x.size(0), dtype=torch.bool)
    for start in range(0, x.size(0), _CHUNK):
        block, rest = x[start:start + _CHUNK], x[start:]
        distance = square[start:start + _CHUNK, None] + square[start:] - 2 * block @ rest.t()
        bound = torch.maximum(square[start:start + _CHUNK, None], square[start:])
        close = (distance <= NEAR_DISTANCE**2 * bound).triu_(diagonal=1)
        near[start:start + _CHUNK] |= close.any(dim=1)
        near[start:] |= close.any(dim=0)
    return int(near.sum())


def _same_labels(labels: Sequence[str]) -> Dict[str, Any]:
    normal = [' '.join(unicodedata.normalize('NFKC', label).casefold().split()) for label in labels]
    groups: Dict[str, List[int]] = {label: [] for label, n in Counter(normal).items() if n > 1}
    for i, label in enumerate(normal):
        if label in groups:
            groups[label].append(i)
    return {'entities': sum(map(len, groups.values())),
            'examples': list(groups.values())[:MAX_EXAMPLES]}


# Findings #####################################################################################


def _split_findings(out: Audit) -> Iterable[Finding]:
    clean = "use splits='clean' (or `pyg_mmkgc.data.clean_splits`)"
    for split, row in out.splits.items():
        if row['repeats'] > 0:
            yield Finding(
                'warning', 'repeats',
                f'{split} repeats itself: {_of(row["repeats"], row["lines"], "lines")} are copies '
                f'of others and count twice or more in '
                f'{"training" if split == "train" else "its figures"}; {clean}.')
    names = [split for split in out.splits if split != 'train']
    for i, split in enumerate(names):
        size = out.splits[split]['distinct']
        known = out.overlap[split]['train']
        what = _of(known, size, 'distinct triples')
        if split == 'val' and known / size > 1 - SPENT:
            yield Finding('error', 'overlap', f'val is spent: {what} stand in train, so that a '
                          f'model chosen by it is one that remembers; {clean}, which redraws it.')
        elif known > 0:
            yield Finding(_severity(known / size), 'overlap', f'{split} overlaps with train: '
                          f'{what} stand there, and figures on {split} reward memory; {clean}, '
                          f'which takes them out of {"val" if split == "val" else "train"}.')
        for other in names[i + 1:]:
            shared = out.overlap[split][other]
            if shared > 0:
                smaller = min(size, out.splits[other]['distinct'])
                yield Finding(_severity(shared / smaller), 'overlap', f'{split} and {other} '
                              f'overlap: {_of(shared, smaller, "distinct triples")} of the smaller '
                              f'stand in both, so that they do not check each other; {clean}.')


def _leakage_findings(out: Audit) -> Iterable[Finding]:
    for split, row in out.leakage.items():
        if row['any'] > 0:
            yield Finding(
                _severity(row['any'] / row['distinct']), 'leakage',
                f'{split} leaks: of its {row["distinct"]:,} triples outside train, {row["any"]:,} '
                f'({_percent(row["any"] / row["distinct"])}) stand there through another relation '
                f'or in reverse ({row["inverse"]:,} inverse, {row["symmetric"]:,} symmetric, '
                f'{row["duplicate"]:,} duplicate); a rule answers them without any learning, so '
                f'report figures by relation or leave one of each pair out of the graph.')
        if row['linked'] > row['any']:
            yield Finding(
                'info', 'leakage',
                f'{split}: of {_of(row["linked"], row["distinct"], "triples")} outside train, some '
                f'training triple joins the two entities; compare with a baseline that knows only '
                f'which entities are joined.')


def _unseen_findings(out: Audit, labels: Sequence[str]) -> Iterable[Finding]:
    for split, row in out.splits.items():
        inductive = split.startswith('inductive')
        unseen = row['unseen_entities']
        if unseen > 0 and not inductive:
            yield Finding(
                'warning', 'unseen entities',
                f'{split} names entities that train lacks in {_of(unseen, row["lines"], "lines")}; '
                f'structure alone can only guess there, so report seen and unseen ones apart.')
        if split != 'train' and inductive and unseen < row['lines']:
            yield Finding(
                'warning', 'unseen entities',
                f'{split} has {_of(row["lines"] - unseen, row["lines"], "lines")} whose entities '
                f'are all seen in train: they are not inductive; move them to another split.')
        if row['unseen_relations'] > 0:
            yield Finding(
                'warning', 'unseen relations',
                f'{split} uses relations that train lacks in '
                f'{_of(row["unseen_relations"], row["lines"], "lines")}; no model can learn them, '
                f'so expect chance there or leave the lines out.')
    never = out.relations_never_in_train
    if never:
        yield Finding('info', 'unseen relations',
                      f'never in train: {len(never):,} of {out.num_relations:,} relations, '
                      f'{_list([f"{i} ({_shorten(labels[i])})" for i in never])}.')
    if out.entities['isolated'] > 0:
        yield Finding('info', 'unseen entities',
                      f'{_of(out.entities["isolated"], out.num_entities, "entities")} are in no '
                      f'triple, yet candidates where all entities are.')


def _entity_findings(out: Audit, labels: Sequence[str]) -> Iterable[Finding]:
    for name, row in out.modalities.items():
        if row['entities'] < out.num_entities:
            yield Finding('info', 'features', f'{name}: {out.num_entities - row["entities"]:,} of '
                          f'{out.num_entities:,} entities lack it.')
        if row['constant'] > 0:
            yield Finding('warning', 'features', f'{name}: '
                          f'{_of(row["constant"], row["entities"], "rows")} hold one and the same '
                          f'number or zeros, which tell nothing; mask them if they are missing.')
        if row['duplicate'] > 0:
            placeholder = (row['largest_group'] > 2
                           and row['largest_group'] >= PLACEHOLDER_SHARE * row['entities'])
            yield Finding(
                'warning' if placeholder else 'info', 'features',
                f'{name}: {_of(row["duplicate"], row["entities"], "rows")} equal that of an '
                f'earlier entity, up to {row["largest_group"]:,} at once'
                + ('; perhaps a placeholder: mask it if so.' if placeholder else
                   '; models cannot tell these entities apart by it.'))
        if row['near'] is None:
            yield Finding('info', 'features', f'{name}: nearly equal rows were not looked for '
                          f'(more than {MAX_ROWS:,} rows).')
        elif row['near'] > 0:
            yield Finding('info', 'features', f'{name}: {_of(row["near"], row["entities"], "rows")}'
                          f' nearly equal another one; look whether they are one entity.')
    if out.modalities and out.num_without_modality > 0:
        yield Finding('info', 'features',
                      f'{_of(out.num_without_modality, out.num_entities, "entities")} have no '
                      f'modality at all.')
    if out.same_label['entities'] > 0:
        examples = [' = '.join(f'{i} ({_shorten(labels[i])})' for i in group)
                    for group in out.same_label['examples']]
        yield Finding('warning', 'duplicates', f'{out.same_label["entities"]:,} entities share '
                      f'their label with another but for case, width and spaces; merge those that '
                      f'are one: {_list(examples)}.')


def _severity(share: float) -> str:
    return 'error' if share >= ERROR_SHARE else 'warning'


# Texts ########################################################################################


def _as_data(splits: Mapping[str, Tensor]) -> HeteroData:
    # Without names, ids stand for them; whatever is malformed is named by `build_data`.
    parts = [part for part in splits.values() if part.dim() == 2 and part.numel() > 0]
    num_entities = max((int(part[:, ::2].max()) + 1 for part in parts), default=0)
    num_relations = max((int(part[:, 1::2].max()) + 1 for part in parts), default=0)
    return build_data(splits, [str(i) for i in range(num_entities)],
                      [str(i) for i in range(num_relations)])


def _labels(store: Any, size: int) -> List[str]:
    labels = store['label'] if 'label' in store else [None] * size
    return [str(i) if label is None else label for i, label in enumerate(labels)]


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else f'{value:,}'


def _of(number: int, size: int, what: str) -> str:
    return f'{number:,} of {size:,} {what} ({_percent(number / size)})'


def _percent(share: float) -> str:
    return f'{100 * share:.0f} %' if share >= 0.1 else f'{100 * share:.2g} %'


def _list(items: Sequence[str], most: int = 6) -> str:
    more = len(items) - most
    return ', '.join(items[:most]) + (f' and {more:,} more' if more > 0 else '')


def _shorten(label: str) -> str:
    # From the middle, since names that are addresses differ at the end.
    half = (_MAX_LABEL - 3) // 2
    return label if len(label) <= _MAX_LABEL else f'{label[:half]}...{label[-half:]}'


def _range(start: int, stop: int) -> str:
    return f'{start:,}' if start == stop else f'{start:,}-{stop:,}'


def _bars(axes: 'Axes', names: Sequence[str], series: Mapping[str, Sequence[float]],
          title: str) -> None:
    # The bars of all series beside each other.
    position = np.arange(len(names))
    width = 0.8 / max(1, len(series))
    for i, (label, values) in enumerate(series.items()):
        bars = axes.bar(position + (i - (len(series) - 1) / 2) * width, values, width, label=label)
        if len(series) < 3:  # Else there is no room.
            axes.bar_label(bars, [f'{value:,}' if isinstance(value, int) else _percent(value)
                                  for value in values], fontsize='x-small')
    rotated = len(names) > 6
    axes.set_xticks(position, names, rotation=30 if rotated else 0,
                    ha='right' if rotated else 'center', parse_math=False)
    axes.set_title(title)
    if len(series) > 1:
        axes.legend()
