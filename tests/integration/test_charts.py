"""Every manifest that the charts render, as the API server of this Kubernetes sees it: strict about unknown fields.

The API server validates by the schemas of its own version, with its own admission: rules in CEL, Pod Security, quotas.
A copy of the published schemas would have to be fetched, and knows neither UMIM's kinds nor the admission.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack import render
from hack.testenv.platform import FEDERATION, PREFIX, SYSTEM, Platform

RELEASE = f"{PREFIX}-dry"
"""Not that of the platform: only what is rendered counts."""
PLACE = {"umim": SYSTEM, "umim-hospital": f"{PREFIX}-dry-hospital"}
STORE = render.CHARTS / "umim/examples/external-s3.yaml"
SAMPLES = render.ROOT / "manifests/samples/values"


def _cases() -> list[tuple[str, tuple[Path, ...]]]:
    platform = [SAMPLES / f"umim-{name}.yaml" for name in ("development", "production")]
    cases: list[tuple[str, tuple[Path, ...]]] = [("umim", (values,)) for values in platform]
    cases += [("umim", (STORE, path)) for path in sorted((render.CHARTS / "umim/examples").glob("*.yaml"))]
    sample = SAMPLES / "umim-hospital.yaml"
    cases.append(("umim-hospital", (sample,)))
    cases += [
        ("umim-hospital", (sample, path)) for path in sorted((render.CHARTS / "umim-hospital/examples").glob("*.yaml"))
    ]
    return cases


@pytest.fixture(scope="module", autouse=True)
def surroundings(platform: Platform) -> Iterator[None]:
    """A namespace for the hospital's objects, and the accounts without which the API server admits no Pod."""
    platform.namespace(PLACE["umim-hospital"])
    accounts = {SYSTEM: f"{RELEASE}-operator", PLACE["umim-hospital"]: "umim-site"}
    for namespace, name in accounts.items():
        body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}}
        platform.api.apply(body)
    yield
    platform.api.delete("ServiceAccount", SYSTEM, accounts[SYSTEM])
    platform.api.delete("Namespace", "", PLACE["umim-hospital"])


def _rendered(platform: Platform, chart: str, files: tuple[Path, ...]) -> str:
    helm = [str(platform.helm.binary), "template", RELEASE, str(render.CHARTS / chart), "-n", PLACE[chart]]
    helm += ["--kube-version", render.KUBE_VERSION]
    for file in files:
        helm += ["--values", str(file)]
    if chart == "umim":
        helm += ["--set", f"federations.namespaces={{{FEDERATION}}}"]
    return subprocess.run(helm, capture_output=True, text=True, check=True, timeout=60).stdout


def _dry_run(platform: Platform, manifests: str) -> subprocess.CompletedProcess[str]:
    command = [str(platform.kubectl), "--kubeconfig", str(platform.kubeconfig), "apply", "--server-side", "-f", "-"]
    command += ["--dry-run=server", "--validate=strict", "--force-conflicts"]
    return subprocess.run(command, input=manifests, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    ("chart", "files"), _cases(), ids=lambda value: value if isinstance(value, str) else value[-1].stem
)
def test_the_api_server_takes_every_manifest_strictly(platform: Platform, chart: str, files: tuple[Path, ...]) -> None:
    manifests = _rendered(platform, chart, files)
    done = _dry_run(platform, manifests)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    documents = [part for part in manifests.split("\n---\n") if "\nkind: " in f"\n{part}"]
    assert done.stdout.count("(server dry run)") == len(documents)


def test_a_misspelt_field_would_be_found(platform: Platform) -> None:
    manifests = _rendered(platform, "umim", (SAMPLES / "umim-development.yaml",))
    broken = manifests.replace("imagePullPolicy:", "imagePulPolicy:", 1)
    assert broken != manifests
    done = _dry_run(platform, broken)
    assert done.returncode != 0
    assert "imagePulPolicy" in done.stderr


def test_a_pod_that_is_not_restricted_would_be_told(platform: Platform) -> None:
    manifests = _rendered(platform, "umim", (SAMPLES / "umim-development.yaml",))
    broken = manifests.replace("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", 1)
    assert broken != manifests
    assert "Warning" in _dry_run(platform, broken).stderr
