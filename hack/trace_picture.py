"""Draws a trace from a real Jaeger: ``python -m hack.trace_picture URL TRACE_ID [FILE]``.

Jaeger's own pages are not in its Go module. The spans and their times are Jaeger's answer; the looks are matplotlib's.
Spans of one name below one parent share a row: the operator looks many times.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from hack.dashboard_pictures import COLOURS, INK, LINE, PAPER, shown
from hack.testenv.jaeger import Jaeger, Span

FILE = Path(__file__).resolve().parent.parent / "docs/images/dashboards/trace.png"
THINNEST = 0.002
"""Of the picture's width: a shorter span would not be seen."""


@dataclass(frozen=True)
class Row:
    """Spans of one name and service below one parent. depth: how many spans are above them."""

    depth: int
    spans: tuple[Span, ...]

    @property
    def title(self) -> str:
        """What the row is called."""
        times = f" ×{len(self.spans)}" if len(self.spans) > 1 else ""
        return "  " * self.depth + self.spans[0].name + times


def rows(spans: Sequence[Span]) -> list[Row]:
    """Return the rows of a trace: parents above their children, these by their start.

    A span of a Job is a row of its own, since two hospitals are two things; the operator's looks share one.
    """
    known = {span.id for span in spans}
    children: dict[str | None, list[Span]] = {}
    for span in sorted(spans, key=lambda one: (one.start, one.id)):
        children.setdefault(span.parent if span.parent in known else None, []).append(span)
    parents = {span.parent for span in spans}

    def below(parent: str | None, depth: int) -> list[Row]:
        found: list[Row] = []
        grouped: dict[str, list[Span]] = {}
        for span in children.get(parent, []):
            shared = span.service == "umim-operator" and parent is not None
            grouped.setdefault(span.name if shared else span.id, []).append(span)
        for group in grouped.values():
            found.append(Row(depth, tuple(group)))
            for span in group:
                if span.id in parents:
                    found += below(span.id, depth + 1)
        return found

    return below(None, 0)


def draw(spans: Sequence[Span]) -> Figure:
    """Return the picture of a trace. Raises ValueError when it has no span."""
    if not spans:
        raise ValueError("the trace has no span")
    table = rows(spans)
    begin = min(span.start for span in spans)
    end = max(span.start + span.seconds for span in spans)
    services = sorted({span.service for span in spans})
    colours = dict(zip(services, COLOURS, strict=False))
    height = 0.24 * len(table) + 0.9
    figure, axes = plt.subplots(figsize=(12.8, height), facecolor=PAPER)
    for number, row in enumerate(table):
        starts = [span.start - begin for span in row.spans]
        widths = [max(span.seconds, THINNEST * (end - begin)) for span in row.spans]
        axes.barh(number, widths, left=starts, height=0.62, color=[colours[span.service] for span in row.spans])
        right = max(start + width for start, width in zip(starts, widths, strict=True))
        total = shown(sum(span.seconds for span in row.spans), "s")
        axes.text(right + 0.004 * (end - begin), number, total, va="center", fontsize=7, color=INK)
    axes.set_yticks(range(len(table)), [row.title for row in table], ha="left", fontfamily="monospace", fontsize=7.5)
    axes.tick_params(axis="y", pad=165, length=0, colors=INK)
    axes.tick_params(axis="x", colors="#57606a", labelsize=7.5, length=0)
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.set_xlim(0, (end - begin) * 1.06)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} s")
    axes.grid(axis="x", color="#eaeef2", lw=0.7)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_color(LINE)
    handles = [Patch(color=colours[name], label=name) for name in services]
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(services), fontsize=8, frameon=False
    )
    figure.subplots_adjust(left=0.185, right=0.99, top=1 - 0.4 / height, bottom=0.35 / height)
    return figure


def main() -> None:
    """Draw a trace."""
    parser = argparse.ArgumentParser(prog="python -m hack.trace_picture", description=__doc__)
    parser.add_argument("url", help="URL of a Jaeger, such as http://127.0.0.1:16686")
    parser.add_argument("trace", help="status.traceId of a FederationRound")
    parser.add_argument("file", nargs="?", type=Path, default=FILE, help="where to write the picture")
    given = parser.parse_args()
    spans = Jaeger(given.url).trace(given.trace)
    if not spans:
        raise SystemExit(f"error: Jaeger at {given.url} knows no trace {given.trace}")
    draw(spans).savefig(given.file, dpi=110)
    print(f"wrote {given.file}")


if __name__ == "__main__":
    main()
