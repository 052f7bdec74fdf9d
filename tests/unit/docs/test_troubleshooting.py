"""docs/troubleshooting.md: every reason is there once, and no other."""

from __future__ import annotations

import re
from collections import Counter
from typing import get_args

from tests.unit.docs.pages import DOCS
from umim.api.artifacts import ExclusionReason
from umim.rounds.consent import RefusalReason
from umim_operator.conditions import Reason
from umim_operator.observe import WAITING_REASONS

PAGE = (DOCS / "troubleshooting.md").read_text()
ALL = [*map(str, Reason), *map(str, RefusalReason), *get_args(ExclusionReason)]


def test_every_reason_is_explained_once_and_none_that_does_not_exist() -> None:
    headings = re.findall(r"^### `(\w+)`$", PAGE, re.MULTILINE)
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.split("## Nothing to do")[1], re.MULTILINE)
    assert Counter([*headings, *rows]) == Counter(ALL)


def test_every_heading_says_something() -> None:
    for section in re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]:
        assert len(section.split("\n", 1)[1].split("\n## ")[0].strip()) > 30, section


def test_the_reasons_of_kubernetes_that_the_operator_passes_on_are_in_the_table() -> None:
    table = PAGE.split("### `JobPending`")[1].split("\n### ")[0]
    assert set(re.findall(r"`(\w+)`", table)) >= WAITING_REASONS
