"""docs/reference/cli.md names every command and every exit code; kubectl finds the tool as its plugin."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.main import get_command

import umim.cli
from umim import errors
from umim.cli.main import app

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/reference/cli.md").read_text()


def commands(command: object, path: str = "umim") -> Iterator[str]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path
    else:
        for name, one in inner.items():
            yield from commands(one, f"{path} {name}")


def test_every_command_is_in_the_reference() -> None:
    found = list(commands(get_command(app)))
    assert len(found) > 10
    # init's commands share a row: umim init federation\|round\|hospital
    text = PAGE.replace(
        "umim init federation\\|round\\|hospital", "umim init federation umim init round umim init hospital"
    )
    assert [one for one in found if not re.search(rf"{one}\b", text)] == []


def test_every_exit_code_is_in_the_reference() -> None:
    modules = [
        errors,
        *(importlib.import_module(f"umim.cli.{one.name}") for one in pkgutil.iter_modules(umim.cli.__path__)),
    ]
    classes = {one for module in modules for _, one in inspect.getmembers(module, inspect.isclass)}
    codes = {one.exit_code for one in classes if issubclass(one, errors.UmimError)} | {0, 2, 130}
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}
    assert codes <= documented


def test_every_command_that_shows_something_has_json() -> None:
    def leaves(command: object, path: str) -> Iterator[tuple[str, set[str]]]:
        for name, one in getattr(command, "commands", {}).items():
            yield from leaves(one, f"{path} {name}")
        if not hasattr(command, "commands"):
            yield path, {option for one in command.params for option in one.opts}  # type: ignore[attr-defined]

    without = [path for path, options in leaves(get_command(app), "umim") if "--output" not in options]
    assert [path for path in without if not path.startswith("umim init")] == []  # whose output is YAML for kubectl


def test_every_command_that_has_json_shows_a_table_unless_asked() -> None:
    def options(command: Any) -> Iterator[Any]:
        for one in getattr(command, "commands", {}).values():
            yield from options(one)
        yield from (one for one in command.params if "--output" in one.opts)

    found = list(options(get_command(app)))
    assert len(found) > 10
    for option in found:
        assert set(option.opts) == {"--output", "-o"}
        assert option.default == "table"


def test_kubectl_finds_the_tool_as_its_plugin() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts["kubectl-umim"] == scripts["umim"]
    module, name = scripts["umim"].split(":")
    assert isinstance(getattr(importlib.import_module(module), name), typer.Typer)


def test_the_shell_completes_commands() -> None:
    words = {"_UMIM_COMPLETE": "complete_bash", "COMP_WORDS": "umim models ", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-c", "from umim.cli.main import app; app(prog_name='umim')"],
        env={**os.environ, **words},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert set(done.stdout.split()) >= {"card", "lineage", "list", "pull"}
