"""Packages are pinned by content, and archives cannot write outside of their folder."""

import tarfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest

from hack.demo import sources
from hack.demo.errors import DemoError

PACKAGE = sources.Package("npm", "tiny", "1.0.0", "tiny-1.0.0.tgz", "0" * 64, "package/data/")


def archive(path: Path, names: list[str]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, BytesIO(b"abc"))


def pinned(path: Path) -> sources.Package:
    return replace(PACKAGE, sha256=sources._sha256(path))


def test_a_file_in_the_cache_with_the_pinned_content_is_used_without_a_download(tmp_path: Path) -> None:
    archive(tmp_path / PACKAGE.file, ["package/data/one.dcm", "package/src/code.js"])
    package = pinned(tmp_path / PACKAGE.file)
    folder = sources.unpacked(package, tmp_path)
    assert [path.name for path in folder.iterdir()] == ["one.dcm"]


def test_other_content_than_the_pinned_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(package: sources.Package, folder: Path) -> Path:
        (folder / package.file).write_bytes(b"something else")
        return folder / package.file

    monkeypatch.setattr(sources, "_from_npm", serve)
    with pytest.raises(DemoError, match=r"tiny-1\.0\.0\.tgz has sha256 .* expected 0000"):
        sources.fetched(PACKAGE, tmp_path)
    assert not (tmp_path / PACKAGE.file).exists()


def test_a_member_outside_of_the_folder_is_refused(tmp_path: Path) -> None:
    archive(tmp_path / PACKAGE.file, ["package/data/../../evil.dcm"])
    with pytest.raises(DemoError, match="outside of its folder"):
        sources.unpacked(pinned(tmp_path / PACKAGE.file), tmp_path)
    assert not list(tmp_path.rglob("evil.dcm"))
