"""The hospital's own policy against what an operator sends, as if it lied."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic.alias_generators import to_camel

from umim.api.base import ModelReference
from umim.api.hospital import HospitalSpec, PrivacySpec
from umim.api.jobs import HospitalPolicy, SiteJobConfig
from umim.api.privacy import DifferentialPrivacyFloor, DifferentialPrivacySpec
from umim.api.round import TrainingSpec
from umim.errors import PERMANENT_EXIT_CODES, PolicyError, WindowClosedError
from umim.rounds.configs import dataset_location
from umim.rounds.policy import AS_STRICT, check_open, check_policy
from umim.rounds.privacy import private_terms
from umim.training.accountant import Mechanism, epsilon


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


DEMAND = DifferentialPrivacyFloor(min_noise_multiplier=1.0, epsilon_budget=3.0)
STRICT = policy(
    architectures=["vit_tiny_patch16_224"],
    maxEpochs=3,
    maxResources={"nvidia.com/gpu": "1"},
    privacy={
        "allowedArtifacts": ["update"],
        "clipNorm": 1.0,
        "noiseMultiplier": 0.5,
        "minPatients": 20,
        "differentialPrivacy": DEMAND.to_dict(),
    },
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
        {"privacy": STRICT.spec.privacy.model_copy(update={"clip_norm": None, "noise_multiplier": 0.0})},
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
    "no differential privacy": (
        {"privacy": STRICT.spec.privacy.model_copy(update={"differential_privacy": None})},
        "privacy.differentialPrivacy is None, the hospital's policy has {'minNoiseMultiplier': 1.0",
    ),
    "a larger budget": (
        {
            "privacy": STRICT.spec.privacy.model_copy(
                update={"differential_privacy": DEMAND.model_copy(update={"epsilon_budget": 4.0})}
            )
        },
        "privacy.differentialPrivacy is {'minNoiseMultiplier': 1.0, 'maxGradNorm': 1.0, 'epsilonBudget': 4.0",
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
    more = DifferentialPrivacyFloor(min_noise_multiplier=1.5, max_grad_norm=0.5, epsilon_budget=2.0, delta=1e-6)
    stricter = PrivacySpec(
        allowed_artifacts=["update"], clip_norm=0.5, noise_multiplier=1.0, min_patients=50, differential_privacy=more
    )
    check_policy(config(STRICT, privacy=stricter), STRICT, gpus=0)
    check_policy(config(policy(), privacy=stricter), policy(), gpus=0)


def test_a_hospital_that_lets_no_update_out_is_refused_although_the_operator_says_otherwise() -> None:
    closed = policy(privacy={"allowedArtifacts": ["metrics"]})
    with pytest.raises(PolicyError, match="allowedArtifacts does not list update"):
        check_policy(config(closed, privacy=PrivacySpec()), closed, gpus=0)


def test_every_field_of_the_privacy_floor_has_an_order() -> None:
    assert set(AS_STRICT) <= set(PrivacySpec.model_fields)
    assert {to_camel(name) for name in AS_STRICT} == {to_camel(name) for name in PrivacySpec.model_fields}


demands = st.fixed_dictionaries(
    {
        "min_noise_multiplier": st.floats(0.1, 10),
        "max_grad_norm": st.floats(0.1, 10),
        "epsilon_budget": st.none() | st.floats(0.1, 100),
        "delta": st.floats(1e-8, 1e-3),
    }
).map(lambda fields: DifferentialPrivacyFloor(**fields))
rounds_with_dp = st.none() | st.builds(
    DifferentialPrivacySpec,
    noise_multiplier=st.floats(0.1, 10),
    max_grad_norm=st.floats(0.1, 10),
    delta=st.floats(1e-8, 1e-3),
)
floors = st.builds(
    PrivacySpec,
    differential_privacy=st.none() | demands,
    allowed_artifacts=st.sampled_from([["update"], ["update", "metrics"], ["update", "metrics", "head"]]),
    clip_norm=st.none() | st.floats(0.01, 100),
    noise_multiplier=st.floats(0, 100),
    min_patients=st.integers(1, 100),
)


@given(floors, floors, floors)
def test_as_strict_as_is_an_order(one: PrivacySpec, other: PrivacySpec, third: PrivacySpec) -> None:
    for name, as_strict in AS_STRICT.items():
        first, second, last = (getattr(floor, name) for floor in (one, other, third))
        assert as_strict(first, first)
        if as_strict(first, second) and as_strict(second, first):
            assert first == second or set(first) == set(second)
        if as_strict(first, second) and as_strict(second, last):
            assert as_strict(first, last)


@given(demands)
def test_no_differential_privacy_is_the_least_strict(demand: DifferentialPrivacyFloor) -> None:
    as_strict = AS_STRICT["differential_privacy"]
    assert as_strict(demand, None)
    assert not as_strict(None, demand)
    assert as_strict(None, None)


@given(
    demands,
    st.sampled_from(["min_noise_multiplier", "max_grad_norm", "epsilon_budget", "delta"]),
    st.floats(1.01, 5),
)
def test_differential_privacy_that_is_looser_in_one_field_is_looser(
    own: DifferentialPrivacyFloor, field: str, factor: float
) -> None:
    as_strict, value = AS_STRICT["differential_privacy"], getattr(own, field)
    looser = value / factor if field == "min_noise_multiplier" else value and value * factor
    sent = own.model_copy(update={field: looser})
    assert as_strict(own, sent)
    assert as_strict(sent, own) == (value is None)


@given(demands, demands, rounds_with_dp)
def test_whatever_the_round_says_terms_of_a_stricter_demand_are_no_looser(
    sent: DifferentialPrivacyFloor, own: DifferentialPrivacyFloor, asked: DifferentialPrivacySpec | None
) -> None:
    assume(AS_STRICT["differential_privacy"](sent, own))
    training = TrainingSpec(differential_privacy=asked)
    got, least = (private_terms(training, PrivacySpec(differential_privacy=demand)) for demand in (sent, own))
    assert got is not None
    assert least is not None
    assert (got.least_noise or 0) >= (least.least_noise or 0)
    assert got.max_grad_norm <= least.max_grad_norm
    assert got.delta <= least.delta
    assert (got.budget or math.inf) <= (least.budget or math.inf)
    assert got.budget_delta <= least.budget_delta


@given(demands, st.floats(1.01, 3))
@settings(deadline=None, max_examples=20)
def test_a_smaller_delta_spends_a_budget_sooner(own: DifferentialPrivacyFloor, factor: float) -> None:
    spent = [Mechanism(max(0.5, own.min_noise_multiplier), 0.05, 40)]
    assert epsilon(spent, own.delta / factor) >= epsilon(spent, own.delta)


def test_outside_its_time_window_a_job_may_not_run() -> None:
    night = policy(timeWindows=[{"opens": "20:00", "closes": "06:00"}])
    check_open(night, datetime(2026, 3, 2, 23, tzinfo=UTC))
    check_open(policy(), datetime(2026, 3, 2, 12, tzinfo=UTC))
    with pytest.raises(WindowClosedError, match="closed until 2026-03-02T20:00:00Z") as caught:
        check_open(night, datetime(2026, 3, 2, 12, tzinfo=UTC))
    assert caught.value.exit_code not in PERMANENT_EXIT_CODES
