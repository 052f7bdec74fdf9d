"""Which differential privacy a site trains with: the stricter of round and hospital."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from umim.api.hospital import PrivacySpec
from umim.api.privacy import DifferentialPrivacyFloor, DifferentialPrivacySpec
from umim.api.round import TrainingSpec
from umim.rounds.privacy import private_terms, unsuited

NOISES, NORMS, DELTAS = st.floats(0.01, 100), st.floats(0.01, 1000), st.floats(1e-12, 0.1)
EPSILONS = st.floats(0.1, 100)
# st.builds would read the camelCase names from the signature.
ASKED = st.tuples(NOISES, NORMS, DELTAS).map(
    lambda drawn: DifferentialPrivacySpec(noise_multiplier=drawn[0], max_grad_norm=drawn[1], delta=drawn[2])
) | st.tuples(EPSILONS, NORMS, DELTAS).map(
    lambda drawn: DifferentialPrivacySpec(target_epsilon=drawn[0], max_grad_norm=drawn[1], delta=drawn[2])
)
FLOORS = st.tuples(NOISES, NORMS, st.none() | EPSILONS, DELTAS).map(
    lambda drawn: DifferentialPrivacyFloor(
        min_noise_multiplier=drawn[0], max_grad_norm=drawn[1], epsilon_budget=drawn[2], delta=drawn[3]
    )
)


def of(asked: DifferentialPrivacySpec | None, **warm_up: int) -> TrainingSpec:
    return TrainingSpec(differential_privacy=asked, **warm_up)


def floored(floor: DifferentialPrivacyFloor | None) -> PrivacySpec:
    return PrivacySpec(differential_privacy=floor)


def test_where_nobody_wants_privacy_there_is_none() -> None:
    assert private_terms(of(None), floored(None)) is None


@given(st.none() | ASKED, FLOORS)
def test_no_round_lowers_what_a_hospital_demands(
    asked: DifferentialPrivacySpec | None, floor: DifferentialPrivacyFloor
) -> None:
    terms = private_terms(of(asked), floored(floor))
    assert terms is not None
    assert terms.least_noise is not None
    assert terms.least_noise >= floor.min_noise_multiplier
    assert terms.max_grad_norm <= floor.max_grad_norm
    assert terms.delta <= floor.delta
    assert (terms.budget, terms.budget_delta) == (floor.epsilon_budget, floor.delta)


@given(ASKED, st.none() | FLOORS)
def test_no_hospital_lowers_what_a_round_asks_for(
    asked: DifferentialPrivacySpec, floor: DifferentialPrivacyFloor | None
) -> None:
    terms = private_terms(of(asked), floored(floor))
    assert terms is not None
    assert terms.target_epsilon == asked.target_epsilon
    assert terms.target_delta == asked.delta
    assert (terms.least_noise or 0) >= (asked.noise_multiplier or 0)
    assert terms.max_grad_norm <= asked.max_grad_norm


def test_a_warm_up_without_noise_is_refused_whoever_wants_privacy() -> None:
    asked, floor = DifferentialPrivacySpec(noise_multiplier=1), DifferentialPrivacyFloor(min_noise_multiplier=1)
    for training, privacy in (
        (of(asked, head_warmup_epochs=2), floored(None)),
        (of(None, head_warmup_epochs=2), floored(floor)),
    ):
        wrong = unsuited(training, privacy)
        assert wrong is not None
        assert "spec.training.headWarmupEpochs is 2" in wrong
        assert "it must be 0" in wrong
    assert unsuited(of(None, head_warmup_epochs=2), floored(None)) is None
    assert unsuited(of(asked), floored(floor)) is None
