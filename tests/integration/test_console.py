"""The console on the real API server: with its own account's rights it sees what it shows, and can do nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client, config
from starlette.testclient import TestClient

from hack.testenv.platform import FEDERATION, SYSTEM, Platform
from hack.testenv.waiting import wait_until
from tests.integration.conftest import changed, good_federation, good_hospital, good_model, good_round
from umim.console.app import Console, create_app
from umim.console.cluster import Cache
from umim.console.watching import Watchers

ACCOUNT = f"system:serviceaccount:{SYSTEM}:umim-console"
READ = ("get", "list", "watch")
WRITE = ("create", "update", "patch", "delete", "deletecollection")
OWN = ("federations", "federationrounds", "globalmodels", "hospitals")
HTML = "<img src=x onerror=alert(1)>"
SECONDS = 30


def as_account(platform: Platform, account: str) -> client.ApiClient:
    """Return a client that the API server takes for another account."""
    settings = client.Configuration()
    config.load_kube_config(str(platform.kubeconfig), client_configuration=settings)
    api = client.ApiClient(settings)
    api.set_default_header("Impersonate-User", account)
    return api


@pytest.fixture
def cache(platform: Platform) -> Iterator[Cache]:
    """What the watchers keep, with the rights of the console's own account."""
    kept = Cache()
    watchers = Watchers(as_account(platform, ACCOUNT), kept)
    watchers.start()
    wait_until("every kind read", lambda: kept.complete, SECONDS, lambda: kept.snapshot().problem)
    yield kept
    watchers.stop()


def may(api: client.ApiClient, verb: str, group: str, resource: str, namespace: str, part: str = "") -> bool:
    """Ask the API server whether the client's account may do something."""
    attributes = client.V1ResourceAttributes(
        verb=verb, group=group, resource=resource, subresource=part, namespace=namespace
    )
    spec = client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes)
    review = client.V1SelfSubjectAccessReview(spec=spec)
    answer: Any = client.AuthorizationV1Api(api).create_self_subject_access_review(review)
    return bool(answer.status.allowed)


@pytest.mark.parametrize("namespace", [FEDERATION, SYSTEM, "kube-system"], ids=["federation", "system", "kube-system"])
def test_the_console_may_look_at_umims_resources_and_do_nothing_else(platform: Platform, namespace: str) -> None:
    api = as_account(platform, ACCOUNT)
    review = client.V1SelfSubjectRulesReview(spec=client.V1SelfSubjectRulesReviewSpec(namespace=namespace))
    answer: Any = client.AuthorizationV1Api(api).create_self_subject_rules_review(review)
    rights = {
        (group, resource, verb)
        for rule in answer.status.resource_rules
        for group in rule.api_groups
        for resource in rule.resources
        for verb in rule.verbs
    }
    asks_of_itself = {right for right in rights if right[1].startswith("selfsubject") and right[2] == "create"}
    assert rights - asks_of_itself == {("umim.dev", resource, verb) for resource in OWN for verb in READ}


def test_the_api_server_says_no_to_secrets_pods_and_every_change(platform: Platform) -> None:
    api = as_account(platform, ACCOUNT)
    assert may(api, "list", "umim.dev", "federationrounds", FEDERATION)
    for verb in WRITE:
        assert not may(api, verb, "umim.dev", "federationrounds", FEDERATION)
    assert not may(api, "patch", "umim.dev", "federationrounds", FEDERATION, "status")
    for resource, part in (("secrets", ""), ("pods", ""), ("pods", "log"), ("pods", "exec"), ("configmaps", "")):
        for namespace in (FEDERATION, SYSTEM):
            assert not may(api, "get", "", resource, namespace, part)


def test_what_happens_in_the_cluster_is_seen_and_forgotten(clean: Platform, cache: Cache) -> None:
    for body in (good_round(), good_federation(), good_hospital(), good_model()):
        clean.api.create(body)
    wait_until(
        "all four seen",
        lambda: all(
            found(FEDERATION, "good") is not None
            for seen in [cache.snapshot()]
            for found in (seen.round, seen.federation, seen.hospital, seen.model)
        ),
        SECONDS,
        lambda: str(cache.snapshot()),
    )
    clean.api.delete("Hospital", FEDERATION, "good")
    wait_until(
        "the deleted one forgotten",
        lambda: cache.snapshot().hospital(FEDERATION, "good") is None,
        SECONDS,
        lambda: cache.snapshot().problem,
    )


def test_html_that_the_api_server_accepts_is_shown_as_text(clean: Platform, cache: Cache) -> None:
    body = changed(good_model(), "spec.strategy", HTML)
    body["spec"]["contributors"][0]["site"] = HTML
    body["metadata"]["annotations"] = {"note": HTML}
    clean.api.create(body)
    wait_until(
        "the model seen",
        lambda: cache.snapshot().model(FEDERATION, "good") is not None,
        SECONDS,
        lambda: cache.snapshot().problem,
    )
    with TestClient(create_app(Console(cache), ("localhost",)), base_url="http://localhost") as console:
        for address in ("/", "/models", f"/models/{FEDERATION}/good"):
            text = console.get(address).text
            assert "<img src=x" not in text
            assert "&lt;img src=x" in text


def test_an_account_without_rights_is_told_what_it_lacks(platform: Platform) -> None:
    kept = Cache()
    watchers = Watchers(as_account(platform, f"system:serviceaccount:{FEDERATION}:nobody"), kept)
    watchers.start()
    try:
        wait_until(
            "the refusal told",
            lambda: "needs get, list and watch" in kept.snapshot().problem,
            SECONDS,
            lambda: kept.snapshot().problem,
        )
    finally:
        watchers.stop()
    assert not kept.complete
