"""A small cluster as the console knows it: objects as the API server gives them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tests.unit.cli.samples import condition, hospital_object, model_object, round_object, site
from umim.console.cluster import Cache, Snapshot

Object = dict[str, Any]
NOW = datetime(2026, 11, 24, 12, 10, tzinfo=UTC)
HTML = '<img src=x onerror="alert(1)">'
"""What must be shown as it is."""


def digest(number: int) -> str:
    return f"{number:02x}" * 32


def reference(number: int) -> dict[str, str]:
    return {"name": f"spring-ct-{number}", "digest": digest(number)}


def named(body: Object, name: str, **metadata: Any) -> Object:
    body["metadata"] = {**body["metadata"], "name": name, **metadata}
    return body


def models() -> list[Object]:
    """A start model, two of a campaign, and a branch from the first of these."""
    chain = [model_object("base", digest(0))]
    for number in (1, 2):
        parent = reference(number - 1) if number > 1 else {"name": "base", "digest": digest(0)}
        made = model_object(f"spring-ct-{number}", digest(number), parent)
        made["spec"]["metrics"] = {"loss_before": 1.5 / number, "loss_after": 0.9 / number}
        chain.append(made)
    return [*chain, model_object("branch", digest(9), reference(1))]


def federation() -> Object:
    rounds = [
        {"name": f"spring-ct-{number}", "phase": "Complete", "globalModel": reference(number)} for number in (1, 2)
    ]
    base = round_object()
    stages = [{"name": "ct", "rounds": 2}, {"name": "mri", "rounds": 3}]
    return {
        "apiVersion": "umim.dev/v1alpha1",
        "kind": "Federation",
        "metadata": {"name": "spring", "namespace": "federation", "creationTimestamp": "2026-11-24T11:00:00Z"},
        "spec": {
            "model": base["spec"]["model"],
            "stages": [{**stage, "participants": base["spec"]["participants"]} for stage in stages],
        },
        "status": {
            "phase": "Running",
            "reason": "StageRunning",
            "stage": "2/2",
            "currentRound": "demo-1",
            "startTime": "2026-11-24T11:00:00Z",
            "lineage": [{"name": "gone", "digest": digest(77)}, reference(1), reference(2)],
            "globalModel": reference(2),
            "conditions": [condition("Complete", "False", "Stage mri, round 1 of 3.")],
            "stages": [
                {"name": "ct", "phase": "Complete", "rounds": rounds},
                {"name": "mri", "phase": "Running", "rounds": [{"name": "demo-1", "phase": "Training"}]},
            ],
        },
    }


def rounds() -> list[Object]:
    """One that trains, with sites in every kind of trouble; one that is complete; one that failed."""
    training = round_object(startTime="2026-11-24T12:00:30Z")
    training["status"]["sites"] += [site("c", "archive", "Backoff"), site("d", "eye", "Refused")]
    training["metadata"]["labels"] = {"umim.dev/federation": "spring"}
    complete = round_object(
        phase="Complete",
        reason="Published",
        progress="100%",
        globalModel=reference(2),
        startTime="2026-11-24T11:50:00Z",
        completionTime="2026-11-24T11:55:00Z",
        conditions=[condition("Complete", "True", "Published GlobalModel spring-ct-2 from 2 updates.")],
        sites=[site("a", "neuro", "Succeeded"), site("b", "thorax", "Succeeded")],
        aggregation={"phase": "Succeeded", "attempt": 1},
    )
    failed = round_object(
        phase="Failed",
        reason="QuorumNotReached",
        completionTime="2026-11-24T12:05:00Z",
        conditions=[condition("Failed", "True", f"1 of 2 updates came; quorum is 2. {HTML}")],
    )
    return [training, named(complete, "spring-ct-2", uid="u-2"), named(failed, "trial-7", uid="u-7")]


def hospitals() -> list[Object]:
    windows = [{"days": ["Mon", "Tue", "Wed", "Thu", "Fri"], "opens": "20:00", "closes": "06:00"}]
    floor = {"minNoiseMultiplier": 1.0, "epsilonBudget": 8}
    return [
        hospital_object("a", "neuro", timeWindows=windows, maxResources={"nvidia.com/gpu": "1"}),
        hospital_object("b", "thorax", privacy={"allowedArtifacts": ["update"], "differentialPrivacy": floor}),
    ]


def filled() -> Cache:
    cache = Cache()
    cache.replace("federationrounds", rounds())
    cache.replace("federations", [federation()])
    cache.replace("globalmodels", models())
    cache.replace("hospitals", hospitals())
    return cache


def snapshot() -> Snapshot:
    return filled().snapshot()
