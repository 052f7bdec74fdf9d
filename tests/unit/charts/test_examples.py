"""charts/*/examples: what a user installs with must render, and must do what its comment says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from hack import render
from tests.unit.charts import kube
from tests.unit.charts.helm import Helm, Loader

UMIM = sorted((render.CHARTS / "umim/examples").glob("*.yaml"))
HOSPITAL = sorted((render.CHARTS / "umim-hospital/examples").glob("*.yaml"))
STORE = render.CHARTS / "umim/examples/external-s3.yaml"
SAMPLE = render.ROOT / "manifests/samples/values/umim-hospital.yaml"


def umim(helm: Helm, *examples: str) -> list[Any]:
    """Render charts/umim with examples on top of the external store."""
    files = [STORE, *(render.CHARTS / f"umim/examples/{name}.yaml" for name in examples)]
    return rendered(helm, "umim", "umim-system", files)


def hospital(helm: Helm, example: str) -> list[Any]:
    """Render charts/umim-hospital with an example on top of the sample values."""
    return rendered(
        helm, "umim-hospital", "hospital-a", [SAMPLE, render.CHARTS / f"umim-hospital/examples/{example}.yaml"]
    )


def rendered(helm: Helm, chart: str, namespace: str, files: list[Path]) -> list[Any]:
    arguments = ["template", "umim", str(render.CHARTS / chart), "--namespace", namespace]
    result = helm.run(*arguments, *(part for file in files for part in ("--values", str(file))))
    assert result.returncode == 0, result.stderr
    return [document for document in yaml.load_all(result.stdout, Loader) if document]


def operator_pod(documents: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = kube.pod_specs(documents)["Deployment/umim-operator"]
    return found


def images(documents: list[Any]) -> set[str]:
    """Return the images that the operator and its Jobs run."""
    (container,) = operator_pod(documents)["containers"]
    return {container["image"], *(item["value"] for item in container["env"] if item["name"].endswith("_IMAGE"))}


@pytest.mark.parametrize("path", UMIM, ids=lambda path: path.stem)
def test_every_example_of_the_platform_renders_restricted_pods(helm: Helm, path: Path) -> None:
    specs = kube.pod_specs(umim(helm, path.stem))
    assert {name: kube.restricted_violations(spec) for name, spec in specs.items()} == {name: [] for name in specs}


@pytest.mark.parametrize("path", HOSPITAL, ids=lambda path: path.stem)
def test_every_example_of_a_hospital_renders(helm: Helm, path: Path) -> None:
    assert kube.of_kind(hospital(helm, path.stem), "Hospital")


@pytest.mark.parametrize("path", [*UMIM, *HOSPITAL], ids=lambda path: f"{path.parent.parent.name}-{path.stem}")
def test_every_example_says_what_it_is_for_and_names_no_real_host(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# ")
    for word in text.split():
        host = word.partition("://")[2].split("/")[0].split(":")[0]
        assert not host or host.endswith((".example.org", ".svc")), word


@pytest.mark.parametrize("path", [*UMIM, *HOSPITAL], ids=lambda path: f"{path.parent.parent.name}-{path.stem}")
def test_every_example_is_named_in_the_guides(path: Path) -> None:
    guides = "".join((render.ROOT / f"docs/{name}.md").read_text() for name in ("platform-guide", "hospital-guide"))
    assert f"{path.parent.parent.name}/examples/{path.name}" in guides


def test_an_external_store_and_redis_run_nothing_but_the_operator(helm: Helm) -> None:
    assert set(kube.pod_specs(umim(helm, "external-redis"))) == {"Deployment/umim-operator"}


def test_an_air_gapped_cluster_pulls_by_digest_from_its_own_registry_with_a_secret(helm: Helm) -> None:
    documents = umim(helm, "air-gapped")
    for image in images(documents):
        assert image.startswith("registry.example.org/mirror/umim/")
        assert "@sha256:" in image
    secret = [{"name": "registry-credentials"}]
    assert operator_pod(documents)["imagePullSecrets"] == secret
    assert kube.of_kind(documents, "ServiceAccount")["umim-server"]["imagePullSecrets"] == secret
    site = hospital(helm, "air-gapped")
    assert kube.of_kind(site, "ServiceAccount")["umim-site"]["imagePullSecrets"] == secret
    (trainer,) = [image for image in images(documents) if "/trainer:" in image]
    assert trainer in str(kube.of_kind(site, "ValidatingAdmissionPolicy")["umim-hospital-a-jobs"])


def test_a_production_operator_is_placed_and_prioritised(helm: Helm) -> None:
    pod = operator_pod(umim(helm, "external-redis", "production"))
    assert pod["priorityClassName"] == "system-cluster-critical"
    assert pod["nodeSelector"] == {"node-role.example.org/platform": "true"}
    assert pod["tolerations"][0]["effect"] == "NoSchedule"
    assert "nodeAffinity" in pod["affinity"]


def test_without_being_asked_the_operator_is_placed_nowhere_in_particular(helm: Helm) -> None:
    pod = operator_pod(helm.template("umim"))
    assert not {"priorityClassName", "nodeSelector", "tolerations", "affinity"} & pod.keys()


def test_gpu_images_are_those_of_trainer_and_aggregator(helm: Helm) -> None:
    tags = {image.rsplit("/", 1)[1] for image in images(umim(helm, "gpu"))}
    assert tags == {"operator:0.1.0", "trainer:0.1.0-gpu", "aggregator:0.1.0-gpu"}
    spec = kube.of_kind(hospital(helm, "gpu"), "Hospital")["radiology"]["spec"]
    assert spec["maxResources"]["nvidia.com/gpu"] == "1"


def test_a_hospital_with_a_queue_names_it_in_its_consent_and_in_the_policy_of_its_jobs(helm: Helm) -> None:
    documents = hospital(helm, "kueue")
    assert kube.of_kind(documents, "Hospital")["radiology"]["spec"]["queueName"] == "umim"
    assert (
        '"queueName":"umim"' in kube.of_kind(documents, "ConfigMap")["umim-policy-radiology"]["data"]["hospital.json"]
    )


def test_a_hospital_reaches_an_external_store_and_no_pod(helm: Helm) -> None:
    policy = kube.of_kind(hospital(helm, "external-store"), "NetworkPolicy")["umim-site"]
    peers = {rule["ports"][0]["port"]: rule["to"] for rule in policy["spec"]["egress"]}
    assert peers[9000] == [{"ipBlock": {"cidr": "192.0.2.10/32"}}]
    assert peers[6380] == [{"ipBlock": {"cidr": "192.0.2.11/32"}}]
