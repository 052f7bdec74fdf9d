"""OCI archives from buildah's storage, on a small storage made here."""

import base64
import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from hack.images.archive import layer_chunks, stored_images, write_archive
from hack.images.steps import ImageError

NAME = "localhost/umim/x:dev"


def _sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _layer_tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _split(tar: bytes, files: dict[str, bytes]) -> list[dict[str, object]]:
    """Tar-split entries of `tar`, whose files lie in it in the order of `files`."""
    entries: list[dict[str, object]] = []
    rest = tar
    for name, content in files.items():
        before, rest = rest[:512], rest[512 + len(content) :]
        entries.append({"type": 2, "payload": base64.b64encode(before).decode()})
        entries.append({"type": 1, "name": name, "size": len(content)} if content else {"type": 1, "name": name})
        padding = -len(content) % 512
        entries.append({"type": 2, "payload": base64.b64encode(rest[:padding]).decode()})
        rest = rest[padding:]
    return [*entries, {"type": 2, "payload": base64.b64encode(rest).decode()}]


def _add_layer(root: Path, key: str, parent: str, files: dict[str, bytes]) -> dict[str, object]:
    tar = _layer_tar(files)
    for name, content in files.items():
        path = root / "overlay" / key / "diff" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (root / "overlay-layers").mkdir(exist_ok=True)
    with gzip.open(root / "overlay-layers" / f"{key}.tar-split.gz", "wt") as split:
        split.write("".join(json.dumps(entry) + "\n" for entry in _split(tar, files)))
    layer: dict[str, object] = {"id": key, "diff-digest": _sha256(tar), "diff-size": len(tar)}
    return layer | ({"parent": parent} if parent else {})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    layers = [
        _add_layer(folder, "low", "", {"etc/name": b"base" * 400, "etc/empty": b""}),
        _add_layer(folder, "top", "low", {"opt/code.py": b"code = 1\n"}),
    ]
    (folder / "overlay-layers" / "layers.json").write_text(json.dumps(layers))
    config = b'{"rootfs": {}}'
    manifest = json.dumps({"schemaVersion": 2, "config": {"digest": _sha256(config)}}).encode()
    image = folder / "overlay-images" / "i1"
    image.mkdir(parents=True)
    (image / "manifest").write_bytes(manifest)
    (image / ("=" + base64.b64encode(_sha256(config).encode()).decode())).write_bytes(config)
    listed = [{"id": "i1", "names": [NAME], "layer": "top"}, {"id": "i2", "layer": "low"}]
    (folder / "overlay-images" / "images.json").write_text(json.dumps(listed))
    return folder


def _blobs(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def test_a_layer_comes_out_with_the_bytes_of_its_digest(root: Path) -> None:
    (image,) = stored_images(root, [NAME])
    for layer in image.layers:
        content = b"".join(layer_chunks(root, layer.key))
        assert _sha256(content) == layer.digest
        assert len(content) == layer.size


def test_a_complete_archive_has_every_blob_under_its_digest(root: Path, tmp_path: Path) -> None:
    images = stored_images(root, [NAME])
    size = write_archive(tmp_path / "x.tar", root, images, frozenset())
    blobs = _blobs(tmp_path / "x.tar")
    assert size == (tmp_path / "x.tar").stat().st_size
    contents = {name: content for name, content in blobs.items() if name.startswith("blobs/")}
    assert len(contents) == 4  # manifest, configuration, two layers
    assert all(name == "blobs/" + _sha256(content).replace(":", "/") for name, content in contents.items())
    (entry,) = json.loads(blobs["index.json"])["manifests"]
    assert entry["digest"] == images[0].digest
    assert entry["annotations"]["io.containerd.image.name"] == NAME


def test_layers_that_the_reader_has_are_left_out(root: Path, tmp_path: Path) -> None:
    images = stored_images(root, [NAME])
    low, top = images[0].layers
    write_archive(tmp_path / "x.tar", root, images, frozenset({low.digest}))
    names = set(_blobs(tmp_path / "x.tar"))
    assert "blobs/" + low.digest.replace(":", "/") not in names
    assert "blobs/" + top.digest.replace(":", "/") in names


def test_a_damaged_layer_is_refused_and_no_archive_is_left(root: Path, tmp_path: Path) -> None:
    (root / "overlay/top/diff/opt/code.py").write_bytes(b"code = 2\n")
    with pytest.raises(ImageError, match=r"is damaged; run `python3 -m hack.images clean`"):
        write_archive(tmp_path / "x.tar", root, stored_images(root, [NAME]), frozenset())
    assert not (tmp_path / "x.tar").exists()


def test_a_layer_cut_short_is_refused(root: Path, tmp_path: Path) -> None:
    (root / "overlay/top/diff/opt/code.py").unlink()
    with pytest.raises(ImageError, match="cannot be read"):
        write_archive(tmp_path / "x.tar", root, stored_images(root, [NAME]), frozenset())


def test_an_image_that_is_not_built_is_named(root: Path) -> None:
    with pytest.raises(ImageError, match=r"localhost/umim/y:dev is not built"):
        stored_images(root, ["localhost/umim/y:dev"])
