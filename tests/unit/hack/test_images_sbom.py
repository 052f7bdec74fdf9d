"""Bills of materials: what is installed is listed, and the document is CycloneDX 1.6."""

from __future__ import annotations

import json
import shutil
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from referencing import Registry, Resource

from hack.images import catalog, sbom
from hack.images.buildah import Buildah
from hack.images.sbom import Component
from hack.images.steps import ImageError
from hack.images.workspace import Workspace

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
STATUS = """Package: libstdc++6
Status: install ok installed
Architecture: amd64
Version: 14.2.0-19
Description: GNU Standard C++ Library
 with a line
 .
 and another

Package: removed
Status: deinstall ok config-files
Architecture: all
Version: 1

Package: zlib1g
Status: hold ok installed
Architecture: amd64
Version: 1:1.3.dfsg+really1.3.1-1+b1
"""
GO = """/usr/bin/minio: go1.25.3
\tpath\tgithub.com/minio/minio
\tmod\tgithub.com/minio/minio\t(devel)\t
\tdep\taead.dev/mem\tv0.2.0\th1:abc=
\tdep\tgolang.org/x/crypto\tv0.30.0\th1:def=
\t=>\tgithub.com/other/crypto\tv0.31.0\th1:ghi=
\tbuild\t-buildmode=exe
"""


def schema() -> jsonschema.Draft7Validator:
    """The schema of CycloneDX 1.6 with those that it refers to."""
    folder = next(Path(path) for path in sys.path if (Path(path) / "cyclonedx/schema/_res").is_dir())
    names = ("bom-1.6", "spdx", "jsf-0.82")
    texts = [json.loads((folder / f"cyclonedx/schema/_res/{name}.SNAPSHOT.schema.json").read_text()) for name in names]
    registry: Registry[Any] = Registry().with_resources([(text["$id"], Resource.from_contents(text)) for text in texts])
    return jsonschema.Draft7Validator(texts[0], registry=registry)


def test_installed_debian_packages_are_listed_with_their_exact_version() -> None:
    assert sbom.debian_components(STATUS) == [
        Component("pkg:deb/debian/libstdc%2B%2B6@14.2.0-19?arch=amd64", "libstdc++6", "14.2.0-19"),
        Component(
            "pkg:deb/debian/zlib1g@1%3A1.3.dfsg%2Breally1.3.1-1%2Bb1?arch=amd64",
            "zlib1g",
            "1:1.3.dfsg+really1.3.1-1+b1",
        ),
    ]


def test_a_python_package_has_its_normalised_name_and_a_short_licence() -> None:
    text = "Metadata-Version: 2.1\nName: Foo.Bar_baz\nVersion: 1.0+cpu\nLicense-Expression: MIT\n\nLicense: not this\n"
    assert sbom.python_component(text) == Component("pkg:pypi/foo-bar-baz@1.0%2Bcpu", "Foo.Bar_baz", "1.0+cpu", "MIT")
    long = "Name: a\nVersion: 1\nLicense: The whole\n        text\n"
    assert sbom.python_component(long).license == ""
    with pytest.raises(ValueError, match="needs Name and Version"):
        sbom.python_component("Name: a\n")


def test_go_modules_are_listed_with_what_replaces_them_and_the_library() -> None:
    assert [(one.name, one.version) for one in sbom.go_components(GO)] == [
        ("aead.dev/mem", "v0.2.0"),
        ("github.com/minio/minio", "(devel)"),
        ("github.com/other/crypto", "v0.31.0"),
        ("stdlib", "1.25.3"),
    ]


def test_the_document_is_cyclonedx_and_names_the_image() -> None:
    components = [*sbom.debian_components(STATUS), *sbom.go_components(GO), Component("pkg:pypi/a@1", "a", "1", "MIT")]
    found = sbom.document("localhost/umim/operator:dev", "sha256:" + "a" * 64, components, NOW)
    schema().validate(found)
    image: Any = found["metadata"]
    assert (image["component"]["name"], image["component"]["version"]) == ("localhost/umim/operator", "dev")
    assert image["timestamp"] == "2026-01-02T03:04:05Z"
    entries: Any = found["components"]
    assert [entry["purl"] for entry in entries] == sorted(component.purl for component in components)


