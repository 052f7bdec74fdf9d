"""Command lines, pip configuration, tables and checks of the image builder."""

from pathlib import Path

import pytest

from hack.images import check, constraints, pipconf, report
from hack.images.archive import Layer
from hack.images.buildah import base_command, build_command, environment, nested_mounts
from hack.images.workspace import Workspace

WORKSPACE = Workspace(Path("/cache"))


def test_buildah_never_uses_the_systems_storage() -> None:
    assert base_command(WORKSPACE) == [
        *("buildah", "--root", "/cache/containers/root", "--runroot", "/cache/containers/run")
    ]
    env = environment(WORKSPACE, {"PATH": "/bin", "STORAGE_DRIVER": "vfs"})
    assert env["STORAGE_DRIVER"] == "overlay"
    assert env["BUILDAH_ISOLATION"] == "chroot"
    assert env["PATH"] == "/bin"


def test_a_build_never_pulls_and_passes_arguments_in_a_fixed_order() -> None:
    command = build_command(
        WORKSPACE,
        Path("/repo/images/x/Containerfile"),
        Path("/context"),
        ["localhost/umim/x:dev", "localhost/umim/y:dev"],
        {"TARGET": "cpu", "BASE_IMAGE": "b"},
        {"l": "1"},
        ["--secret", "id=pip.conf,src=/s"],
    )
    assert "--pull=never" in command
    assert [command[i + 1] for i, word in enumerate(command) if word == "--tag"] == [
        "localhost/umim/x:dev",
        "localhost/umim/y:dev",
    ]
    assert command[command.index("--build-arg") + 1] == "BASE_IMAGE=b"
    assert command[-1] == "/context"


def test_only_mounts_below_the_folder_are_found_innermost_first() -> None:
    mountinfo = "\n".join(
        [
            "22 1 254:0 / / rw - ext4 /dev/vda rw",
            "30 22 254:0 /c /cache/containers/root/overlay rw - ext4 /dev/vda rw",
            "31 30 0:40 / /cache/containers/root/overlay/abc/merged rw - overlay overlay rw",
            "32 22 254:0 /c /cache/containers rw - ext4 /dev/vda rw",
            "33 22 254:0 /c /cache/containers-other/x rw - ext4 /dev/vda rw",
        ]
    )
    assert nested_mounts(mountinfo, Path("/cache/containers")) == [
        "/cache/containers/root/overlay/abc/merged",
        "/cache/containers/root/overlay",
    ]


def test_pip_in_builds_gets_the_index_but_no_path_of_this_machine(tmp_path: Path) -> None:
    host = tmp_path / "pip.conf"
    host.write_text("[global]\nindex-url = https://index.example/simple\ncert = /etc/ca.pem\n[install]\nretries = 2\n")
    environ = {"PIP_FIND_LINKS": "/opt/wheels", "PIP_DEFAULT_TIMEOUT": "180", "PIP_RETRIES": "7"}
    text = pipconf.build_config(environ, [host, tmp_path / "absent.conf"])
    assert text.split("\n") == [
        *("[global]", "index-url = https://index.example/simple", "retries = 7", "default-timeout = 180", "", "")
    ]


def test_a_percent_sign_in_an_index_address_is_kept(tmp_path: Path) -> None:
    assert "a%40b" in pipconf.build_config({"PIP_INDEX_URL": "https://a%40b@index.example/"}, [])


def test_the_ca_bundle_is_passed_only_where_it_exists(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    assert pipconf.ca_bundle({"PIP_CERT": str(bundle)}) is None
    bundle.touch()
    assert pipconf.ca_bundle({"SSL_CERT_FILE": str(bundle)}) == bundle


def test_secrets_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    arguments = pipconf.secrets({}, tmp_path, tmp_path / "secrets")
    assert arguments == ["--secret", f"id=pip.conf,src={tmp_path}/secrets/pip.conf"]
    assert (tmp_path / "secrets" / "pip.conf").stat().st_mode & 0o077 == 0


def test_constraints_leave_out_torch_and_what_only_torch_needs() -> None:
    packages = {
        "numpy": "2.2.4",
        "torch": "2.9",
        "nvidia-nccl-cu13": "2",
        "sympy": "1.14",
        "aiohttp": "3",
        "Jinja2": "3",
    }
    install = [{"metadata": {"name": name, "version": version}} for name, version in packages.items()]
    text = constraints.render({"version": "1", "install": install})
    assert text == constraints.HEADER + "aiohttp==3\nnumpy==2.2.4\n"


def test_another_version_of_pips_report_is_refused() -> None:
    with pytest.raises(ValueError, match="version '2'"):
        constraints.render({"version": "2", "install": []})


def test_sizes_count_a_shared_layer_once() -> None:
    base, own_a, own_b = (
        Layer("sha256:0", 10_000_000, "0"),
        Layer("sha256:a", 1_000_000, "a"),
        Layer("sha256:b", 2_000_000, "b"),
    )
    rows = report.size_rows({"a": (base, own_a), "b": (base, own_b)})
    assert rows[1:] == [
        ["a", "11.0", "1.0", "1.0"],
        ["b", "12.0", "2.0", "2.0"],
        ["all, each layer once", "13.0", "", ""],
    ]


GOOD: dict[str, object] = {
    "uid": 65532,
    "forbidden": [],
    "failed_imports": {},
    "caches": [],
    "torch": "2.6.0",
    "blas": ["openblas-openmp"],
}


def test_a_good_trainer_and_a_good_operator_pass_the_check() -> None:
    assert check.problems("trainer", GOOD, "cpu") == []
    assert check.problems("operator", GOOD | {"torch": None, "blas": []}, "cpu") == []


@pytest.mark.parametrize(
    ("image", "facts", "words"),
    [
        ("redis", {"uid": 0, "torch": None}, "user 0"),
        ("redis", {"forbidden": ["gcc"]}, "gcc"),
        ("trainer", {"failed_imports": {"timm": "no module"}}, "timm"),
        ("trainer", {"caches": ["/tmp/x"]}, "/tmp/x"),
        ("operator", {}, "contains torch 2.6.0"),
        ("trainer", {"torch": None, "blas": ["openblas-openmp"]}, "no torch"),
        ("trainer", {"blas": ["openblas-pthread"]}, "openblas-pthread"),
    ],
)
def test_the_check_names_each_broken_promise(image: str, facts: dict[str, object], words: str) -> None:
    found = check.problems(image, GOOD | facts, "cpu")
    assert len(found) == 1
    assert words in found[0]
