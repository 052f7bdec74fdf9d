"""Which files belong to a data set, and what is known of each: from a CSV file or from folder names."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from umim.api.hospital import Task
from umim.data.limits import MOST_FILES, MOST_TABLE_BYTES, check_limit
from umim.errors import DataError

COLUMNS = ("file", "label", "mask", "patient")


@dataclass(frozen=True)
class Entry:
    """One image file."""

    path: Path
    """The file."""
    label: str | None = None
    """Its class name or names."""
    mask: Path | None = None
    """Its mask file."""
    patient: str | None = None
    """Its patient as the CSV says. None: the format decides."""


def find_entries(root: Path, labels_file: str | None, task: Task, is_image: Callable[[Path], bool]) -> list[Entry]:
    """Return the image files below ``root``, sorted by path (or in the order of the CSV's rows).

    ``is_image`` says which files the format reads. Without a CSV the child folders of ``root`` are the classes.
    Raises DataError when the folder or CSV is missing, empty or does not fit the task, when a link leads out of the
    folder, or there are too many files. Only regular files are read: no device, no pipe.
    """
    if not root.is_dir():
        raise DataError(
            f"{root} is not a folder: set spec.data.path to a folder inside the volume",
            public="spec.data.path names no folder inside the volume",
        )
    if labels_file is not None:
        return _from_table(root, labels_file, task, is_image)
    if task in ("multilabel", "segmentation"):
        column = "label" if task == "multilabel" else "mask"
        raise DataError(
            text := f"task {task} needs spec.data.labelsFile, a CSV file with the columns file and {column}",
            public=text,
        )
    found = (Entry(path) for path in _files(root, root, is_image)) if task == "none" else _from_folders(root, is_image)
    return _limited(found, str(root))


def _limited(entries: Iterable[Entry], what: str) -> list[Entry]:
    result: list[Entry] = []
    for entry in entries:
        result.append(entry)
        check_limit(f"{what}: number of files", len(result), MOST_FILES)
    return result


def _from_folders(root: Path, is_image: Callable[[Path], bool]) -> Iterator[Entry]:
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise DataError(f"{root} has no folder: put each class into a folder of its name, or set spec.data.labelsFile")
    for folder in folders:
        _check_link(root, folder)
        yield from (Entry(path, label=folder.name) for path in _files(root, folder, is_image))


def _files(root: Path, folder: Path, is_image: Callable[[Path], bool]) -> list[Path]:
    """Return the image files below a folder, sorted. Folders that are links are passed over, as rglob does."""
    found = (
        path for path in folder.rglob("*") if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    files = sorted(path for path in found if path.is_file() and _is_image(path, is_image))
    for path in files:
        _check_link(root, path)
    return files


def _is_image(path: Path, is_image: Callable[[Path], bool]) -> bool:
    try:
        return is_image(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _check_link(root: Path, path: Path) -> None:
    """Raise DataError when a path is a link that leads out of the data folder."""
    if path.is_symlink() and not _is_below(root, path):
        raise DataError(
            f"{path} is a link that leaves the data folder {root}; allowed are files below it",
            public="a link in the data leads out of spec.data.path",
        )


def _is_below(root: Path, path: Path) -> bool:
    try:
        path.exists()  # raises for a name that is too long, which resolve takes as it is
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, ValueError, RuntimeError):  # or holds NUL, or is a circle of links
        return False


def _from_table(root: Path, labels_file: str, task: Task, is_image: Callable[[Path], bool]) -> list[Entry]:
    table = _inside(root, labels_file, f"spec.data.labelsFile {labels_file!r}")
    if not table.is_file():
        raise DataError(
            f"spec.data.labelsFile: {table} is not a file",
            public="spec.data.labelsFile names no file below spec.data.path",
        )
    check_limit(f"{table.name}: size in bytes", table.stat().st_size, MOST_TABLE_BYTES, least=0)
    return _limited(_table_entries(root, table, task, is_image), table.name)


def _table_entries(root: Path, table: Path, task: Task, is_image: Callable[[Path], bool]) -> Iterator[Entry]:
    for where, row in _rows(table, task):
        path = _inside(root, row["file"], f"{where}: file {row['file']!r}")
        if not path.exists():
            raise DataError(f"{where}: file {row['file']!r} does not exist below {root}")
        if not path.is_file() and not path.is_dir():
            raise DataError(f"{where}: file {row['file']!r} is a device or pipe; allowed are files and folders")
        yield from _row_entries(root, where, row, path, task, is_image)


def _row_entries(
    root: Path, where: str, row: dict[str, str], path: Path, task: Task, is_image: Callable[[Path], bool]
) -> Iterator[Entry]:
    """Yield the row's file, or every image below it when it names a folder (a DICOM series)."""
    label = row["label"] if task in ("classification", "multilabel") else None
    if task == "classification" and not label:
        raise DataError(f"{where}: the label is empty; classification needs one class name")
    if task == "classification" and label is not None and "|" in label:
        raise DataError(f"{where}: label {label!r} names several classes; allowed is one, or task multilabel")
    mask = None
    if task == "segmentation":
        mask = _inside(root, row["mask"], f"{where}: mask {row['mask']!r}")
        if path.is_dir() or not mask.is_file():
            raise DataError(f"{where}: mask {row['mask']!r} is not a file for the single image {row['file']!r}")
    patient = row.get("patient") or None
    if not path.is_dir():
        yield Entry(path, label, mask, patient)
        return
    files = _files(root, path, is_image)
    if not files:
        raise DataError(f"{where}: folder {row['file']!r} holds no image of this format")
    yield from (Entry(file, label, mask, patient) for file in files)


def _rows(table: Path, task: Task) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each row with its place in words; the header is row 1."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, strict=True)
            _check_header(table, reader.fieldnames or [], task)
            for number, row in enumerate(reader, start=2):
                where = f"{table.name} row {number}"
                if None in row or None in row.values():
                    raise DataError(f"{where} has not {len(reader.fieldnames or [])} fields as the header has")
                yield where, {key: value.strip() for key, value in row.items()}
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{table.name} is not a CSV file in UTF-8: {error}") from error


def _check_header(table: Path, names: Sequence[str], task: Task) -> None:
    needed = {"classification": ["file", "label"], "multilabel": ["file", "label"], "segmentation": ["file", "mask"]}
    for name in needed.get(task, ["file"]):
        if name not in names:
            raise DataError(f"{table.name} has no column {name!r}, which task {task} needs; it has: {', '.join(names)}")
    for name in names:
        if name not in COLUMNS or names.count(name) > 1:
            raise DataError(f"{table.name}: column {name!r} is unknown or doubled; allowed are {', '.join(COLUMNS)}")


def _inside(root: Path, relative: str, where: str) -> Path:
    """Return the path below ``root``; refuse one that leaves it, also by a link, or is none at all."""
    if not relative:
        raise DataError(f"{where} is empty; allowed are paths relative to {root}")
    path = root / relative
    if Path(relative).is_absolute() or ".." in Path(relative).parts or not _is_below(root, path):
        raise DataError(f"{where} leaves the data folder; allowed are paths relative to {root}, without '..'")
    return path
