"""Where the commands write: tables or JSON to standard output, errors to standard error."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from rich.console import Console, RenderableType
from rich.measure import Measurement

from umim.cli.resources import Federation, Hospital, Model, Raw, Round, without_bookkeeping

FoundT = TypeVar("FoundT", Round, Federation, Hospital, Model)

UNBOUNDED = 10_000
"""Columns; more than any list needs."""


class Format(StrEnum):
    """Forms of output."""

    table = "table"
    json = "json"


def show(renderable: RenderableType) -> None:
    """Print for a person, as wide as the terminal."""
    Console(highlight=False).print(renderable)


def show_list(renderable: RenderableType) -> None:
    """Print a list as wide as its content, as kubectl does: a name that is broken cannot be copied."""
    console = Console(highlight=False)
    natural = Measurement.get(console, console.options.update(width=UNBOUNDED), renderable).maximum
    Console(highlight=False, width=max(console.width, natural)).print(renderable)


def show_text(text: str) -> None:
    """Print lines that are to be copied: never wrapped or styled."""
    Console(highlight=False, markup=False, soft_wrap=True).out(text, highlight=False)


def show_json(value: Any) -> None:
    """Print as indented JSON, unwrapped."""
    show_text(json.dumps(value, indent=2))


def json_list(items: Sequence[Raw]) -> dict[str, Any]:
    """Return a list of objects in the form of ``kubectl get -o json``."""
    return {"apiVersion": "v1", "kind": "List", "items": [without_bookkeeping(one) for one in items]}


def show_found(
    found: Sequence[FoundT], table: Callable[[Sequence[FoundT], datetime], RenderableType], output: Format
) -> None:
    """Print what a list command found: a table of it, or the objects as JSON."""
    if output is Format.json:
        show_json(json_list([one.raw for one in found]))
    else:
        show_list(table(found, datetime.now(UTC)))


def show_one(found: FoundT, detail: Callable[[FoundT, datetime], RenderableType], output: Format) -> None:
    """Print what a describe command found: everything about it for a person, or the object as JSON."""
    if output is Format.json:
        show_json(without_bookkeeping(found.raw))
    else:
        show(detail(found, datetime.now(UTC)))


def show_error(message: str) -> None:
    """Print one sentence to standard error."""
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(f"umim: {message}")
