r"""Line charts as the numbers that an SVG needs."""
import math
from dataclasses import dataclass
from typing import Dict, List, Sequence, Tuple

#: The sides of a chart in its own units, and the room around it for numbers and names.
WIDTH, HEIGHT = 520.0, 280.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 14.0, 14.0, 44.0

Points = Sequence[Tuple[float, float]]


@dataclass(frozen=True)
class Tick:
    r"""A mark at an axis.

    Args:
        place (float): Where it is, in units of the chart.
        text (str): What stands there.
    """
    place: float
    text: str


@dataclass(frozen=True)
class Line:
    r"""A line of a chart.

    Args:
        name (str): Its name.
        values (List[Tuple[float, float]]): Its points as they were given.
        places (List[Tuple[float, float]]): The same in units of the chart.
    """
    name: str
    values: List[Tuple[float, float]]
    places: List[Tuple[float, float]]

    @property
    def path(self) -> str:
        r"""The ``points`` of a polyline."""
        return ' '.join(f'{x:.1f},{y:.1f}' for x, y in self.places)


@dataclass(frozen=True)
class LineChart:
    r"""A chart of lines over one axis.

    Args:
        title (str): What it shows.
        xlabel (str): The name of the horizontal axis.
        ylabel (str): That of the vertical one.
        lines (List[Line]): The lines.
        xticks (List[Tick]): Marks of the horizontal axis.
        yticks (List[Tick]): Marks of the vertical one.
    """
    title: str
    xlabel: str
    ylabel: str
    lines: List[Line]
    xticks: List[Tick]
    yticks: List[Tick]

    width, height = WIDTH, HEIGHT
    left, right, top, bottom = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM


def line_chart(title: str, xlabel: str, ylabel: str, series: Dict[str, Points]) -> LineChart:
    r"""Place lines in a chart. What is not finite is left out.

    Args:
        title (str): What it shows.
        xlabel (str): The name of the horizontal axis.
        ylabel (str): That of the vertical one.
        series (Dict[str, Sequence[Tuple[float, float]]]): For each line its points; lines
            without any are left out.
    """
    finite = {name: [(float(x), float(y)) for x, y in points if math.isfinite(y)]
              for name, points in series.items()}
    lines = {name: points for name, points in finite.items() if points}
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    xticks, yticks = ticks(xs), ticks(ys)
    xticks = [x for x in xticks if x == int(x)]  # Epochs have no halves.

    def scale(value: float, values: List[float], start: float, stop: float) -> float:
        low, high = min(values), max(values)
        return start + (value - low) / ((high - low) or 1.0) * (stop - start)

    def x_place(x: float) -> float:
        return scale(x, xs + xticks, LEFT, WIDTH - RIGHT)

    def y_place(y: float) -> float:
        return scale(y, ys + yticks, HEIGHT - BOTTOM, TOP)

    return LineChart(
        title, xlabel, ylabel,
        [Line(name, points, [(x_place(x), y_place(y)) for x, y in points])
         for name, points in lines.items()],
        [Tick(x_place(x), f'{x:g}') for x in xticks], [Tick(y_place(y), f'{y:g}') for y in yticks])


def ticks(values: Sequence[float], most: int = 6) -> List[float]:
    r"""Round numbers that span some values.

    Args:
        values (Sequence[float]): The values.
        most (int, optional): About how many there are to be. (default: :obj:`6`)
    """
    if not values:
        return []
    low, high = min(values), max(values)
    if low == high:
        return [low]
    step = 10**math.floor(math.log10((high - low) / most))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= most)
    first, last = math.floor(low / step), math.ceil(high / step)
    digits = max(0, -math.floor(math.log10(step)))
    return [round(i * step, digits) for i in range(first, last + 1)]
