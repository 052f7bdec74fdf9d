"""The Hospital resource is the hospital's consent: refusals, consent given later, consent withdrawn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.operator import make
from tests.unit.operator.make import A, B, C
from umim_operator.state import HospitalView


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        (None, "HospitalNotFound", "There is no Hospital radiology in namespace hospital-a"),
        ({"federations": ["x", "y"]}, "FederationNotAllowed", "does not list federation. It lists: x, y."),
        ({"federations": []}, "FederationNotAllowed", "It lists: none."),
        ({"privacy": {"allowedArtifacts": ["metrics"]}}, "ArtifactNotAllowed", "does not list update"),
        (
            {"data": {"claimName": "i", "format": "npz", "task": "none"}},
            "TaskNotSuitable",
            "objective supervised needs labels",
        ),
        (
            {"architectures": ["swin_tiny", "vit_small"]},
            "ArchitectureNotAllowed",
            "architecture is vit_tiny_patch16_224, the hospital's spec.architectures allows swin_tiny, vit_small.",
        ),
        ({"maxEpochs": 2}, "EpochsExceeded", "asks for 4 epochs (spec.training.epochs and headWarmupEpochs)"),
        (
            {"privacy": {"differentialPrivacy": {"minNoiseMultiplier": 1}}},
            "PrivacyNotSuitable",
            "spec.training.headWarmupEpochs is 1: with differential privacy",
        ),
        ({"maxResources": {"memory": "1Gi"}}, "ResourcesExceeded", "asks for 4Gi of memory"),
        ({"maxResources": {"cpu": "500m"}}, "ResourcesExceeded", "asks for 1 of cpu"),
    ],
)
def test_a_hospital_that_does_not_consent_is_refused_with_a_reason(
    change: dict[str, Any] | None, reason: str, words: str
) -> None:
    there = make.hospitals()
    del there[A]
    if change is not None:
        there[A] = make.hospital(A, **change)
    round_ = make.spec(training={"epochs": 3, "headWarmupEpochs": 1})
    next_ = make.step(round_, make.accepted(round_), make.observed(hospitals=there))
    site = make.site(next_.status, A)
    assert (site.phase, site.reason) == ("Refused", reason)
    assert site.message is not None
    assert words in site.message
    assert make.launched(next_) == [(B, 1), (C, 1)]


def test_an_invalid_hospital_is_refused_with_its_field() -> None:
    invalid = HospitalView(make.reference(A), None, "spec.data: Field required")
    round_ = make.spec()
    seen = make.observed(hospitals=make.hospitals() | {A: invalid})
    site = make.site(make.step(round_, make.accepted(round_), seen).status, A)
    assert site.reason == "HospitalInvalid"
    assert site.message == "The Hospital resource is invalid: spec.data: Field required"


def test_a_round_without_labels_may_train_where_there_are_none() -> None:
    round_ = make.spec(training={"objective": "mim"})
    there = make.hospitals() | {A: make.hospital(A, data={"claimName": "i", "format": "npz", "task": "none"})}
    next_ = make.step(round_, make.accepted(round_), make.observed(hospitals=there))
    assert (A, 1) in make.launched(next_)


def test_a_refusal_with_a_long_list_still_fits_into_the_status() -> None:
    there = make.hospitals() | {A: make.hospital(A, federations=[f"federation-{i:050}" for i in range(64)])}
    round_ = make.spec()
    message = make.site(make.step(round_, make.accepted(round_), make.observed(hospitals=there)).status, A).message
    assert message is not None
    assert len(message) == 1024


def test_a_refused_site_is_launched_when_it_consents_later() -> None:
    round_ = make.spec()
    refusing = make.observed(hospitals=make.hospitals() | {A: make.hospital(A, federations=[])})
    first = make.step(round_, make.accepted(round_), refusing)
    seen = make.observed(jobs=(make.job("site", B), make.job("site", C)))
    next_ = make.step(round_, first.status, seen)
    assert make.launched(next_) == [(A, 1)]
    site = make.site(next_.status, A)
    assert (site.phase, site.message) == ("Running", None)


def test_withdrawn_consent_stops_the_job_of_the_site() -> None:
    status, seen = make.training(make.spec())
    seen = replace(seen, hospitals=make.hospitals((B, C)))
    next_ = make.step(make.spec(), status, seen)
    assert make.stopped(next_) == [make.job("site", A).name]
    assert make.site(next_.status, A).phase == "Refused"
    assert make.site(next_.status, A).failures == 0


def test_consent_that_is_given_again_starts_a_new_attempt() -> None:
    status, seen = make.training(make.spec())
    status = make.step(make.spec(), status, replace(seen, hospitals=make.hospitals((B, C)))).status
    next_ = make.step(make.spec(), status, replace(seen, jobs=seen.jobs[1:]))
    assert make.launched(next_) == [(A, 2)]


def test_a_job_that_could_not_be_stopped_is_taken_back_and_not_doubled() -> None:
    status, seen = make.training(make.spec())
    refused = make.step(make.spec(), status, replace(seen, hospitals=make.hospitals((B, C)))).status
    next_ = make.step(make.spec(), refused, seen)
    assert next_.launches == ()
    assert make.site(next_.status, A).phase == "Running"


def test_a_delivered_update_stays_when_consent_is_withdrawn_afterwards() -> None:
    status, seen = make.training(make.spec())
    seen = replace(make.ended(seen, succeeded=(A,)), updates=make.updates(A))
    status = make.step(make.spec(), status, seen).status
    next_ = make.step(make.spec(), status, replace(seen, hospitals=make.hospitals((B, C))))
    assert make.site(next_.status, A).phase == "Succeeded"


def test_an_update_that_arrives_after_consent_was_withdrawn_is_not_used_unless_consent_returns() -> None:
    status, seen = make.training(make.spec())
    withdrawn = replace(seen, hospitals=make.hospitals((B, C)))
    status = make.step(make.spec(), status, withdrawn).status
    arrived = replace(withdrawn, jobs=seen.jobs[1:], updates=make.updates(A))
    next_ = make.step(make.spec(), status, arrived)
    assert make.site(next_.status, A).phase == "Refused"
    assert next_.ledger == ()
    returned = make.step(make.spec(), next_.status, replace(arrived, hospitals=make.hospitals()))
    assert make.site(returned.status, A).phase == "Succeeded"
    assert returned.launches == ()
