"""Draws the dashboards from a real Prometheus: ``python -m hack.dashboard_pictures URL [FOLDER]``.

Grafana cannot be had where only package registries can be reached. The panels, queries and places are those of the
dashboards' JSON; the looks are matplotlib's. A panel without an answer says so, as in Grafana.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from datetime import UTC, datetime, timedelta
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hack.dashboards import BOARDS, COLUMNS, Board, Panel, positions, substituted
from hack.testenv.prometheus import Prometheus, Series

FOLDER = Path(__file__).resolve().parent.parent / "docs/images/dashboards"
COLOURS = ("#1f77b4", "#d95f02", "#2a9d5c", "#c2378a", "#7570b3", "#8c6d31", "#17a2b8", "#777777")
INK, PAPER, LINE = "#24292f", "#ffffff", "#d0d7de"
MOST_BARS = 12
FEWEST_BARS = 4
"""A panel with fewer is left empty below, so that bars keep their thickness."""
POINTS = 120

plt.rcParams.update({"font.family": "DejaVu Sans", "font.size": 8, "svg.hashsalt": "umim"})


def legend(pattern: str, series: Series) -> str:
    """Return a series' name as Grafana makes it of a legend's pattern."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: series.labels.get(match[1], ""), pattern).strip() or "value"


def shown(value: float, unit: str) -> str:
    """Return a value with its unit."""
    if unit == "bytes":
        for step in ("B", "KiB", "MiB", "GiB"):
            if abs(value) < 1024 or step == "GiB":
                return f"{value:.3g} {step}"
            value /= 1024
    if unit == "s":
        return f"{value * 1000:.3g} ms" if abs(value) < 1 else f"{value:.3g} s"
    return f"{value:.3g}" + {"ops": "/s"}.get(unit, "")


