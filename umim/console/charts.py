"""Line charts as plain geometry, which a template draws as SVG. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 20, 14, 44
MOST_SERIES = 8
"""Lines of one chart: each has a colour, a dash and a mark of its own."""
MOST_MARKS = 24
"""Points of a line that are few enough to be marked one by one."""
FEWEST_TICKS = 3

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """Values of one name, in the order of x."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Line:
    """One series, placed."""

    name: str
    style: int
    """From 0: which colour, dash and mark."""
    path: str
    """Points of an SVG polyline."""
    marks: tuple[Point, ...]
    latest: str
    """The last value, in figures."""


@dataclass(frozen=True)
class Tick:
    """A label of an axis and where it is."""

    at: float
    label: str


@dataclass(frozen=True)
class Chart:
    """A chart that is ready to be drawn."""

    title: str
    x_title: str
    y_title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    left_out: int
    """Series that are too many to be drawn."""
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """The same as a table: first and last value of each series, for whoever does not see the chart."""

    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def line_chart(
    title: str,
    x_title: str,
    y_title: str,
    series: Sequence[Series],
    x_label: Callable[[float], str] = lambda value: f"{value:g}",
) -> Chart | None:
    """Return a chart of the first series that have finite values, or None where none has."""
    kept = [Series(one.name, _finite(one.points)) for one in series]
    kept = [one for one in kept if one.points]
    if not kept:
        return None
    drawn = kept[:MOST_SERIES]
    x_ticks = ticks([x for one in drawn for x, _ in one.points], whole=True)
    y_ticks = ticks([y for one in drawn for _, y in one.points])
    x_scale = _scale(*_span([x for one in drawn for x, _ in one.points]), LEFT, WIDTH - RIGHT)
    y_scale = _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    low, high = _span([x for one in drawn for x, _ in one.points])
    return Chart(
        title=title,
        x_title=x_title,
        y_title=y_title,
        lines=tuple(_line(one, number, x_scale, y_scale) for number, one in enumerate(drawn)),
        x_ticks=tuple(Tick(x_scale(value), x_label(value)) for value in x_ticks if low <= value <= high),
        y_ticks=tuple(Tick(y_scale(value), f"{value:g}") for value in y_ticks),
        left_out=len(kept) - len(drawn),
        columns=("", "first", "last", "lowest"),
        rows=tuple(_row(one) for one in kept),
    )


def ticks(values: Sequence[float], *, whole: bool = False) -> list[float]:
    """Return about five round numbers that span the values; whole: no fractions. At least two, rising."""
    low, high = _span(values)
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    if whole:
        step = max(1.0, step)
    first = math.floor(low / step + 1e-9)
    last = max(first + 1, math.ceil(high / step - 1e-9))
    # Rounded, or 0.1 + 0.2 would be a label.
    return [round(number * step, 12) for number in range(first, last + 1)]


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Return the least and the largest value, apart also where all are the same."""
    low, high = min(values), max(values)
    if high - low <= abs(high) * 1e-9:
        margin = abs(high) * 0.5 or 1.0
        return low - margin, high + margin
    return low, high


def _finite(points: Sequence[Point]) -> tuple[Point, ...]:
    return tuple((x, y) for x, y in points if math.isfinite(x) and abs(y) < 1e300)


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: round(start + (value - low) / (high - low) * (end - start), 1)


def _line(one: Series, style: int, x_scale: Callable[[float], float], y_scale: Callable[[float], float]) -> Line:
    placed = tuple((x_scale(x), y_scale(y)) for x, y in one.points)
    path = " ".join(f"{x:g},{y:g}" for x, y in placed)
    marks = placed if len(placed) <= MOST_MARKS else placed[-1:]
    return Line(one.name, style, path, marks, f"{one.points[-1][1]:.4g}")


def _row(one: Series) -> tuple[str, ...]:
    values = [y for _, y in one.points]
    return (one.name, *(f"{value:.4g}" for value in (values[0], values[-1], min(values))))
