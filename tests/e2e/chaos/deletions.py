"""Somebody deletes what a round needs while it runs."""

from __future__ import annotations

import time

from hack.testenv.hospitals import RELEASE
from hack.testenv.waiting import wait_until
from tests.e2e.chaos.registry import case
from tests.e2e.chaos.rows import NOTHING, Row
from tests.e2e.chaos.world import SHOWN_SECONDS, World


@case("round-deleted")
def round_deleted(world: World) -> list[Row]:
    """The round itself is deleted in training."""
    trial = world.launch("round-deleted")
    trial.round.wait("progress", lambda status: any(item.get("progress") for item in status.get("sites", [])))
    begin = time.monotonic()
    trial.round.delete()
    took = time.monotonic() - begin
    left = [*trial.round.jobs(), *trial.round.secrets(), *trial.round.objects()]
    assert left == [], left
    wait_until("no Pod is left", lambda: not trial.round.pods(), 60, trial.round.dump)
    outcome = "deleted with its Jobs, Secrets and objects; its start model stays"
    return [Row("round-deleted", "round deleted", "Training", outcome, round(took, 1), NOTHING)]


@case("namespace-deleted")
def namespace_deleted(world: World) -> list[Row]:
    """A hospital's namespace is deleted in training; the quorum does not need it."""
    leaving = world.site("namespace-deleted", "b")
    trial = world.launch("namespace-deleted", [world.sites[0], leaving], quorum=1)
    trial.round.wait("progress", lambda status: any(item.get("progress") for item in status.get("sites", [])))
    world.platform.api.delete("Namespace", "", leaving.namespace)
    refused = trial.round.wait_site(leaving, "Refused")
    row = world.complete(
        trial,
        case="namespace-deleted",
        fault="hospital's namespace deleted, quorum does not need it",
        phase="Training",
        outcome="the hospital is Refused, the model is made of the others",
        contributors=[world.sites[0]],
        reasons=[refused["reason"]],
    )
    assert refused["reason"] in world.described(trial.round)
    return [row]


@case("namespace-deleted-quorum")
def namespace_deleted_quorum(world: World) -> list[Row]:
    """A hospital's namespace is deleted in training, and the round needs it."""
    leaving = world.site("namespace-quorum", "b")
    trial = world.launch("namespace-quorum", [world.sites[0], leaving], deadline="100s")
    trial.round.wait("progress", lambda status: any(item.get("progress") for item in status.get("sites", [])))
    begin = time.monotonic()
    world.platform.api.delete("Namespace", "", leaving.namespace)
    return [
        world.failed(
            trial,
            case="namespace-deleted-quorum",
            fault="hospital's namespace deleted, quorum needs it",
            phase="Training",
            reason="QuorumNotReached",
            names=(leaving.name,),
            begin=begin,
        )
    ]


@case("secret-deleted")
def secret_deleted(world: World) -> list[Row]:
    """A site's Secret is deleted before its Pod could start."""
    gated = world.site("secret-deleted", "b", gate=True)
    trial = world.launch("secret-deleted", [world.sites[0], gated], training={"epochs": 1})
    trial.round.wait_site(gated, "Running")
    begin = time.monotonic()
    for secret in trial.round.secrets():
        if secret["metadata"]["namespace"] == gated.namespace:
            world.platform.api.delete("Secret", gated.namespace, secret["metadata"]["name"])
    world.hospitals.open_gate(gated)
    took = time.monotonic() - begin
    fault = "Secret with a site's credentials deleted before its Pod started"
    twin = world.twin("short", training={"epochs": 1})
    return [world.complete(trial, case="secret-deleted", fault=fault, phase="Training", fault_seconds=took, twin=twin)]


@case("secret-deleted-running")
def secret_deleted_running(world: World) -> list[Row]:
    """A site's Secret is deleted while its Pod runs."""
    trial = world.launch("secret-running")
    site = trial.sites[0]
    world.job_process(trial, "site", site.namespace)
    for secret in trial.round.secrets():
        world.platform.api.delete("Secret", secret["metadata"]["namespace"], secret["metadata"]["name"])
    fault = "Secrets with the sites' credentials deleted while their Pods run"
    return [world.complete(trial, case="secret-deleted-running", fault=fault, phase="Training")]


@case("pvc-deleted")
def pvc_deleted(world: World) -> list[Row]:
    """A hospital's data claim is deleted before its Pod could start, and made again."""
    gated = world.site("pvc-deleted", "b", gate=True)
    claim = f"{RELEASE}-data"
    begin = time.monotonic()
    world.platform.api.delete("PersistentVolumeClaim", gated.namespace, claim)
    trial = world.launch("pvc-deleted", [world.sites[0], gated], training={"epochs": 1})
    shown, took = world.shown(trial, gated, time.monotonic() - 0, lambda item: claim in item["message"])
    world.hospitals.join(gated)
    world.hospitals.open_gate(gated)
    fault_seconds = time.monotonic() - begin
    assert took <= SHOWN_SECONDS
    return [
        world.complete(
            trial,
            case="pvc-deleted",
            fault="claim of a hospital's data deleted before its Pod started, then made again",
            phase="Training",
            outcome=f"{shown['reason']} was shown at the site after {took:.0f} s, then every Job ran once",
            fault_seconds=fault_seconds,
            twin=world.twin("short", training={"epochs": 1}),
            reasons=[shown["reason"]],
        )
    ]


@case("pvc-deleted-running")
def pvc_deleted_running(world: World) -> list[Row]:
    """Both claims of a hospital are deleted while its Pod uses them."""
    leaving = world.site("pvc-running", "b")
    trial = world.launch("pvc-running", [world.sites[0], leaving])
    world.job_process(trial, "site", leaving.namespace)
    for part in ("data", "work"):
        world.platform.api.delete("PersistentVolumeClaim", leaving.namespace, f"{RELEASE}-{part}")
    return [
        world.complete(
            trial,
            case="pvc-deleted-running",
            fault="claims of a hospital's volumes deleted while its Pod uses them",
            phase="Training",
            outcome="Kubernetes keeps them until the Pod has ended",
        )
    ]
