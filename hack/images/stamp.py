"""Content digests that tell whether an image is still what its inputs say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SKIPPED = {"__pycache__"}


def input_files(root: Path, inputs: tuple[str, ...]) -> Iterator[Path]:
    """Yield the files of `inputs` below `root`, sorted, without byte code.

    Raises:
        FileNotFoundError: an input is missing; the message names it.
    """
    for name in inputs:
        path = root / name
        if not path.exists():
            raise FileNotFoundError(f"{path}: needed to build an image, but it is not there")
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and not _SKIPPED.intersection(file.relative_to(root).parts):
                yield file


def file_digest(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tree_digest(root: Path, inputs: tuple[str, ...]) -> str:
    """Return one digest over names, executable bits and contents of `inputs`; times and owners do not count."""
    lines = [
        f"{file.relative_to(root).as_posix()} {bool(file.stat().st_mode & 0o100)} {file_digest(file)}"
        for file in input_files(root, inputs)
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def image_digest(recipe: dict[str, object]) -> str:
    """Return the digest of everything that decides an image's content, given as JSON-able values."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Stamp:
    """What the last build of an image was made of and gave.

    Attributes:
        digest: digest of the inputs.
        image_id: id in the image storage.
        seconds: how long the build took.
    """

    digest: str
    image_id: str
    seconds: float


def read_stamp(path: Path) -> Stamp | None:
    """Return the stamp in `path`, or None where there is none or it cannot be read (then the image is built)."""
    try:
        return Stamp(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def write_stamp(path: Path, stamp: Stamp) -> None:
    """Write `stamp` to `path` in one step, so that an interruption leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".half")
    half.write_text(json.dumps(stamp.__dict__))
    half.replace(path)
