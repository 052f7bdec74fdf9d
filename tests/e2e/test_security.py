"""The hospital's own word against the operator's: its policy, its key, its record, and what the API server refuses."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hack.testenv.api import Object
from hack.testenv.hospitals import NAME, Hospitals, Site
from hack.testenv.platform import FEDERATION, OPERATOR, PREFIX, SYSTEM, Platform
from tests.e2e.conftest import Launch
from umim import contract
from umim.api.artifacts import ModelManifest
from umim.artifacts.chain import StoreModels, verify_chain
from umim.artifacts.signing import Signer
from umim.cli.verify import signing_secret

OPERATOR_USER = f"system:serviceaccount:{SYSTEM}:{OPERATOR}"
HOSPITAL_KEY, FEDERATION_KEY, STRANGER = Signer.new(), Signer.new(), Signer.new()


@pytest.fixture(scope="module")
def signing(hospitals: Hospitals) -> Site:
    """A hospital that signs what leaves."""
    return hospitals.add(f"{PREFIX}-signing", signer=HOSPITAL_KEY)


@pytest.fixture
def federation_key(platform: Platform) -> Iterator[None]:
    """The federation signs its models while the test runs."""
    body = signing_secret(contract.FEDERATION_KEY, FEDERATION, FEDERATION_KEY)
    platform.api.apply(body)
    yield
    platform.api.delete("Secret", FEDERATION, body["metadata"]["name"])


def record(site: Site) -> list[dict[str, Any]]:
    """The hospital's audit log."""
    text = (site.folder / "work/audit" / f"{site.name}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.usefixtures("federation_key")
def test_a_round_with_signatures_can_be_verified_offline(
    platform: Platform, launch: Launch, signing: Site, start_model: ModelManifest
) -> None:
    # A seed of its own: a model that an earlier run of the tests has made keeps the manifest and keys of that run.
    made = launch("signed", signing, training={"seed": secrets.randbelow(1 << 31)})
    status = made.wait_phase("Complete")
    spec = made.model()["spec"]
    trust = {"federation": [FEDERATION_KEY.public_key], signing.name: [HOSPITAL_KEY.public_key]}
    newest, start = verify_chain(StoreModels(platform.store()), spec["digest"], trust)
    assert (newest.damage, newest.gaps) == ((), ())
    assert newest.manifest.signature is not None
    assert spec["signature"] == newest.manifest.signature.to_dict()
    (attested,) = newest.manifest.attestations
    assert attested.update_digest == status["sites"][0]["updateDigest"]
    # the tests published the start model themselves, with no key
    assert (start.manifest.file.digest, start.gaps) == (start_model.file.digest, ("federation has signed nothing",))
    noted = [line for line in record(signing) if line["roundUid"] == made.uid]
    assert [(line["event"], line["kind"]) for line in noted] == [
        ("intent", "update"),
        ("intent", "manifest"),
        ("done", "update"),
        ("done", "manifest"),
    ]
    assert {line["digest"] for line in noted} == {attested.update_digest, attested.manifest_digest}


def test_an_operator_that_lies_about_the_privacy_floor_is_refused_by_the_job(
    platform: Platform, launch: Launch, hospitals: Hospitals
) -> None:
    site = hospitals.add(f"{PREFIX}-lied-to", {"privacy": {"clipNorm": 1.0}})
    # What the operator reads is looser than what the hospital has said in the ConfigMap: as if the operator lied.
    platform.api.patch("Hospital", site.namespace, NAME, {"spec": {"privacy": {"clipNorm": 100.0}}})
    made = launch("lied-to", site)
    refused = made.wait_site(site, "Failed")
    assert (refused["reason"], refused["attempt"]) == ("PolicyRefused", 1)
    assert "privacy.clipNorm is 100.0, the hospital's policy has 1.0" in refused["message"]
    assert made.objects() == []
    made.delete()


def test_a_hospital_without_a_policy_trains_nothing(platform: Platform, launch: Launch, hospitals: Hospitals) -> None:
    site = hospitals.add(f"{PREFIX}-no-policy")
    platform.run_kubectl("delete", "configmap", contract.policy_name(NAME), "-n", site.namespace)
    made = launch("no-policy", site)
    refused = made.wait_site(site, "Failed")
    assert refused["reason"] == "PolicyRefused"
    assert contract.POLICY_FILE in refused["message"]
    made.delete()


def test_a_planted_private_key_signs_nothing(platform: Platform, launch: Launch, hospitals: Hospitals) -> None:
    site = hospitals.add(f"{PREFIX}-planted", signer=HOSPITAL_KEY)
    platform.api.apply(signing_secret(NAME, site.namespace, STRANGER))
    made = launch("planted", site)
    refused = made.wait_site(site, "Failed")
    assert refused["reason"] == "PolicyRefused"
    assert STRANGER.public_key in refused["message"]
    made.delete()


def test_an_update_that_another_key_signed_is_left_out(
    platform: Platform, launch: Launch, hospitals: Hospitals, sites: tuple[Site, Site, Site]
) -> None:
    site = hospitals.add(f"{PREFIX}-forged", signer=HOSPITAL_KEY)
    platform.api.patch("Hospital", site.namespace, NAME, {"spec": {"publicKey": STRANGER.public_key}})
    made = launch("forged", sites[0], site, quorum=1, training={"seed": 72})
    made.wait_phase("Complete")
    excluded = made.site(site)
    assert (excluded["phase"], excluded["reason"]) == ("Excluded", "SignatureInvalid")


def test_a_site_outside_its_time_window_waits(launch: Launch, hospitals: Hospitals) -> None:
    never_now = {"days": ["Mon"], "opens": "00:00", "closes": "00:01"}
    site = hospitals.add(f"{PREFIX}-asleep", {"timeWindows": [never_now]})
    made = launch("asleep", site)
    made.wait(
        "waiting",
        lambda status: any(one.get("reason") == "OutsideTimeWindow" for one in status.get("sites", [])) or None,
    )
    assert made.site(site)["phase"] == "Pending"
    assert made.jobs(site.namespace) == []
    made.delete()


@pytest.fixture(scope="module")
def guarded(platform: Platform, hospitals: Hospitals) -> Iterator[Site]:
    """A hospital whose API server admits only the site's own program."""
    (operator,) = [
        item for item in platform.api.select("Deployment", SYSTEM) if item["metadata"]["name"].endswith("-operator")
    ]
    (container,) = operator["spec"]["template"]["spec"]["containers"]
    image = next(item["value"] for item in container["env"] if item["name"] == "UMIM_TRAINER_IMAGE")
    site = hospitals.add(f"{PREFIX}-guarded", admission={"enabled": True, "images": [image]})
    yield site
    for part in ("jobs", "secrets"):
        name = f"umim-{site.namespace}-{part}"
        platform.run_kubectl("delete", "validatingadmissionpolicy,validatingadmissionpolicybinding", name)


@pytest.fixture(scope="module")
def honest(launch: Launch, guarded: Site) -> Object:
    """The Job of an honest operator, which the API server admitted."""
    made = launch("guarded", guarded, training={"seed": 73})
    made.wait_phase("Complete")
    (job,) = made.jobs(guarded.namespace)
    return job


def as_operator(platform: Platform, body: Object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Ask the API server, as the operator, whether it would take an object."""
    path = folder / "body.json"
    path.write_text(json.dumps(body))
    command = [str(platform.kubectl), "--kubeconfig", str(platform.kubeconfig), "--as", OPERATOR_USER]
    command += ["create", "--dry-run=server", "-f", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def job_like(honest: Object, site: Site) -> Object:
    """Return the same Job under another name."""
    template = honest["spec"]["template"]
    labels = {key: value for key, value in template["metadata"]["labels"].items() if key.startswith("umim.dev/")}
    (container,) = template["spec"]["containers"]
    copied = {**container, "envFrom": [{"secretRef": {"name": "copy"}}]}
    pod = {**template["spec"], "containers": [copied]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "copy", "namespace": site.namespace},
        "spec": {"backoffLimit": 0, "template": {"metadata": {"labels": labels}, "spec": pod}},
    }


VOLUMES = ("tmp", "work", "data", "policy", "signing")
LIES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "another image": ({"image": "elsewhere/anything:1"}, {}, "is not in admissionPolicy.images"),
    "another program": ({"command": ["sh", "-c", "cat /etc/umim/signing/*"]}, {}, "and nothing else"),
    "another environment": ({"env": [{"name": "PYTHONPATH", "value": "/work"}]}, {}, "takes its environment"),
    "without the policy": ({"volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]}, {}, "at their places"),
    "other volumes": ({}, {"volumes": [{"name": name, "emptyDir": {}} for name in VOLUMES]}, "and no other"),
    "another account": ({}, {"serviceAccountName": "default"}, "the account umim-site"),
}


def test_the_api_server_takes_the_jobs_of_an_honest_operator(
    platform: Platform, honest: Object, guarded: Site, tmp_path: Path
) -> None:
    done = as_operator(platform, job_like(honest, guarded), tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("lie", LIES)
def test_the_api_server_refuses_every_other_job_of_the_operator(
    platform: Platform, honest: Object, guarded: Site, tmp_path: Path, lie: str
) -> None:
    container, pod, message = LIES[lie]
    body = job_like(honest, guarded)
    spec = body["spec"]["template"]["spec"]
    spec.update(pod)
    spec["containers"][0].update(container)
    done = as_operator(platform, body, tmp_path)
    assert done.returncode != 0
    assert message in done.stderr


def test_the_operator_cannot_replace_or_remove_the_private_key(
    platform: Platform, guarded: Site, tmp_path: Path
) -> None:
    planted = signing_secret(NAME, guarded.namespace, STRANGER)
    done = as_operator(platform, planted, tmp_path)
    assert "writes only the credentials of its Jobs" in done.stderr
    platform.api.apply(planted)  # the hospital itself may
    command = [
        str(platform.kubectl),
        "--kubeconfig",
        str(platform.kubeconfig),
        "--as",
        OPERATOR_USER,
        "delete",
        "secret",
    ]
    command += [planted["metadata"]["name"], "-n", guarded.namespace, "--dry-run=server"]
    removed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "only Secrets that belong to a round" in removed.stderr
