"""The CEL rules and ranges, one by one, on the real API server."""

from __future__ import annotations

from typing import Any

import pytest

from hack.testenv.api import ApiError, Object
from hack.testenv.platform import FEDERATION, Platform
from hack.testenv.rounds import Round
from hack.testenv.waiting import wait_until
from tests.integration.conftest import changed, good_hospital, good_model, good_round

ROUND, HOSPITAL = good_round(), good_hospital()
SOME = [{"namespace": "a", "name": "x"}]
POOL = {"claimName": "pool", "format": "imagefolder"}
SERVED = changed(ROUND, "spec.serverDataset", POOL)
MIM = changed(ROUND, "spec.model.parent", {"init": "mim"})

ALLOWED = {
    "a quorum of all hospitals": changed(ROUND, "spec.participants.quorum", 3),
    "a selector instead of hospitals": changed(
        ROUND, "spec.participants", {"selector": {"matchLabels": {"organ": "brain"}}, "quorum": 5}
    ),
    "a random start": changed(ROUND, "spec.model.parent", {"init": "random"}),
    "a mim start with pretraining": changed(
        changed(MIM, "spec.serverDataset", POOL), "spec.pretraining", {"epochs": 1}
    ),
    "distillation with images of the server": changed(SERVED, "spec.distillation", {"epochs": 1}),
    "one scale without images": changed(ROUND, "spec.aggregation", {"scales": [0.5]}),
    "several scales with images of the server": changed(SERVED, "spec.aggregation", {"scales": [0.5, 1.0, 1.5]}),
    "a named task": changed(HOSPITAL, "spec.data.taskName", "chest-pneumonia"),
    "heads that may leave": changed(HOSPITAL, "spec.privacy", {"allowedArtifacts": ["update", "metrics", "head"]}),
    "the shortest deadline": changed(ROUND, "spec.deadline", "10s"),
    "a duration of several units": changed(ROUND, "spec.deadline", "1h30m5s"),
    "no retries": changed(ROUND, "spec.retries", 0),
    "noise with a clip norm": changed(HOSPITAL, "spec.privacy", {"noiseMultiplier": 1.0, "clipNorm": 0.5}),
    "no noise without a clip norm": changed(HOSPITAL, "spec.privacy", {"noiseMultiplier": 0}),
    "a demand of differential privacy": changed(
        HOSPITAL, "spec.privacy", {"differentialPrivacy": {"minNoiseMultiplier": 1, "epsilonBudget": 8}}
    ),
    "differential privacy by its noise": changed(
        ROUND, "spec.training", {"differentialPrivacy": {"noiseMultiplier": 1.1}}
    ),
    "differential privacy by its epsilon": changed(
        ROUND, "spec.training", {"differentialPrivacy": {"targetEpsilon": 3, "delta": 1e-6}}
    ),
}

