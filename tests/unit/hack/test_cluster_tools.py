import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest

from hack.cluster import debian, golang, gotools, images, kubectl, pause, probe, settings
from hack.cluster.progress import ClusterError, Progress, clock

PINS = {"go.mod": b"module x\n", "go.sum": b"a\n"}


def test_the_cache_key_changes_with_every_pin_and_flag_and_with_nothing_else() -> None:
    key = gotools.digest(PINS, ["-trimpath"])
    assert key == gotools.digest(dict(reversed(PINS.items())), ["-trimpath"])
    assert key != gotools.digest(PINS | {"go.sum": b"b\n"}, ["-trimpath"])
    assert key != gotools.digest(PINS, ["-trimpath", "-race"])
    assert gotools.digest({"a": b"bc"}, []) != gotools.digest({"ab": b"c"}, [])


def test_binaries_that_are_in_the_cache_are_not_built(tmp_path: Path) -> None:
    path = gotools.tool_path("minio", tmp_path)
    path.parent.mkdir(parents=True)
    path.write_text("binary")
    assert gotools.ensure(["minio"], tmp_path, Progress()) == {"minio": path}


def test_an_unknown_tool_is_refused_with_the_allowed_ones() -> None:
    with pytest.raises(ClusterError, match=r"'docker' is unknown; allowed: kube-apiserver, .*minio"):
        gotools.module_of("docker")


def test_kubernetes_staging_modules_are_all_of_the_pinned_release() -> None:
    text = (gotools.TOOLS_DIR / "kubernetes/go.mod").read_text()
    assert f"k8s.io/kubernetes {settings.KUBERNETES_VERSION}" in text
    staging = re.findall(r"^\tk8s\.io/\S+ => \S+ (\S+)$", text, re.MULTILINE)
    assert len(staging) == 31
    assert set(staging) == {settings.KUBERNETES_VERSION.replace("v1.", "v0.")}
    assert f"helm.sh/helm/v3 {settings.HELM_VERSION} " in text


@pytest.mark.parametrize("module", gotools.MODULES, ids=lambda module: module.name)
def test_every_tool_belongs_to_its_module_and_the_pins_name_no_host_but_module_paths(module: gotools.Module) -> None:
    text = (module.path / "go.mod").read_text() + (module.path / "go.sum").read_text()
    assert not re.search(r"https?://", text)
    assert all(package.startswith("umim.invalid/") or package in text for package in module.tools.values())


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("go version go1.26.8 linux/amd64", (1, 26)),
        ("go version go1.19.8 linux/amd64", (1, 19)),
        ("go version devel +abc", None),
        ("", None),
    ],
)
def test_the_version_of_go_is_read(text: str, version: tuple[int, int] | None) -> None:
    assert golang.parse_version(text) == version


def test_the_build_environment_takes_no_flags_from_the_users() -> None:
    env = golang.build_env({"GOFLAGS": "-race", "GOWORK": "/x", "GOPROXY": "kept", "GOOS": "plan9"})
    assert env["GOPROXY"] == "kept"
    assert env["GOWORK"] == "off"
    assert env["CGO_ENABLED"] == "0"
    assert not {"GOFLAGS", "GOOS"} & env.keys()


def test_a_package_that_was_removed_but_not_purged_counts_as_missing() -> None:
    assert debian.parse_installed("runc installed\niptables config-files\nkmod not-installed\n") == {"runc"}


def test_the_pause_image_is_a_reproducible_archive_that_names_itself(tmp_path: Path) -> None:
    archive = tmp_path / "pause.tar"
    archive.write_bytes(pause.build(b"ELF"))
    assert pause.build(b"ELF") == archive.read_bytes()
    found = images.archive_images(archive)
    assert list(found) == [settings.PAUSE_IMAGE]
    with tarfile.open(archive) as tar:
        blob = tar.extractfile(f"blobs/sha256/{found[settings.PAUSE_IMAGE].removeprefix('sha256:')}")
        assert blob is not None
        assert json.load(blob)["layers"][0]["mediaType"].endswith("tar+gzip")


def _archive(path: Path, index: dict[str, Any]) -> Path:
    data = json.dumps(index).encode()
    with tarfile.open(path, "w") as tar:
        entry = tarfile.TarInfo("index.json")
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
    return path


@pytest.mark.parametrize("name", ["dev", "operator", "umim.local/operator", ""])
def test_an_archive_whose_image_has_no_full_name_is_refused(tmp_path: Path, name: str) -> None:
    manifest = {"digest": "sha256:1", "annotations": {"org.opencontainers.image.ref.name": name}}
    with pytest.raises(ClusterError, match="it must be HOST/NAME:TAG"):
        images.archive_images(_archive(tmp_path / "a.tar", {"manifests": [manifest]}))


@pytest.mark.parametrize("content", [b"", b"no archive at all"])
def test_a_file_that_is_no_archive_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(content)
    with pytest.raises(ClusterError, match=r"image\.tar: not an OCI archive"):
        images.archive_images(path)


def test_containerds_list_of_images_is_read() -> None:
    text = "REF TYPE DIGEST SIZE PLATFORMS LABELS\numim.local/a:1 application/x sha256:aa 1.0 MiB linux/amd64 -\n"
    assert images.parse_images(text) == {"umim.local/a:1": "sha256:aa"}


def _node(status: str, beat: str) -> dict[str, Any]:
    condition = {"type": "Ready", "status": status, "lastHeartbeatTime": beat}
    return {"status": {"conditions": [condition], "allocatable": {"nvidia.com/gpu": "4"}}}


def test_a_heartbeat_of_an_earlier_run_does_not_count_as_ready() -> None:
    start = 1_700_000_000.5  # 2023-11-14T22:13:20Z
    assert kubectl.ready_since_start(_node("True", "2023-11-14T22:13:21Z"), start)
    assert not kubectl.ready_since_start(_node("True", "2023-11-14T22:13:19Z"), start)
    assert not kubectl.ready_since_start(_node("False", "2023-11-14T22:13:21Z"), start)
    assert not kubectl.ready_since_start({"status": {}}, start)


def test_gpus_are_those_that_can_be_allocated() -> None:
    assert kubectl.gpus(_node("True", "")) == 4
    assert kubectl.gpus({"status": {"capacity": {"nvidia.com/gpu": "4"}}}) == 0


def test_a_dns_question_is_encoded_as_rfc_1035_says() -> None:
    question = probe.dns_query("a.bc")
    assert question[12:] == b"\x01a\x02bc\x00\x00\x01\x00\x01"


def test_elapsed_time_is_minutes_and_seconds() -> None:
    assert [clock(0), clock(61.9), clock(3600)] == ["00:00", "01:01", "60:00"]
