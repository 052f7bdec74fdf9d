"""The generated reference."""

from __future__ import annotations

from hack.reference import TARGET, page


def test_the_reference_in_docs_is_what_the_models_say() -> None:
    assert TARGET.read_text() == page(), "run: make generate"


def test_every_field_of_the_reference_has_a_description() -> None:
    lines = [line for line in page().splitlines() if line.startswith("| `")]
    assert lines
    assert [line for line in lines if line.endswith("|  |")] == []