REFUSED = {
    "quorum above the number of hospitals": (changed(ROUND, "spec.participants.quorum", 4), "participants.quorum must"),
    "neither hospitals nor selector": (changed(ROUND, "spec.participants.hospitals", None), "exactly one of hospitals"),
    "hospitals and a selector": (
        changed(ROUND, "spec.participants.selector", {"matchLabels": {"a": "b"}}),
        "exactly one of hospitals",
    ),
    "the same hospital twice": (
        changed(changed(ROUND, "spec.participants.hospitals", SOME + SOME), "spec.participants.quorum", 1),
        "spec.participants.hospitals[1]: Duplicate value",
    ),
    "neither globalModel nor init": (changed(ROUND, "spec.model.parent", {}), "exactly one of globalModel"),
    "globalModel and init": (
        changed(ROUND, "spec.model.parent", {"globalModel": "a", "init": "random"}),
        "exactly one of globalModel",
    ),
    "a mim start without pretraining": (MIM, "pretraining must be set if and only if"),
    "pretraining without a mim start": (
        changed(SERVED, "spec.pretraining", {"epochs": 1}),
        "pretraining must be set if and only if",
    ),
    "pretraining without images of the server": (
        changed(MIM, "spec.pretraining", {"epochs": 1}),
        "pretraining needs serverDataset",
    ),
    "distillation without images of the server": (
        changed(ROUND, "spec.distillation", {"epochs": 1}),
        "distillation needs serverDataset",
    ),
    "several scales without images of the server": (
        changed(ROUND, "spec.aggregation", {"scales": [0.5, 1.0]}),
        "more than one of aggregation.scales needs serverDataset",
    ),
    "no scale": (changed(ROUND, "spec.aggregation", {"scales": []}), "spec.aggregation.scales"),
    "a scale of zero": (changed(ROUND, "spec.aggregation", {"scales": [0]}), "spec.aggregation.scales"),
    "heads from no list": (changed(ROUND, "spec.training.heads", "public"), "spec.training.heads"),
    "a task name with a dot": (changed(HOSPITAL, "spec.data.taskName", "chest.pneumonia"), "spec.data.taskName"),
    "a deadline below 10 s": (changed(ROUND, "spec.deadline", "9s"), "deadline must be at least 10s"),
    "a deadline of zero": (changed(ROUND, "spec.deadline", "0s"), "deadline must be at least 10s"),
    "an objective from no list": (changed(ROUND, "spec.training.objective", "guess"), "spec.training.objective"),
    "a mask ratio of one": (changed(ROUND, "spec.training.maskRatio", 1), "spec.training.maskRatio"),
    "a learning rate of zero": (changed(ROUND, "spec.training.learningRate", 0), "spec.training.learningRate"),
    "too many retries": (changed(ROUND, "spec.retries", 101), "spec.retries"),
    "an image size that is no multiple of 8": (changed(ROUND, "spec.model.imageSize", 33), "spec.model.imageSize"),
    "a name of 201 characters": (changed(ROUND, "metadata.name", "a" * 201), "metadata.name must have at most 200"),
    "noise without a clip norm": (
        changed(HOSPITAL, "spec.privacy", {"noiseMultiplier": 1.0}),
        "needs privacy.clipNorm",
    ),
    "neither noise nor target of differential privacy": (
        changed(ROUND, "spec.training", {"differentialPrivacy": {}}),
        "exactly one of noiseMultiplier and targetEpsilon",
    ),
    "noise and target of differential privacy": (
        changed(ROUND, "spec.training", {"differentialPrivacy": {"noiseMultiplier": 1, "targetEpsilon": 3}}),
        "exactly one of noiseMultiplier and targetEpsilon",
    ),
    "a warm-up with differential privacy": (
        changed(ROUND, "spec.training", {"differentialPrivacy": {"noiseMultiplier": 1}, "headWarmupEpochs": 1}),
        "headWarmupEpochs must be 0",
    ),
    "a demand of differential privacy without noise": (
        changed(HOSPITAL, "spec.privacy", {"differentialPrivacy": {"epsilonBudget": 8}}),
        "minNoiseMultiplier: Required value",
    ),
    "a delta of one": (
        changed(HOSPITAL, "spec.privacy", {"differentialPrivacy": {"minNoiseMultiplier": 1, "delta": 1}}),
        "spec.privacy.differentialPrivacy.delta",
    ),
    "a hospital name of 64 characters": (
        changed(HOSPITAL, "metadata.name", "a" * 64),
        "metadata.name must have at most 63",
    ),
    "an unknown data format": (changed(HOSPITAL, "spec.data.format", "tiff"), "spec.data.format"),
    "a digest that is no sha256": (changed(good_model(), "spec.digest", "12"), "spec.digest"),
}

