"""The generated reference."""

from __future__ import annotations

from hack import metrics_reference
from hack.reference import TARGET, page


def test_the_reference_in_docs_is_what_the_models_say() -> None:
    assert TARGET.read_text() == page(), "run: make generate"


def test_the_reference_of_metrics_is_what_their_definitions_say() -> None:
    assert metrics_reference.TARGET.read_text() == metrics_reference.page(), "run: make generate"


def test_every_field_of_the_reference_has_a_description() -> None:
    lines = [line for line in page().splitlines() if line.startswith("| `")]
    assert lines
    assert [line for line in lines if line.endswith("|  |")] == []
