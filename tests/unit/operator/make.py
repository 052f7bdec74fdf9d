"""Rounds, hospitals, Jobs and artifacts for tests of the operator."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from umim import contract
from umim.api.artifacts import JobResult, ModelManifest, TensorsFile, UpdateManifest
from umim.api.base import Condition, HospitalReference
from umim.api.globalmodel import GlobalModelSpec, RoundReference
from umim.api.hospital import DatasetSpec, HospitalSpec
from umim.api.round import FederationRoundSpec, FederationRoundStatus, JobStatus, Progress, SiteStatus
from umim.contract import Role
from umim_operator.planner import plan
from umim_operator.state import HospitalView, JobOutcome, JobView, Observed, Plan, RoundView

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
UID = "8a1f1c1e-0000-4000-8000-000000000001"
FEDERATION = "federation"
PARENT = "a" * 64
MODEL = "b" * 64
A, B, C = "hospital-a.radiology", "hospital-b.ultrasound", "hospital-c.ct"


def reference(site: str) -> HospitalReference:
    namespace, name = site.split(".", 1)
    return HospitalReference(namespace=namespace, name=name)


def spec(sites: Iterable[str] = (A, B, C), **changes: Any) -> FederationRoundSpec:
    """A round of these sites that starts from the GlobalModel ``base`` and has a quorum of 2."""
    body: dict[str, Any] = {
        "model": {"architecture": "vit_tiny_patch16_224", "imageSize": 64, "parent": {"globalModel": "base"}},
        "participants": {"hospitals": [reference(site).to_dict() for site in sites], "quorum": 2},
        "deadline": "30m",
    }
    for key, value in changes.items():
        merge = isinstance(value, dict) and isinstance(body.get(key), dict)
        body[key] = {**body[key], **value} if merge else value
    return FederationRoundSpec.model_validate(body)


def init_spec(**changes: Any) -> FederationRoundSpec:
    """A round that makes its start model itself."""
    model = {"architecture": "vit_tiny_patch16_224", "imageSize": 64, "parent": {"init": "random"}}
    return spec(model=model, **changes)


def view(spec_: FederationRoundSpec | None, status: FederationRoundStatus | None = None, **changes: Any) -> RoundView:
    base = RoundView(
        namespace=FEDERATION,
        name="stage-1",
        uid=UID,
        generation=1,
        status=status or FederationRoundStatus(),
        spec=spec_,
    )
    return replace(base, **changes)


def hospital_spec(**changes: Any) -> HospitalSpec:
    body: dict[str, Any] = {
        "federations": [FEDERATION],
        "data": {"claimName": "images", "format": "npz"},
        "workClaimName": "work",
    }
    return HospitalSpec.model_validate({**body, **changes})


def hospital(site: str, **changes: Any) -> HospitalView:
    return HospitalView(reference(site), hospital_spec(**changes))


def hospitals(sites: Iterable[str] = (A, B, C)) -> dict[str, HospitalView]:
    return {site: hospital(site) for site in sites}


def parent_model(**changes: Any) -> GlobalModelSpec:
    fields: dict[str, Any] = {
        "digest": PARENT,
        "object_key": contract.model_key(PARENT),
        "size_bytes": 10,
        "architecture": "vit_tiny_patch16_224",
        "image_size": 64,
        "strategy": "init-random",
        "round": RoundReference(name="start", uid="u"),
        "created": NOW,
    }
    return GlobalModelSpec(**{**fields, **changes})


def observed(**changes: Any) -> Observed:
    """Three consenting hospitals and the parent model, no Job yet."""
    return replace(Observed(hospitals=hospitals(), parent=parent_model()), **changes)


def job(
    role: Role, site: str = "", attempt: int = 1, outcome: JobOutcome = "active", name: str = "stage-1", **changes: Any
) -> JobView:
    found = JobView(
        name=contract.job_name(role, name, UID, site, attempt),
        namespace=reference(site).namespace if site else FEDERATION,
        role=role,
        site=site,
        attempt=attempt,
        outcome=outcome,
    )
    return replace(found, **changes)


def update_digest(site: str, attempt: int) -> str:
    return hashlib.sha256(f"{site}/{attempt}".encode()).hexdigest()


def update(site: str, attempt: int = 1, **changes: Any) -> UpdateManifest:
    fields: dict[str, Any] = {
        "round_uid": UID,
        "site": site,
        "attempt": attempt,
        "parent_digest": PARENT,
        "architecture": "vit_tiny_patch16_224",
        "image_size": 64,
        "file": TensorsFile(
            key=contract.update_key(UID, site, attempt),
            digest=update_digest(site, attempt),
            size_bytes=1234,
            tensors={},
        ),
        "samples": 100,
        "metrics": {"loss_before": 2.0, "loss_after": 1.0},
        "seed": 0,
        "software": {"umim": "0"},
        "created": NOW,
    }
    return UpdateManifest(**{**fields, **changes})


def updates(*sites: str, attempt: int = 1) -> dict[tuple[str, int], UpdateManifest]:
    return {(site, attempt): update(site, attempt) for site in sites}


def manifest(digest: str = MODEL, strategy: str = "fedavg") -> ModelManifest:
    return ModelManifest(
        architecture="vit_tiny_patch16_224",
        image_size=64,
        strategy=strategy,
        file=TensorsFile(key=contract.model_key(digest), digest=digest, size_bytes=10, tensors={}),
        round_uid=UID,
        seed=0,
        software={},
        created=NOW,
    )


def result(role: Role, digest: str | None = MODEL, **changes: Any) -> dict[str, Any]:
    """The observed result of a server Job and the manifest of its model."""
    models = {digest: manifest(digest)} if digest is not None else {}
    return {"results": {role: JobResult(round_uid=UID, model_digest=digest, **changes)}, "models": models}


def progress(step: int, steps: int = 100) -> Progress:
    return Progress(
        epoch=0, epochs=1, step=step, steps=steps, loss=1.0, images_per_second=10.0, eta_seconds=5.0, time=NOW
    )


def site(status: FederationRoundStatus, name: str) -> SiteStatus:
    (found,) = [item for item in status.sites if item.name == name]
    return found


def with_site(status: FederationRoundStatus, name: str, **changes: Any) -> FederationRoundStatus:
    sites = [item.model_copy(update=changes) if item.name == name else item for item in status.sites]
    return status.model_copy(update={"sites": sites})


def condition(status: FederationRoundStatus, type_: str) -> Condition:
    (found,) = [item for item in status.conditions if item.type == type_]
    return found


def accepted(spec_: FederationRoundSpec, seen: Observed | None = None) -> FederationRoundStatus:
    """The status of a round that has just been accepted."""
    return plan(view(spec_), seen or observed(), NOW).status


def training(spec_: FederationRoundSpec, sites: Iterable[str] = (A, B, C)) -> tuple[FederationRoundStatus, Observed]:
    """The status of a round whose consenting sites have just been launched, and what is there then."""
    seen = observed(hospitals=hospitals(sites))
    status = plan(view(spec_, accepted(spec_, seen)), seen, NOW).status
    running = [item for item in status.sites if item.phase == "Running"]
    return status, replace(seen, jobs=tuple(job("site", item.name) for item in running))


def trained(spec_: FederationRoundSpec, *done: str) -> tuple[FederationRoundStatus, Observed]:
    """The status of a round whose sites have all delivered, with the aggregator just launched."""
    status, seen = training(spec_)
    seen = ended(seen, succeeded=done or (A, B, C))
    seen = replace(seen, updates=updates(*(done or (A, B, C))))
    return plan(view(spec_, status), seen, NOW).status, replace(seen, jobs=(*seen.jobs, job("aggregate")))


def ended(seen: Observed, succeeded: Iterable[str] = (), failed: Iterable[str] = (), **changes: Any) -> Observed:
    """The same with Jobs of these sites ended."""
    outcomes: Mapping[str, JobOutcome] = {
        **dict.fromkeys(succeeded, "succeeded"),
        **dict.fromkeys(failed, "failed"),
    }
    jobs = [
        replace(item, outcome=outcomes[item.site], **(changes if outcomes[item.site] == "failed" else {}))
        if item.site in outcomes
        else item
        for item in seen.jobs
    ]
    return replace(seen, jobs=tuple(jobs))


def step(
    spec_: FederationRoundSpec | None,
    status: FederationRoundStatus | None,
    seen: Observed,
    after: timedelta = timedelta(0),
    **changes: Any,
) -> Plan:
    """Plan once, some time after NOW; check that the status is one that the API server takes."""
    next_ = plan(view(spec_, status, **changes), seen, NOW + after)
    FederationRoundStatus.model_validate(next_.status.to_dict())
    return next_


def launched(next_: Plan) -> list[tuple[str, int]]:
    return [(item.site or item.role, item.attempt) for item in next_.launches]


def stopped(next_: Plan) -> list[str]:
    return [item.name for item in next_.stops]


def server_job(phase: str, **changes: Any) -> JobStatus:
    return JobStatus.model_validate({"phase": phase, **changes})


def dataset() -> DatasetSpec:
    return DatasetSpec(claim_name="images", format="npz")
