"""The picture of a trace: which spans it shows where."""

from __future__ import annotations

import pytest

from hack.testenv.jaeger import Span
from hack.trace_picture import draw, rows


def span(id_: str, parent: str | None, name: str, start: float, service: str = "umim-site") -> Span:
    return Span(id_, parent, service, name, start, 1.0)


ROOT = span("r", None, "federation/one", 0, "umim-operator")
LOOKS = [span(f"l{number}", "r", "umim.reconcile", number, "umim-operator") for number in range(3)]
SITES = [span("b", "r", "train_site", 2), span("a", "r", "train_site", 1)]
STEPS = [span("a2", "a", "train", 1.5), span("a1", "a", "fetch_model", 1.2), span("b1", "b", "fetch_model", 2.2)]


def test_parents_are_above_their_children_and_these_in_the_order_of_their_start() -> None:
    table = rows([*STEPS, *SITES, *LOOKS, ROOT])
    assert [row.title for row in table] == [
        "federation/one",
        "  umim.reconcile ×3",
        "  train_site",
        "    fetch_model",
        "    train",
        "  train_site",
        "    fetch_model",
    ]


def test_every_span_is_in_one_row_even_where_its_parent_never_came() -> None:
    spans = [*STEPS, *LOOKS]
    shown = [one.id for row in rows(spans) for one in row.spans]
    assert sorted(shown) == sorted(one.id for one in spans)


def test_a_trace_without_spans_is_refused() -> None:
    with pytest.raises(ValueError, match="no span"):
        draw([])
