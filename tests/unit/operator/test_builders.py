"""The manifests of Jobs and Secrets: safe, valid, and exactly as the golden files say."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.operator import make
from tests.unit.operator.make import A
from umim import contract
from umim.api.artifacts import JobResult
from umim.api.globalmodel import Contributor, SharedHead
from umim.api.round import FederationRoundSpec
from umim.artifacts.signing import Signer
from umim.contract import Role
from umim.rounds.consent import with_default_resources
from umim.rounds.publication import publication
from umim_operator import builders
from umim_operator.config import JobDefaults
from umim_operator.state import JobReference, Launch

GOLDEN = Path(__file__).parents[2] / "golden" / "operator"
REWRITE = "PYTHONPATH=.:operator python -m tests.unit.operator.test_builders"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
DEFAULTS = JobDefaults(
    trainer_image="umim/trainer:1",
    aggregator_image="umim/aggregator:1",
    pull_policy="IfNotPresent",
    server_service_account="umim-server",
    environment={"UMIM_S3_ENDPOINT": "http://minio:9000", "UMIM_S3_BUCKET": "umim"},
)
RESULT = JobResult(round_uid=make.UID, model_digest=make.MODEL)
ROLES: tuple[Role, ...] = ("init", "site", "aggregate")
LABEL_VALUE = re.compile(r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")


def mim_spec() -> FederationRoundSpec:
    model = {"architecture": "vit_tiny_patch16_224", "imageSize": 64, "parent": {"init": "mim"}}
    dataset = {"claimName": "pool", "path": "images", "format": "imagefolder", "task": "none"}
    return make.spec(model=model, server_dataset=dataset, pretraining={"resources": {"limits": {"memory": "8Gi"}}})


def launch(role: Role, **spec: Any) -> tuple[FederationRoundSpec, Launch]:
    """The launch that the planner asks for."""
    if role == "init":
        round_ = mim_spec()
        seen = make.observed(parent=None)
        (found,) = make.step(round_, make.accepted(round_, seen), seen).launches
        return round_, found
    round_ = make.spec(**spec)
    status, seen = make.training(round_)
    if role == "site":
        return round_, make.step(round_, make.accepted(round_), make.observed()).launches[0]
    seen = make.ended(seen, succeeded=[site.name for site in status.sites])
    delivered = make.updates(*(site.name for site in status.sites))
    (found,) = make.step(round_, status, make.observed(jobs=seen.jobs, updates=delivered)).launches
    return round_, found


def job(role: Role, **spec: Any) -> dict[str, Any]:
    round_, found = launch(role, **spec)
    return builders.job(make.view(round_), found, DEFAULTS, TRACEPARENT)


def pod(role: Role, **spec: Any) -> dict[str, Any]:
    found: dict[str, Any] = job(role, **spec)["spec"]["template"]["spec"]
    return found


def container(role: Role, **spec: Any) -> dict[str, Any]:
    (found,) = pod(role, **spec)["containers"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("role", ROLES)
def test_the_job_is_exactly_the_golden_one(role: Role) -> None:
    text = (GOLDEN / f"{role}-job.yaml").read_text()
    assert yaml.safe_load(text) == job(role), f"review the change, then run {REWRITE}"


@pytest.mark.parametrize("role", ROLES)
def test_pods_meet_the_restricted_pod_security_standard(role: Role) -> None:
    found = pod(role)
    security = found["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    inner = container(role)["securityContext"]
    assert inner["allowPrivilegeEscalation"] is False
    assert inner["capabilities"] == {"drop": ["ALL"]}
    assert inner["readOnlyRootFilesystem"] is True
    assert "privileged" not in inner
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        assert field not in found
    assert {kind for volume in found["volumes"] for kind in volume if kind != "name"} <= {
        "emptyDir",
        "persistentVolumeClaim",
        "configMap",
        "secret",
    }


@pytest.mark.parametrize("role", ROLES)
def test_pods_get_no_token_of_the_api_server(role: Role) -> None:
    found = pod(role)
    assert found["automountServiceAccountToken"] is False
    assert found["enableServiceLinks"] is False


@pytest.mark.parametrize("role", ROLES)
def test_a_job_runs_one_pod_once_because_the_planner_counts_attempts(role: Role) -> None:
    found = job(role)["spec"]
    assert (found["backoffLimit"], found["completions"], found["parallelism"]) == (0, 1, 1)
    assert found["template"]["spec"]["restartPolicy"] == "Never"


@pytest.mark.parametrize("role", ROLES)
def test_a_job_for_a_queue_is_created_suspended_with_kueues_label_on_the_job_alone(role: Role) -> None:
    round_, found = launch(role)
    body = builders.job(make.view(round_), replace(found, queue="umim"), DEFAULTS, None)
    assert body["spec"]["suspend"] is True
    assert body["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "umim"
    assert "kueue.x-k8s.io/queue-name" not in body["spec"]["template"]["metadata"]["labels"]
    without = job(role)
    assert "suspend" not in without["spec"]
    assert "kueue.x-k8s.io/queue-name" not in without["metadata"]["labels"]


@pytest.mark.parametrize("role", ROLES)
def test_credentials_reach_the_container_only_through_the_secret(role: Role) -> None:
    round_, found = launch(role)
    inner = container(role)
    assert inner["envFrom"] == [{"secretRef": {"name": found.reference.name}}]
    names = {item["name"] for item in inner["env"]}
    assert not {name for name in names if "KEY" in name or "TOKEN" in name or "PASSWORD" in name}
    credentials = {"UMIM_S3_SECRET_KEY": "s3cret"}
    secret = builders.secret(make.view(round_), found, credentials)
    assert secret["stringData"] == credentials
    assert secret["metadata"]["namespace"] == found.reference.namespace
    assert secret["metadata"]["labels"] == builders.labels(make.view(round_), found)
    assert "s3cret" not in str(job(role))


@pytest.mark.parametrize("role", ROLES)
def test_the_logs_of_a_job_never_become_its_message(role: Role) -> None:
    assert container(role)["terminationMessagePolicy"] == "File"


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", ["r", "stage-1", "a.b.c", "x" * 200, "x" * 51 + "." * 1 + "y" * 100])
def test_names_and_labels_are_valid_for_rounds_with_long_names(role: Role, name: str) -> None:
    site = "n" * 63 + "." + "h" * 63 if role == "site" else ""
    view = make.view(make.spec(), name=name)
    found = Launch(
        reference=JobReference("ns", contract.job_name(role, name, make.UID, site, 12)),
        role=role,
        site=site,
        attempt=12,
        config=launch(role)[1].config,
        hospital=make.hospital_spec() if role == "site" else None,
        time_left=timedelta(seconds=1),
    )
    body = builders.job(view, found, DEFAULTS, None)
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", body["metadata"]["name"])
    for value in body["metadata"]["labels"].values():
        assert LABEL_VALUE.match(value), value
    if site:
        assert body["metadata"]["annotations"] == {"umim.dev/site": site}


def test_a_site_pod_mounts_the_images_read_only_and_keeps_its_checkpoints() -> None:
    found = pod("site")
    assert found["serviceAccountName"] == "umim-site"
    volumes = {volume["name"]: volume for volume in found["volumes"]}
    assert volumes["data"]["persistentVolumeClaim"] == {"claimName": "images", "readOnly": True}
    assert volumes["work"]["persistentVolumeClaim"] == {"claimName": "work"}
    mounts = {mount["name"]: mount for mount in container("site")["volumeMounts"]}
    assert mounts["data"] == {"name": "data", "mountPath": "/data", "readOnly": True}
    assert mounts["work"]["mountPath"] == "/work"


@pytest.mark.parametrize(
    ("role", "name"),
    [("site", "umim-signing-radiology"), ("init", "umim-signing-federation"), ("aggregate", "umim-signing-federation")],
)
def test_a_pod_mounts_the_private_key_of_its_owner(role: Role, name: str) -> None:
    (volume,) = [volume for volume in pod(role)["volumes"] if volume["name"] == "signing"]
    assert volume["secret"] == {"secretName": name, "optional": True, "defaultMode": 0o440}
    (mount,) = [mount for mount in container(role)["volumeMounts"] if mount["name"] == "signing"]
    assert mount == {"name": "signing", "mountPath": "/etc/umim/signing", "readOnly": True}


def test_a_site_pod_mounts_its_hospitals_policy_by_a_name_that_no_round_chooses() -> None:
    volumes = {volume["name"]: volume for volume in pod("site")["volumes"]}
    assert volumes["policy"]["configMap"] == {"name": "umim-policy-radiology", "optional": True}
    mounts = {mount["name"]: mount for mount in container("site")["volumeMounts"]}
    assert mounts["policy"] == {"name": "policy", "mountPath": "/etc/umim/policy", "readOnly": True}
    assert "policy" not in {volume["name"] for volume in pod("init")["volumes"] + pod("aggregate")["volumes"]}


def test_server_pods_use_the_servers_account_and_images() -> None:
    assert pod("aggregate")["serviceAccountName"] == "umim-server"
    assert container("aggregate")["image"] == "umim/aggregator:1"
    assert container("init")["image"] == "umim/trainer:1"
    assert [volume["name"] for volume in pod("aggregate")["volumes"]] == ["tmp", "work", "signing"]


def test_a_job_ends_by_itself_shortly_after_the_deadline() -> None:
    assert job("site", deadline="60s")["spec"]["activeDeadlineSeconds"] == 90


def test_the_trace_of_the_round_is_handed_to_the_job_when_there_is_one() -> None:
    round_, found = launch("site")
    with_, without = (builders.job(make.view(round_), found, DEFAULTS, item) for item in (TRACEPARENT, None))
    environments = [
        {item["name"]: item["value"] for item in body["spec"]["template"]["spec"]["containers"][0]["env"]}
        for body in (with_, without)
    ]
    assert environments[0]["TRACEPARENT"] == TRACEPARENT
    assert "TRACEPARENT" not in environments[1]


@pytest.mark.parametrize(
    ("requests", "limits", "expected"),
    [
        ({}, {}, ({"cpu": "1", "memory": "2Gi"}, {"memory": "4Gi"})),
        ({}, {"memory": "1Gi"}, ({"cpu": "1", "memory": "1Gi"}, {"memory": "1Gi"})),
        ({}, {"cpu": "500m"}, ({"cpu": "500m", "memory": "2Gi"}, {"cpu": "500m", "memory": "4Gi"})),
        ({"memory": "8Gi"}, {}, ({"cpu": "1", "memory": "8Gi"}, {"memory": "8Gi"})),
        (
            {"cpu": "2"},
            {"nvidia.com/gpu": "1"},
            ({"cpu": "2", "memory": "2Gi"}, {"memory": "4Gi", "nvidia.com/gpu": "1"}),
        ),
    ],
)
def test_default_resources_never_contradict_what_the_user_set(
    requests: dict[str, str], limits: dict[str, str], expected: tuple[dict[str, str], dict[str, str]]
) -> None:
    assert with_default_resources(requests, limits) == expected


def test_pretraining_has_resources_of_its_own() -> None:
    assert container("init")["resources"]["limits"] == {"memory": "8Gi"}
    assert container("site", resources={"limits": {"nvidia.com/gpu": "1"}})["resources"]["limits"] == {
        "memory": "4Gi",
        "nvidia.com/gpu": "1",
    }


POOL = {"claimName": "pool", "format": "npz"}


def test_distillation_has_resources_of_its_own() -> None:
    distillation = {"resources": {"limits": {"memory": "8Gi"}}}
    assert container("aggregate", server_dataset=POOL, distillation=distillation)["resources"]["limits"] == {
        "memory": "8Gi"
    }
    assert container("aggregate")["resources"]["limits"] == {"memory": "4Gi"}


@pytest.mark.parametrize(
    ("distillation", "memory"), [(None, "1Gi"), ({}, "1Gi"), ({"resources": {"limits": {"memory": "8Gi"}}}, "8Gi")]
)
def test_aggregation_has_resources_of_its_own_that_those_of_a_distillation_replace(
    distillation: dict[str, Any] | None, memory: str
) -> None:
    aggregation = {"resources": {"limits": {"memory": "1Gi"}}}
    found = container("aggregate", server_dataset=POOL, distillation=distillation, aggregation=aggregation)
    assert found["resources"] == {
        "requests": {"cpu": "1", "memory": "1Gi" if memory == "1Gi" else "2Gi"},
        "limits": {"memory": memory},
    }
    assert container("site", aggregation=aggregation)["resources"]["limits"] == {"memory": "4Gi"}


@pytest.mark.parametrize(
    ("role", "spec", "claim"),
    [
        ("init", {}, "pool"),
        ("aggregate", {"server_dataset": POOL}, "pool"),
        ("aggregate", {}, None),
        ("site", {"server_dataset": POOL}, "images"),
    ],
)
def test_jobs_of_the_server_mount_its_images_and_no_site_does(
    role: Role, spec: dict[str, Any], claim: str | None
) -> None:
    found = [volume["persistentVolumeClaim"] for volume in pod(role, **spec)["volumes"] if volume["name"] == "data"]
    assert found == ([] if claim is None else [{"claimName": claim, "readOnly": True}])


def test_a_random_start_mounts_no_images() -> None:
    round_ = make.init_spec(server_dataset=POOL)
    seen = make.observed(parent=None)
    (found,) = make.step(round_, make.accepted(round_, seen), seen).launches
    body = builders.job(make.view(round_), found, DEFAULTS, None)
    assert [volume["name"] for volume in body["spec"]["template"]["spec"]["volumes"]] == ["tmp", "work", "signing"]


def test_a_global_model_is_written_with_its_lineage() -> None:
    status, _ = make.trained(make.spec())
    model = publication(make.view(make.spec()), status, make.manifest(), RESULT)
    body = builders.global_model(make.FEDERATION, model)
    assert body["metadata"]["name"] == "stage-1-bbbbbbbb"
    assert body["spec"]["round"] == {"name": "stage-1", "uid": make.UID}
    assert body["spec"]["created"] == "2026-03-01T12:00:00Z"


def test_the_lineage_is_the_rounds_own_although_another_round_made_the_same_bytes_first() -> None:
    status, _ = make.trained(make.spec())
    stranger = Contributor(site="elsewhere.x", update_digest="c" * 64, samples=1)
    manifest = make.manifest().model_copy(
        update={"round_uid": "another", "contributors": [stranger], "parent": None, "metrics": {"loss_after": 9.0}}
    )
    head = SharedHead(task_name="tissue", task="classification", classes=["a", "b"], sites=[A])
    result = RESULT.model_copy(update={"parts_digest": "d" * 64, "heads": [head], "metrics": {"server_mim_loss": 0.5}})
    spec = publication(make.view(make.spec()), status, manifest, result).spec
    assert [item.site for item in spec.contributors] == [item.name for item in status.sites]
    assert spec.parent == status.parent is not None
    assert spec.metrics == {"loss_before": 2.0, "loss_after": 1.0, "server_mim_loss": 0.5}
    assert (spec.parts_digest, spec.heads) == ("d" * 64, [head])
    assert spec.strategy == "fedavg"


def test_a_global_model_carries_the_signature_of_its_manifest() -> None:
    status, _ = make.trained(make.spec())
    signed = Signer.new().sign_model(make.manifest())
    body = builders.global_model(make.FEDERATION, publication(make.view(make.spec()), status, signed, RESULT))
    assert signed.signature is not None
    assert body["spec"]["signature"] == signed.signature.to_dict()


def test_the_sites_name_is_kept_whole_beside_its_label() -> None:
    assert job("site")["metadata"]["annotations"] == {"umim.dev/site": A}


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for role_ in ROLES:
        (GOLDEN / f"{role_}-job.yaml").write_text(yaml.safe_dump(job(role_), sort_keys=False, width=110))