class Painter:
    """Draws boards as they are over a span of time until now."""

    def __init__(self, prometheus: Prometheus, now: datetime, span: timedelta) -> None:
        self._prometheus = prometheus
        self._now, self._span = now, span

    def board(self, board: Board) -> Figure:
        """Return the picture of a dashboard."""
        places = positions(board)
        rows = max(place.y + place.h for place in places)
        figure = plt.figure(figsize=(12.8, 0.36 * rows + 0.7), facecolor="#f6f8fa")
        figure.text(0.012, 1 - 0.3 / (0.36 * rows + 0.7), board.title, fontsize=13, weight="bold", color=INK)
        top = 1 - 0.62 / (0.36 * rows + 0.7)
        for panel, place in zip(board.panels, places, strict=True):
            left, width = place.x / COLUMNS, place.w / COLUMNS
            height = place.h / rows * top
            bottom = top - (place.y + place.h) / rows * top
            gap_x, gap_y = 0.006, 0.006
            frame = figure.add_axes((left + gap_x, bottom + gap_y, width - 2 * gap_x, height - 2 * gap_y))
            self._frame(frame, panel)
            self._panel(figure, panel, (left, bottom, width, height))
        return figure

    def _frame(self, axes: Axes, panel: Panel) -> None:
        axes.set_facecolor(PAPER)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_color(LINE)
        axes.text(0.015, 1, f"\n{panel.title}", transform=axes.transAxes, va="top", weight="bold", color=INK, size=8.5)

    def _panel(self, figure: Figure, panel: Panel, place: tuple[float, float, float, float]) -> None:
        left, bottom, width, height = place
        inner = {"graph": (0.055, 0.30, 0.02, 0.22), "bars": (0.17, 0.06, 0.0, 0.2), "number": (0, 0, 0.1, 0.3)}
        west, south, east, north = inner[panel.kind]
        west, east = west * (1 if panel.kind == "graph" else width * 2), east * 0.3
        box = (left + west + 0.01, bottom + south * height, width - west - east - 0.03, height * (1 - south - north))
        axes = figure.add_axes(box)
        axes.set_facecolor("none")
        if not (self._graph if panel.kind == "graph" else self._now_values)(axes, panel):
            axes.axis("off")
            axes.text(0.5, 0.5, "No data", ha="center", va="center", color="#8c959f", transform=axes.transAxes)

    def _graph(self, axes: Axes, panel: Panel) -> bool:
        step = max(5, int(self._span.total_seconds() / POINTS))
        start = self._now - self._span
        number = 0
        for query, pattern in panel.queries:
            text = substituted(query, span=f"{int(self._span.total_seconds())}s", interval="1m")
            for series in self._prometheus.range(text, start, self._now, step):
                if series.finite:
                    times = [(time - self._now.timestamp()) / 60 for time, _ in series.finite]
                    values = [value for _, value in series.finite]
                    colour = COLOURS[number % len(COLOURS)]
                    marker = "o" if len(times) < 4 else None
                    style = ("-", "--", ":")[number // len(COLOURS) % 3]
                    name = legend(pattern, series)
                    axes.plot(times, values, style, color=colour, lw=1.3, marker=marker, ms=3, label=name)
                    number += 1
        if not number:
            return False
        axes.set_xlim(-self._span.total_seconds() / 60, 0)
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f} min" if value else "now")
        axes.yaxis.set_major_formatter(lambda value, _: shown(value, panel.unit))
        axes.grid(color="#eaeef2", lw=0.7)
        axes.tick_params(colors="#57606a", labelsize=7, length=0)
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(0, -0.14),
            ncols=2 if number < 5 else 3,
            fontsize=6.5,
            frameon=False,
            borderaxespad=0,
            labelcolor=INK,
            handlelength=1.4,
        )
        for spine in axes.spines.values():
            spine.set_visible(False)
        return True

    def _now_values(self, axes: Axes, panel: Panel) -> bool:
        found: list[tuple[str, float]] = []
        for query, pattern in panel.queries:
            text = substituted(query, span=f"{int(self._span.total_seconds())}s", interval="1m")
            found += [(legend(pattern, one), one.last) for one in self._prometheus.query(text) if one.finite]
        if not found:
            return False
        if panel.kind == "number":
            axes.axis("off")
            words = "   ".join(shown(value, panel.unit) for _, value in sorted(found)[:3])
            size = 20 if len(found) == 1 else 13
            axes.text(0.5, 0.5, words, ha="center", va="center", fontsize=size, color=COLOURS[0])
            return True
        found = sorted(found)[:MOST_BARS]
        names = ["\n".join(textwrap.wrap(name, 34)) for name, _ in found]
        bars = axes.barh(names, [value for _, value in found], color=COLOURS[0], height=0.6)
        axes.bar_label(bars, [shown(value, panel.unit) for _, value in found], padding=3, fontsize=7, color=INK)
        axes.set_ylim(max(len(found), FEWEST_BARS) - 0.4, -0.6)
        low, high = min(0.0, *(value for _, value in found)), max(0.0, *(value for _, value in found))
        room = (high - low) * 0.18 or 1
        axes.set_xlim(low - (room if low < 0 else 0), high + room)
        axes.axvline(0, color=LINE, lw=0.8)
        axes.set_xticks([])
        axes.tick_params(colors=INK, labelsize=7, length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return True


def draw(prometheus: Prometheus, folder: Path, span: timedelta) -> list[Path]:
    """Draw all dashboards into a folder and return the pictures' paths."""
    folder.mkdir(parents=True, exist_ok=True)
    painter = Painter(prometheus, datetime.now(UTC), span)
    made = []
    for board in BOARDS:
        figure = painter.board(board)
        path = folder / f"{board.name}.png"
        figure.savefig(path, dpi=110)
        plt.close(figure)
        made.append(path)
    return made


def main() -> None:
    """Draw the dashboards."""
    parser = argparse.ArgumentParser(prog="python -m hack.dashboard_pictures", description=__doc__)
    parser.add_argument("url", help="URL of a Prometheus, such as http://127.0.0.1:9090")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="where to write NAME.png")
    parser.add_argument("--minutes", type=int, default=15, help="how far back (default: 15)")
    given = parser.parse_args()
    for path in draw(Prometheus(given.url), given.folder, timedelta(minutes=given.minutes)):
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
