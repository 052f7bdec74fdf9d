"""SECURITY.md claims nothing that no test shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "SECURITY.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)))


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_test_that_the_page_names_exists(file: str, name: str) -> None:
    text = (ROOT / file).read_text()
    assert not name or f"\ndef {name}(" in text


def test_the_page_names_tests_in_every_part_about_an_attacker() -> None:
    assert len(NAMED) > 25
    parts = re.split(r"\n### ", PAGE)[3:-1]
    assert [part.splitlines()[0] for part in parts if "`tests/" not in part] == []
    assert [part.splitlines()[0] for part in parts if "Not protected:" not in part] == []


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(((?!http)[^)#]+)", PAGE))))
def test_a_link_of_the_page_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
