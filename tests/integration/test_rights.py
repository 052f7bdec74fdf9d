"""What the operator and a site may do, asked of the API server."""

from __future__ import annotations

import json
import subprocess

import pytest

from hack.testenv.hospitals import Hospitals, Site
from hack.testenv.platform import FEDERATION, PREFIX, SYSTEM, Platform

OPERATOR = f"system:serviceaccount:{SYSTEM}:umim-operator"


@pytest.fixture(scope="module")
def site(hospitals: Hospitals) -> Site:
    """A hospital with the chart's rights."""
    return hospitals.add(f"{PREFIX}-rights")


def _may(platform: Platform, who: str, verb: str, resource: str, namespace: str) -> bool:
    group, _, name = resource.rpartition("/")
    attributes = {"verb": verb, "group": group, "resource": name, "namespace": namespace}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": who,
            "groups": ["system:serviceaccounts", "system:authenticated"],
            "resourceAttributes": attributes,
        },
    }
    command = [str(platform.kubectl), "--kubeconfig", str(platform.kubeconfig), "create", "-f", "-", "-o", "json"]
    done = subprocess.run(command, input=json.dumps(body), capture_output=True, text=True, check=True, timeout=30)
    return bool(json.loads(done.stdout)["status"]["allowed"])


@pytest.mark.parametrize("verb", ["get", "list", "watch", "patch", "update", "deletecollection"])
def test_the_operator_reads_no_secret_anywhere(platform: Platform, site: Site, verb: str) -> None:
    for namespace in (site.namespace, FEDERATION, SYSTEM, "kube-system", "default"):
        assert not _may(platform, OPERATOR, verb, "secrets", namespace)


@pytest.mark.parametrize(
    ("verb", "resource"), [("create", "batch/jobs"), ("delete", "batch/jobs"), ("create", "secrets")]
)
def test_the_operator_writes_jobs_and_secrets_only_where_it_is_let(
    platform: Platform, site: Site, verb: str, resource: str
) -> None:
    for namespace in (site.namespace, FEDERATION):
        assert _may(platform, OPERATOR, verb, resource, namespace)
    for namespace in ("default", "kube-system", SYSTEM):
        assert not _may(platform, OPERATOR, verb, resource, namespace)


def test_the_operator_cannot_change_a_hospitals_terms(platform: Platform, site: Site) -> None:
    for verb in ("create", "update", "patch", "delete"):
        assert not _may(platform, OPERATOR, verb, "umim.dev/hospitals", site.namespace)
    assert _may(platform, OPERATOR, "get", "umim.dev/hospitals", site.namespace)


def test_the_operator_makes_rounds_but_no_campaigns(platform: Platform) -> None:
    assert _may(platform, OPERATOR, "create", "umim.dev/federationrounds", FEDERATION)
    for verb in ("create", "update", "delete"):
        assert not _may(platform, OPERATOR, verb, "umim.dev/federations", FEDERATION)


@pytest.mark.parametrize("resource", ["pods", "secrets", "configmaps", "batch/jobs", "umim.dev/hospitals"])
def test_a_sites_service_account_has_no_rights(platform: Platform, site: Site, resource: str) -> None:
    who = f"system:serviceaccount:{site.namespace}:umim-site"
    for verb in ("get", "list", "create", "delete"):
        assert not _may(platform, who, verb, resource, site.namespace)


def test_the_operator_cannot_read_or_change_a_hospitals_policy(platform: Platform, site: Site) -> None:
    for verb in ("get", "list", "create", "update", "patch", "delete"):
        assert not _may(platform, OPERATOR, verb, "configmaps", site.namespace)
