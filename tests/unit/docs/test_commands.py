"""Commands in the pages: targets of make, subcommands of umim and modules that they name are there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from tests.unit.docs.pages import DOCS
from umim.cli.main import app

ROOT = DOCS.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
UMIM: dict[str, Any] = getattr(get_command(app), "commands", {})
"""The subcommands; a group has `commands`, too."""


def commands(page: Path, start: str) -> list[str]:
    """What follows ``start`` in the page's code: at the beginning of a line of a block, or of code in a sentence."""
    text = page.read_text()
    fenced = re.findall(r"^ *```.*?^ *```", text, re.MULTILINE | re.DOTALL)
    lines = [line.strip().removeprefix("$ ") for block in fenced for line in block.splitlines()]
    # What is in <...> is a form to fill in, such as a title, and no command.
    code = [*lines, *re.findall(r"`([^`<\n]+)`", text)]
    return [found[1] for one in code if (found := re.match(rf"{start}(.*)", one))]


def test_there_are_commands_to_check() -> None:
    assert "simulate" in UMIM
    assert sum(len(commands(page, "make ")) for page in PAGES) > 20
    assert sum(len(commands(page, r"(?:\.venv/bin/)?umim ")) for page in PAGES) > 15


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_exists(page: Path) -> None:
    for text in commands(page, "make "):
        names = [word for word in text.split("#")[0].split() if re.fullmatch(r"[a-z-]+", word) and word[0] != "-"]
        assert set(names[:1]) <= TARGETS, f"make {text}"
    for text in commands(page, r"(?:\.venv/bin/)?umim "):
        group = UMIM
        for word in text.split():
            if not group or word.startswith("-"):
                break
            names = word.split("\\|")  # one of several, in a table
            assert set(names) <= set(group), f"umim {text}"
            group = getattr(group[names[0]], "commands", {})
    for module in re.findall(r"python3? -m ((?:hack|umim|tests)[\w.]*\w)", page.read_text()):
        assert importlib.util.find_spec(module) is not None, module
