"""The Pods of `helm test`: restricted, and in the same place as what they stand for."""

from __future__ import annotations

from typing import Any

import yaml

from hack import render
from tests.unit.charts import kube
from tests.unit.charts.helm import Helm
from tests.unit.charts.test_umim_chart import EVERYTHING, EXTERNAL, environment, operator_container
from tests.unit.operator.test_builders import pod as job_pod


def platform_test(documents: list[Any]) -> dict[str, Any]:
    (found,) = kube.of_kind(documents, "Pod").values()
    return found


def test_both_tests_are_hooks_that_stay_for_their_log(helm: Helm) -> None:
    for chart in ("umim", "umim-hospital"):
        pod = platform_test(helm.template(chart))
        assert pod["metadata"]["annotations"] == {
            "helm.sh/hook": "test",
            "helm.sh/hook-delete-policy": "before-hook-creation",
        }
        assert kube.restricted_violations(pod["spec"]) == []
        assert pod["spec"]["restartPolicy"] == "Never"


def test_the_platforms_test_is_who_the_operator_is(helm: Helm) -> None:
    for values in (EVERYTHING, (*EXTERNAL, "redis.url=rediss://r.example.org:6380/0", "redis.existingSecret=keys")):
        documents = helm.template("umim", *values)
        pod = platform_test(documents)["spec"]
        (container,) = pod["containers"]
        operator = environment(operator_container(documents))
        tested = environment(container)
        assert tested.items() <= operator.items()
        assert {name for name in operator if name.startswith(("UMIM_S3_", "UMIM_REDIS_"))} == set(tested)
        assert pod["serviceAccountName"] == "umim-operator"
        assert container["image"] == operator_container(documents)["image"]


def test_the_platforms_test_looks_at_every_federation(helm: Helm) -> None:
    (container,) = platform_test(helm.template("umim", "federations.namespaces={alpha,beta}"))["spec"]["containers"]
    assert container["args"] == ["alpha", "beta"]


def test_the_platforms_test_may_reach_store_and_redis(helm: Helm) -> None:
    documents = helm.template("umim", *EVERYTHING)
    component = platform_test(documents)["metadata"]["labels"]["app.kubernetes.io/component"]
    for name in ("umim-minio", "umim-redis"):
        own, _ = kube.of_kind(documents, "NetworkPolicy")[name]["spec"]["ingress"][0]["from"]
        assert component in own["podSelector"]["matchExpressions"][1]["values"]


def test_a_hospitals_test_mounts_what_its_jobs_mount(helm: Helm) -> None:
    documents = helm.template("umim-hospital")
    tested, trained = platform_test(documents)["spec"], job_pod("site")
    (own,), (container,) = tested["containers"], trained["containers"]
    assert {item["name"]: item for item in own["volumeMounts"]} == {
        item["name"]: item for item in container["volumeMounts"]
    }
    spec = kube.of_kind(documents, "Hospital")["radiology"]["spec"]
    claims = {
        item["name"]: item["persistentVolumeClaim"]["claimName"]
        for item in tested["volumes"]
        if "persistentVolumeClaim" in item
    }
    assert claims == {"data": spec["data"]["claimName"], "work": spec["workClaimName"]}
    assert {item["name"]: item for item in tested["volumes"]}["signing"]["secret"]["defaultMode"] == 0o440
    for field in ("serviceAccountName", "automountServiceAccountToken", "securityContext"):
        assert tested[field] == trained[field]


def test_a_hospitals_test_fits_the_default_quota(helm: Helm) -> None:
    (container,) = platform_test(helm.template("umim-hospital"))["spec"]["containers"]
    assert set(container["resources"]) == {"requests", "limits"}
    assert "memory" in container["resources"]["limits"]


def test_rendered_manifests_hold_no_tests() -> None:
    for path in (render.ROOT / "manifests/rendered").glob("*.yaml"):
        assert kube.of_kind(yaml.safe_load_all(path.read_text()), "Pod") == {}
