"""Command blocks of the documentation: which there are, which of them a test runs, and running them as a reader would.

A fenced block in a shell's language is run, unless the HTML comment ``<!-- not run: REASON -->`` is before it.
So is one of Python. ``<!-- file: NAME -->`` before a block of any language makes the reader write it to that file.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("docs/tutorial.md", "docs/hospital-guide.md", "README.md")
"""Whose commands tests/e2e/test_documentation.py runs. README is last: it shows what the others have made."""
SHELL = ("sh", "bash", "shell")
CONSOLE = "console"
COMMANDS = (*SHELL, CONSOLE)
SECONDS = 600
"""Longest time of one block."""
NOT_RUN = re.compile(r"<!-- not run: (?P<reason>[^>]+?) -->")
FILE = re.compile(r"<!-- file: (?P<name>[\w./-]+) -->")
HEADINGS = re.compile(r"<!-- output: only headings are compared: (?P<reason>[^>]+?) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    comment: str
    """The HTML comment right before it, or nothing."""

    @property
    def not_run(self) -> str | None:
        """Why it is not run, or None."""
        found = NOT_RUN.fullmatch(self.comment)
        return found["reason"] if found else None

    @property
    def file(self) -> str | None:
        """The file that it is, or None."""
        found = FILE.fullmatch(self.comment)
        return found["name"] if found else None

    @property
    def only_headings(self) -> bool:
        """Whether of its output only the lines of headings are compared."""
        return HEADINGS.fullmatch(self.comment) is not None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Step:
    """A command and what the page says that it prints."""

    command: str
    output: tuple[str, ...] = ()


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page (a path in the repository), also those in lists, in their order."""
    return parse(page, (ROOT / page).read_text())


def parse(page: str, text: str) -> list[Block]:
    """Return the fenced blocks of this Markdown."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    found = []
    for number, token in enumerate(tokens):
        if token.type == "fence":
            before = tokens[number - 1] if number else None
            comment = before.content.strip() if before is not None and before.type == "html_block" else ""
            line = (token.map or [0])[0] + 1
            found.append(Block(page, line, token.info.strip(), token.content, comment))
    return found


def steps(block: Block) -> list[Step]:
    """Return the commands of a block. In a console block those behind ``$ ``, each with the output below it.

    Raises:
        ValueError: a console block does not begin with a command.
    """
    if block.language != CONSOLE:
        return [Step(block.text)]
    found: list[Step] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append(Step(line.removeprefix("$ ")))
        elif not found:
            raise ValueError(f"{block}: a console block begins with a line '$ command', this one with {line!r}")
        elif line.strip():
            found[-1] = Step(found[-1].command, (*found[-1].output, line))
    return found


def loose(line: str) -> str:
    """Return a line of output without what differs from run to run: numbers, digests, keys, widths, boxes."""
    line = re.sub(r"[─-╿]+", " ", line)
    line = re.sub(r"\b[0-9a-f]{8,64}\b|[A-Za-z0-9+/]{43}=", "#", line)
    line = re.sub(r"\b(\d+[dhms])+\b", "#", line)
    line = re.sub(r"[+-]?\d+(\.\d+)?(e-?\d+)?", "#", line)
    return " ".join(line.split())


def is_heading(line: str) -> bool:
    """Return whether a line is the head of a table, as kubectl and umim print it: capitals."""
    words = line.split()
    return len(words) > 1 and all(re.fullmatch(r"[A-Z][A-Z-]+", word) for word in words)


def missing(expected: Sequence[str], actual: str) -> list[str]:
    """Return the expected lines that the output does not have, loosely and in this order. ``...`` is any lines."""
    rest = iter([loose(line) for line in actual.splitlines()])
    return [line for line in expected if loose(line) not in ("", "...") and loose(line) not in rest]


@dataclass
class Reader:
    """Somebody who types in the commands of a page, one after another, in one shell."""

    folder: Path
    environment: Mapping[str, str]
    replace: Mapping[str, str] = field(default_factory=dict)
    """Words of the page that are others here, such as a namespace that is in use."""

    def run(self, block: Block) -> None:
        """Do what a block says: write its file, or run its commands.

        Raises:
            AssertionError: a command fails, or prints something else than the page says.
        """
        if block.file is not None:
            path = self.folder / self._here(block.file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self._here(block.text))
        elif block.language == "python":
            (self.folder / "block.py").write_text(self._here(block.text))
            self._type(block, Step("python block.py"))
        else:
            for step in steps(block):
                self._type(block, step)

    def _here(self, text: str) -> str:
        for word, other in self.replace.items():
            text = text.replace(word, other)
        return text

    def _type(self, block: Block, step: Step) -> None:
        # A shell of its own for each command; what was set goes on to the next one, as in one shell.
        state = self.folder.parent / f"{self.folder.name}.environment"
        state.touch()
        keep = (
            f"source {shlex.quote(str(state))}; set -aeo pipefail; trap 'declare -px > {shlex.quote(str(state))}' EXIT"
        )
        script = f"{keep}\n{self._here(step.command)}\n"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env={**self.environment, "COLUMNS": "140", "TERM": "dumb"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        said = f"{block}: {step.command}\n{done.stdout}"
        with (self.folder.parent / "transcript.txt").open("a") as transcript:
            transcript.write(f"{said}\n")
        assert done.returncode == 0, f"exit status {done.returncode} of {said}"
        wanted = [self._here(line) for line in step.output if is_heading(line) or not block.only_headings]
        lacking = missing(wanted, done.stdout)
        assert not lacking, "the page shows, the command does not print:\n" + "\n".join(lacking) + f"\n{said}"


def to_run(page: str) -> list[Block]:
    """Return the blocks of a page that a reader runs or writes to a file: all commands and Python but those marked."""
    return [
        block
        for block in blocks(page)
        if block.not_run is None and (block.language in (*COMMANDS, "python") or block.file is not None)
    ]
