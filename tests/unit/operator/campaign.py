"""Federations and their rounds for tests of the campaign's planner."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from tests.unit.operator import make
from umim.api.base import Condition, ModelReference
from umim.api.federation import FederationSpec, FederationStatus
from umim.api.globalmodel import GlobalModelSpec
from umim.api.round import FederationRoundStatus
from umim_operator.conditions import find
from umim_operator.federations.planner import plan
from umim_operator.federations.state import FederationObserved, FederationPlan, FederationView, RoundSeen

UID = "5b1f1c1e-0000-4000-8000-000000000002"
BASE = ModelReference(name="base", digest="0" * 64)


def stage(name: str, rounds: int = 1, **changes: Any) -> dict[str, Any]:
    """A stage of one hospital."""
    hospitals = [{"namespace": f"hospital-{name}", "name": "radiology"}]
    return {"name": name, "participants": {"hospitals": hospitals}, "rounds": rounds, **changes}


def spec(**changes: Any) -> FederationSpec:
    """A campaign of the stages ct (one round), mri (two rounds) and us (one round)."""
    body: dict[str, Any] = {
        "model": {"architecture": "test_vit", "imageSize": 32, "parent": {"globalModel": "base"}},
        "training": {"seed": 10},
        "stages": [stage("ct"), stage("mri", 2), stage("us")],
    }
    return FederationSpec.model_validate({**body, **changes})


def view(spec_: FederationSpec | None, status: FederationStatus | None = None, **changes: Any) -> FederationView:
    base = FederationView(make.FEDERATION, "fed", UID, 1, status or FederationStatus(), spec_)
    return replace(base, **changes)


def model_of(name: str) -> ModelReference:
    """The model that the round of this name publishes."""
    return ModelReference(name=f"{name}-model", digest=make.update_digest(name, 0))


def model(**metrics: float) -> GlobalModelSpec:
    return make.parent_model(metrics=metrics)


def condition(type_: str, status: str, reason: str, message: str = "Because.") -> Condition:
    fields = {"type": type_, "status": status, "reason": reason, "message": message}
    return Condition.model_validate({**fields, "lastTransitionTime": make.NOW, "observedGeneration": 1})


def running(**changes: Any) -> RoundSeen:
    """A round that trains."""
    return replace(RoundSeen(True, False, FederationRoundStatus(phase="Training", parent=BASE)), **changes)


def complete(name: str, parent: ModelReference = BASE) -> RoundSeen:
    """A round that has published its model."""
    conditions = [condition("Complete", "True", "Published")]
    status = FederationRoundStatus(phase="Complete", parent=parent, global_model=model_of(name), conditions=conditions)
    return RoundSeen(True, False, status)


def failed(message: str = "1 updates, the quorum is 2.") -> RoundSeen:
    """A round that failed."""
    conditions = [condition("Failed", "True", "QuorumNotReached", message)]
    return RoundSeen(True, False, FederationRoundStatus(phase="Failed", parent=BASE, conditions=conditions))


def step(
    spec_: FederationSpec | None,
    status: FederationStatus | None,
    seen: RoundSeen | None = None,
    published: GlobalModelSpec | None = None,
    after: timedelta = timedelta(0),
) -> FederationPlan:
    """Plan once; check that the status is one that the API server takes."""
    next_ = plan(view(spec_, status), FederationObserved(seen, published), make.NOW + after)
    FederationStatus.model_validate(next_.status.to_dict())
    return next_


def after_rounds(spec_: FederationSpec, *losses: float | None) -> FederationStatus:
    """The status when as many rounds have completed, each with this loss, and what follows was started."""
    status = step(spec_, None).status
    for loss in losses:
        name = status.current_round
        assert name is not None
        published = model() if loss is None else model(server_mim_loss=loss)
        status = step(spec_, status, complete(name), published).status
    return status


def why(status: FederationStatus, type_: str) -> Condition:
    found = find(status.conditions, type_)
    assert found is not None
    return found


def phases(status: FederationStatus) -> list[str]:
    return [item.phase for item in status.stages]