CHANGES: dict[str, Any] = {
    "model": {"imageSize": 64},
    "pretraining": {"epochs": 5},
    "serverDataset": {"claimName": "other", "format": "imagefolder"},
    "distillation": {"epochs": 3},
    "participants": {**ROUND["spec"]["participants"], "quorum": 1},
    "training": {"epochs": 7},
    "resources": {"limits": {"memory": "3Gi"}},
    "aggregation": {"strategy": "other"},
    "deadline": "2h",
    "retries": 9,
    "ttlAfterFinished": "1h",
    "queueName": "umim",
}


@pytest.mark.parametrize("what", ALLOWED)
def test_the_api_server_allows(clean: Platform, what: str) -> None:
    assert clean.api.create(ALLOWED[what], dry_run=True)["metadata"]["name"] == "good"


@pytest.mark.parametrize("what", REFUSED)
def test_the_api_server_refuses_and_names_the_field(platform: Platform, what: str) -> None:
    body, sentence = REFUSED[what]
    with pytest.raises(ApiError) as caught:
        platform.api.create(body, dry_run=True)
    assert caught.value.code == 422
    assert sentence in str(caught.value)


@pytest.fixture(scope="module")
def accepted(platform: Platform) -> Round:
    """A suspended round that has been accepted: it uses every field of the spec, its hospitals do not exist."""
    body = good_round("accepted")
    fields = {"model.parent": {"init": "mim"}, "pretraining": {"epochs": 1}, "serverDataset": POOL, "suspend": True}
    for path, value in fields.items():
        body = changed(body, f"spec.{path}", value)
    round_ = Round.create(platform, body)
    round_.wait_phase("Suspended")
    return round_


@pytest.mark.parametrize("field", CHANGES)
def test_a_spec_field_of_an_accepted_round_cannot_change(accepted: Round, field: str) -> None:
    with pytest.raises(ApiError) as caught:
        accepted.set(**{field: CHANGES[field]})
    assert f"spec.{field} cannot change once the round is accepted" in str(caught.value)


def test_a_hospital_of_an_accepted_round_cannot_be_replaced_or_moved(accepted: Round) -> None:
    hospitals = ROUND["spec"]["participants"]["hospitals"]
    for other in ([*hospitals[:2], SOME[0]], hospitals[:2], hospitals[::-1]):
        with pytest.raises(ApiError, match=r"spec\.participants cannot change"):
            accepted.set(participants={"hospitals": other, "quorum": 2})


def test_suspend_of_an_accepted_round_can_change(accepted: Round) -> None:
    for suspend in (False, True):
        accepted.set(suspend=suspend)
        assert accepted.body["spec"]["suspend"] is suspend


def test_every_spec_field_but_suspend_is_covered() -> None:
    from umim.api.round import FederationRoundSpec

    names = {field.alias or name for name, field in FederationRoundSpec.model_fields.items()}
    assert names - {"suspend"} == set(CHANGES)


def test_a_round_that_is_not_accepted_can_be_mended(clean: Platform) -> None:
    round_ = Round.create(clean, changed(good_round(), "spec.aggregation", {"strategy": "guess"}))
    status = round_.wait_phase("Failed")
    assert status["reason"] == "UnknownStrategy"
    round_.set(aggregation={"strategy": "fedavg"})
    wait_until("the next question", lambda: round_.status.get("reason") == "ParentNotFound", 60, round_.dump)
    assert round_.status["phase"] == "Pending"


def test_a_global_model_cannot_change(clean: Platform) -> None:
    model: Object = clean.api.create(good_model())
    name = model["metadata"]["name"]
    with pytest.raises(ApiError, match="a GlobalModel is immutable"):
        clean.api.patch("GlobalModel", FEDERATION, name, {"spec": {"architecture": "other"}})
    with pytest.raises(ApiError, match="a GlobalModel is immutable"):
        clean.api.patch("GlobalModel", FEDERATION, name, {"spec": {"contributors": []}})
    assert clean.api.patch("GlobalModel", FEDERATION, name, {"metadata": {"labels": {"kept": "yes"}}})