def test_the_schema_refuses_what_is_no_bill() -> None:
    bad = sbom.document("a:b", "sha256:0", [Component("pkg:pypi/a@1", "a", "1")], NOW) | {"serialNumber": "1"}
    assert not schema().is_valid(bad)


def test_equal_images_have_equal_bills_and_others_another_number() -> None:
    one = Component("pkg:pypi/a@1", "a", "1")
    first, again, other = (sbom.document("a:b", digest, [one, one], NOW) for digest in ("x", "x", "y"))
    assert first == again
    assert first["serialNumber"] != other["serialNumber"]
    assert len(first["components"]) == 1  # type: ignore[arg-type]


def test_what_lies_in_a_root_folder_is_found(tmp_path: Path) -> None:
    """With the METADATA of real packages, as pip wrote them."""
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / sbom.DPKG_STATUS).write_text(STATUS)
    names = ("pydantic", "numpy", "pillow", "kopf")
    for name in names:
        text = metadata.distribution(name).read_text("METADATA")
        assert text is not None
        folder = tmp_path / f"opt/umim/lib/python3.13/site-packages/{name}-1.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(text)
    found = {component.name.lower(): component.version for component in sbom.installed(tmp_path, Path)}
    assert found == {
        "libstdc++6": "14.2.0-19",
        "zlib1g": "1:1.3.dfsg+really1.3.1-1+b1",
        **{name: metadata.version(name) for name in names},
    }


@pytest.mark.skipif(shutil.which("go") is None, reason="go is not installed")
@pytest.mark.parametrize("place", ["usr/bin/minio", "manager"])
def test_the_go_programs_of_an_image_without_debian_are_read(tmp_path: Path, place: str) -> None:
    go = Path(shutil.which("go") or "").resolve()
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(go, tmp_path / place)
    (tmp_path / place).with_name("script").write_text("#!/bin/sh\n")
    assert "stdlib" in {component.name for component in sbom.installed(tmp_path, lambda: go)}


class Storage(Buildah):
    """Buildah with one image, whose root folder is given; counts how often it is opened."""

    opened = 0

    def run(self, *arguments: str) -> str:
        if arguments[0] == "mount":
            Storage.opened += 1
            return f"{self.workspace.home / 'root'}\n"
        return "container\n"

    def images(self) -> dict[str, tuple[str, datetime]]:
        return {"localhost/umim/redis:dev": ((self.workspace.home / "id").read_text(), NOW)}


def test_each_image_that_is_built_has_its_bill_once_and_equal_images_equal_ones(tmp_path: Path) -> None:
    workspace, images = Workspace(tmp_path), [catalog.find("redis")]
    (workspace.home / "root/var/lib/dpkg").mkdir(parents=True)
    (workspace.home / "root" / sbom.DPKG_STATUS).write_text(STATUS)
    (workspace.home / "id").write_text("a")
    storage, bills = Storage(workspace, {}), []
    for opened in (1, 1):
        sbom.keep(workspace, storage, images, "dev", "cpu")
        assert Storage.opened == opened
        bills.append(workspace.bill("localhost/umim/redis:dev").read_bytes())
    for image_id in ("b", "a"):
        (workspace.home / "id").write_text(image_id)
        sbom.keep(workspace, storage, images, "dev", "cpu")
        bills.append(workspace.bill("localhost/umim/redis:dev").read_bytes())
    assert Storage.opened == 3
    assert bills[0] == bills[1] == bills[3] != bills[2]
    sbom.copy(workspace, images, "dev", "cpu", f"{tmp_path}/out/umim.tar.")
    assert (tmp_path / "out/umim.tar.redis.cdx.json").read_bytes() == bills[0]


def test_an_image_of_which_nothing_is_known_is_an_error(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    (workspace.home / "root").mkdir(parents=True)
    (workspace.home / "id").write_text("a")
    with pytest.raises(ImageError, match="holds no package that is known"):
        sbom.keep(workspace, Storage(workspace, {}), [catalog.find("redis")], "dev", "cpu")
    with pytest.raises(ImageError, match="operator:dev is not built"):
        sbom.keep(workspace, Storage(workspace, {}), [catalog.find("operator")], "dev", "cpu")
