"""Stamps and build contexts: what counts as a change of an image's inputs."""

import os
from pathlib import Path

import pytest

from hack.images import stamp
from hack.images.workspace import Workspace, default_workspace, fill_context


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    (folder / "umim" / "__pycache__").mkdir(parents=True)
    (folder / "umim" / "a.py").write_text("a = 1\n")
    (folder / "umim" / "__pycache__" / "a.pyc").write_bytes(b"byte code")
    (folder / "pyproject.toml").write_text("[project]\n")
    return folder


INPUTS = ("pyproject.toml", "umim")


def test_the_digest_changes_with_content(root: Path) -> None:
    before = stamp.tree_digest(root, INPUTS)
    (root / "umim" / "a.py").write_text("a = 2\n")
    assert stamp.tree_digest(root, INPUTS) != before


def test_the_digest_changes_with_a_new_name_and_with_the_executable_bit(root: Path) -> None:
    before = stamp.tree_digest(root, INPUTS)
    (root / "umim" / "a.py").chmod(0o755)
    executable = stamp.tree_digest(root, INPUTS)
    (root / "umim" / "a.py").rename(root / "umim" / "b.py")
    assert len({before, executable, stamp.tree_digest(root, INPUTS)}) == 3


def test_times_and_byte_code_do_not_count(root: Path) -> None:
    before = stamp.tree_digest(root, INPUTS)
    os.utime(root / "umim" / "a.py", (1, 1))
    (root / "umim" / "__pycache__" / "b.pyc").write_bytes(b"more")
    assert stamp.tree_digest(root, INPUTS) == before


def test_a_missing_input_is_named(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"README\.md"):
        stamp.tree_digest(root, ("README.md",))


def test_the_image_digest_ignores_the_order_of_the_recipe() -> None:
    assert stamp.image_digest({"a": 1, "b": 2}) == stamp.image_digest({"b": 2, "a": 1})
    assert stamp.image_digest({"a": 1}) != stamp.image_digest({"a": 2})


def test_a_stamp_reads_back_as_written(tmp_path: Path) -> None:
    path = tmp_path / "stamps" / "x.json"
    written = stamp.Stamp("digest", "id", 1.5)
    stamp.write_stamp(path, written)
    assert stamp.read_stamp(path) == written


@pytest.mark.parametrize("content", ["", "{", "[]", '{"digest": "d"}', '"text"'])
def test_a_damaged_stamp_counts_as_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    assert stamp.read_stamp(path) is None
    assert stamp.read_stamp(tmp_path / "absent.json") is None


def test_a_context_holds_exactly_the_inputs_with_fixed_times(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "context"
    target.mkdir()
    (target / "old").write_text("from an earlier build")
    made = tmp_path / "minio"
    made.write_bytes(b"binary")
    made.chmod(0o700)
    fill_context(target, root, INPUTS, made)
    files = {path.relative_to(target).as_posix(): path for path in target.rglob("*") if path.is_file()}
    assert sorted(files) == ["minio", "pyproject.toml", "umim/a.py"]
    assert {int(path.stat().st_mtime) for path in files.values()} == {1577836800}
    assert files["minio"].stat().st_mode & 0o777 == 0o755
    assert files["umim/a.py"].stat().st_mode & 0o777 == 0o644


def test_the_cache_folder_is_the_users_choice() -> None:
    assert default_workspace({"UMIM_CACHE": "/big/disk"}).storage == Path("/big/disk/containers")
    assert default_workspace({"HOME": "/home/me"}).cache == Path("/home/me/.cache/umim")
    assert Workspace(Path("/c")).stamp("localhost/umim/base:dev").name == "localhost_umim_base_dev.json"


def test_a_relative_cache_folder_is_refused() -> None:
    with pytest.raises(ValueError, match="UMIM_CACHE=cache: must be an absolute path"):
        default_workspace({"UMIM_CACHE": "cache"})
