"""The hospital's own policy against what an operator sends, as if it lied."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic.alias_generators import to_camel

from umim.api.base import ModelReference
from umim.api.hospital import HospitalSpec, PrivacySpec
from umim.api.jobs import HospitalPolicy, SiteJobConfig
from umim.api.round import TrainingSpec
from umim.errors import PERMANENT_EXIT_CODES, PolicyError, WindowClosedError
from umim.rounds.configs import dataset_location
from umim.rounds.policy import AS_STRICT, check_open, check_policy


def policy(**changes: Any) -> HospitalPolicy:
    spec = {
        "federations": ["federation"],
        "data": {"claimName": "images", "path": "ct", "format": "npz", "taskName": "ct"},
        "workClaimName": "work",
        **changes,
    }
    return HospitalPolicy(namespace="hospital-a", name="radiology", spec=HospitalSpec.model_validate(spec))


def config(own: HospitalPolicy, **changes: Any) -> SiteJobConfig:
    """What an honest operator sends, with some fields changed."""
    fields: dict[str, Any] = {
        "round_namespace": "federation",
        "round_name": "r",
        "round_uid": "u",
        "attempt": 1,
        "architecture": "vit_tiny_patch16_224",
        "image_size": 64,
        "site": "hospital-a.radiology",
        "parent": ModelReference(name="base", digest="0" * 64),
        "training": TrainingSpec(),
        "data": dataset_location(own.spec.data),
        "work_path": "/work",
        "privacy": own.spec.privacy,
    }
    return SiteJobConfig(**(fields | changes))


STRICT = policy(
    architectures=["vit_tiny_patch16_224"],
    maxEpochs=3,
    maxResources={"nvidia.com/gpu": "1"},
    privacy={"allowedArtifacts": ["update"], "clipNorm": 1.0, "noiseMultiplier": 0.5, "minPatients": 20},
)
"""A hospital with every limit."""
LOCATION = dataset_location(STRICT.spec.data)

LIES: dict[str, tuple[dict[str, Any], str]] = {
    "another site": ({"site": "hospital-b.x"}, "site is hospital-b.x, the hospital's policy has hospital-a.radiology"),
    "another federation": (
        {"round_namespace": "strangers"},
        "spec.federations does not list strangers. It lists: federation.",
    ),
    "another architecture": (
        {"architecture": "swin"},
        "spec.model.architecture is swin, the hospital's spec.architectures allows vit_tiny_patch16_224.",
    ),
    "more epochs": ({"training": TrainingSpec(epochs=4)}, "asks for 4 epochs"),
    "more epochs by warm-up": ({"training": TrainingSpec(epochs=2, head_warmup_epochs=2)}, "spec.maxEpochs allows 3."),
    "another folder": ({"data": LOCATION.model_copy(update={"path": "/data/mr"})}, "data is {'path': '/data/mr'"),
    "another task name": ({"data": LOCATION.model_copy(update={"task_name": "x"})}, "'taskName': 'x'"),
    "another work folder": ({"work_path": "/tmp"}, "workPath is /tmp, the hospital's policy has /work"),
    "no clipping": (
        {"privacy": PrivacySpec(allowed_artifacts=["update"], min_patients=20)},
        "privacy.clipNorm is None, the hospital's policy has 1.0",
    ),
    "less clipping": (
        {"privacy": STRICT.spec.privacy.model_copy(update={"clip_norm": 1.5})},
        "privacy.clipNorm is 1.5",
    ),
    "less noise": (
        {"privacy": STRICT.spec.privacy.model_copy(update={"noise_multiplier": 0.4})},
        "privacy.noiseMultiplier is 0.4, the hospital's policy has 0.5",
    ),
    "fewer patients": (
        {"privacy": STRICT.spec.privacy.model_copy(update={"min_patients": 1})},
        "privacy.minPatients is 1, the hospital's policy has 20",
    ),
    "more artifacts": (
        {"privacy": STRICT.spec.privacy.model_copy(update={"allowed_artifacts": ["update", "head"]})},
        "privacy.allowedArtifacts is ['update', 'head'], the hospital's policy has ['update']",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_is_looser_than_the_policy_is_refused_with_field_value_and_what_is_allowed(lie: str) -> None:
    changes, message = LIES[lie]
    with pytest.raises(PolicyError) as caught:
        check_policy(config(STRICT, **changes), STRICT, gpus=1)
    assert message in str(caught.value)
    assert caught.value.exit_code in PERMANENT_EXIT_CODES


def test_what_an_honest_operator_sends_passes() -> None:
    check_policy(config(STRICT, training=TrainingSpec(epochs=3)), STRICT, gpus=1)
    check_policy(config(policy()), policy(), gpus=8)


def test_more_gpus_than_allowed_are_refused() -> None:
    with pytest.raises(
        PolicyError, match=r"sees 2 GPUs, the hospital's policy allows 1 in maxResources\[nvidia.com/gpu"
    ):
        check_policy(config(STRICT), STRICT, gpus=2)
    none = policy(maxResources={"nvidia.com/gpu": "0"})
    with pytest.raises(PolicyError, match="sees 1 GPUs"):
        check_policy(config(none), none, gpus=1)


def test_the_operator_may_be_stricter() -> None:
    stricter = PrivacySpec(allowed_artifacts=["update"], clip_norm=0.5, noise_multiplier=1.0, min_patients=50)
    check_policy(config(STRICT, privacy=stricter), STRICT, gpus=0)
    check_policy(config(policy(), privacy=stricter), policy(), gpus=0)


def test_a_hospital_that_lets_no_update_out_is_refused_although_the_operator_says_otherwise() -> None:
    closed = policy(privacy={"allowedArtifacts": ["metrics"]})
    with pytest.raises(PolicyError, match="allowedArtifacts does not list update"):
        check_policy(config(closed, privacy=PrivacySpec()), closed, gpus=0)


def test_a_field_of_the_privacy_floor_without_an_order_must_be_equal() -> None:
    assert set(AS_STRICT) <= set(PrivacySpec.model_fields)
    assert {to_camel(name) for name in AS_STRICT} >= {"allowedArtifacts", "clipNorm", "noiseMultiplier", "minPatients"}


floors = st.builds(
    PrivacySpec,
    allowed_artifacts=st.sampled_from([["update"], ["update", "metrics"], ["update", "metrics", "head"]]),
    clip_norm=st.none() | st.floats(0.01, 100),
    noise_multiplier=st.floats(0, 100),
    min_patients=st.integers(1, 100),
)


@given(floors, floors)
def test_as_strict_as_is_an_order(one: PrivacySpec, other: PrivacySpec) -> None:
    for name, as_strict in AS_STRICT.items():
        first, second = getattr(one, name), getattr(other, name)
        assert as_strict(first, first)
        if as_strict(first, second) and as_strict(second, first):
            assert first == second or set(first) == set(second)


def test_outside_its_time_window_a_job_may_not_run() -> None:
    night = policy(timeWindows=[{"opens": "20:00", "closes": "06:00"}])
    check_open(night, datetime(2026, 3, 2, 23, tzinfo=UTC))
    check_open(policy(), datetime(2026, 3, 2, 12, tzinfo=UTC))
    with pytest.raises(WindowClosedError, match="closed until 2026-03-02T20:00:00Z") as caught:
        check_open(night, datetime(2026, 3, 2, 12, tzinfo=UTC))
    assert caught.value.exit_code not in PERMANENT_EXIT_CODES
