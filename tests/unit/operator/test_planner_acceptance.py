"""When a round is accepted, refused, or started anew."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.unit.operator import make
from tests.unit.operator.make import A, B, C
from umim.api.round import FederationRoundStatus


def test_a_well_formed_round_is_accepted_with_its_sites_sorted() -> None:
    next_ = make.step(make.spec(sites=(C, A, B)), None, make.observed())
    assert [site.name for site in next_.status.sites] == [A, B, C]
    assert make.condition(next_.status, "Accepted").status == "True"
    assert {item.type: item.status for item in next_.status.conditions} == {
        "Accepted": "True",
        "TrainingFinished": "False",
        "QuorumReached": "False",
        "Aggregated": "False",
        "Complete": "False",
        "Failed": "False",
    }
    assert next_.status.observed_generation == 1
    assert next_.status.sites_summary == "0/2/3"


def test_acceptance_is_on_record_before_any_job_is_launched() -> None:
    next_ = make.step(make.spec(), None, make.observed())
    assert next_.launches == ()
    assert next_.look_again == timedelta(0)
    assert make.launched(make.step(make.spec(), next_.status, make.observed())) == [(A, 1), (B, 1), (C, 1)]


def test_a_spec_that_cannot_be_parsed_fails_the_round_with_the_field() -> None:
    next_ = make.step(None, None, make.observed(), spec_error="spec.deadline: Field required")
    assert make.condition(next_.status, "Accepted").reason == "InvalidSpec"
    assert make.condition(next_.status, "Failed").message == "spec.deadline: Field required"
    assert next_.status.phase == "Failed"
    assert next_.look_again == timedelta(0), "the next look knows when its time is over"


def test_an_unknown_strategy_fails_the_round_and_says_what_is_allowed() -> None:
    next_ = make.step(make.spec(aggregation={"strategy": "fedmagic"}), None, make.observed())
    accepted = make.condition(next_.status, "Accepted")
    assert (accepted.status, accepted.reason) == ("False", "UnknownStrategy")
    assert "spec.aggregation.strategy: 'fedmagic'" in accepted.message
    assert "allowed: centered-clipping, fedadagrad" in accepted.message
    assert next_.status.phase == "Failed"


def test_a_quorum_too_small_for_the_strategy_fails_the_round() -> None:
    next_ = make.step(make.spec(aggregation={"strategy": "krum"}), None, make.observed())
    accepted = make.condition(next_.status, "Accepted")
    assert (accepted.status, accepted.reason) == ("False", "InvalidSpec")
    assert accepted.message.startswith("spec.participants.quorum: 2 is too small: strategy krum")
    assert next_.status.phase == "Failed"


def test_an_option_that_the_strategy_does_not_take_fails_the_round() -> None:
    next_ = make.step(make.spec(aggregation={"options": {"beta": 1.0}}), None, make.observed())
    assert "spec.aggregation.options.beta" in make.condition(next_.status, "Accepted").message


@pytest.mark.parametrize(
    ("distillation", "message"),
    [
        ({"strategy": "osmosis"}, "spec.distillation.strategy: 'osmosis' is unknown; allowed: features"),
        ({"options": {"heat": 1.0}}, "spec.distillation.options.heat: features takes no such option"),
    ],
)
def test_an_unknown_distillation_fails_the_round(distillation: dict[str, Any], message: str) -> None:
    round_ = make.spec(server_dataset={"claimName": "pool", "format": "npz"}, distillation=distillation)
    accepted = make.condition(make.step(round_, None, make.observed()).status, "Accepted")
    assert accepted.reason == "UnknownStrategy"
    assert message in accepted.message


@pytest.mark.parametrize(
    "field", ["resources", "aggregation.resources", "pretraining.resources", "distillation.resources"]
)
def test_a_request_above_its_limit_fails_the_round_with_the_field(field: str) -> None:
    resources = {"requests": {"cpu": "4"}, "limits": {"cpu": "2"}}
    if field == "resources":
        round_ = make.spec(resources=resources)
    else:
        dataset = {"claimName": "pool", "format": "npz"}
        round_ = make.init_spec(server_dataset=dataset, **{field.split(".", maxsplit=1)[0]: {"resources": resources}})
    accepted = make.condition(make.step(round_, None, make.observed()).status, "Accepted")
    assert accepted.reason == "InvalidSpec"
    assert accepted.message.startswith(f"spec.{field}.requests.cpu is 4, but limits.cpu is 2")


def test_a_missing_parent_is_waited_for() -> None:
    next_ = make.step(make.spec(), None, make.observed(parent=None))
    accepted = make.condition(next_.status, "Accepted")
    assert (accepted.status, accepted.reason) == ("False", "ParentNotFound")
    assert "spec.model.parent.globalModel: there is no GlobalModel base" in accepted.message
    assert (next_.status.phase, next_.status.reason) == ("Pending", "ParentNotFound")
    assert next_.look_again == timedelta(seconds=30)
    assert next_.status.completion_time is None


def test_a_round_starts_when_its_missing_parent_appears() -> None:
    waiting = make.step(make.spec(), None, make.observed(parent=None)).status
    next_ = make.step(make.spec(), waiting, make.observed(), 60 * make.SECOND)
    assert make.condition(next_.status, "Accepted").status == "True"
    assert next_.status.parent is not None
    assert next_.status.parent.digest == make.PARENT


def test_the_parent_is_fixed_by_digest_when_the_round_is_accepted() -> None:
    round_ = make.spec(suspend=True)
    status = make.accepted(round_)
    suspended = make.step(round_, status, make.observed(parent=None)).status
    resumed = make.step(make.spec(), suspended, make.observed(parent=make.parent_model(digest="c" * 64)))
    assert resumed.status.parent is not None
    assert resumed.status.parent.digest == make.PARENT
    assert make.launched(resumed) == [(A, 1), (B, 1), (C, 1)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "vit_small_patch16_224"}, "spec.model.architecture is vit_tiny_patch16_224"),
        ({"image_size": 128}, "spec.model.imageSize is 64"),
    ],
)
def test_a_parent_of_another_form_fails_the_round(change: dict[str, Any], words: str) -> None:
    next_ = make.step(make.spec(), None, make.observed(parent=make.parent_model(**change)))
    accepted = make.condition(next_.status, "Accepted")
    assert accepted.reason == "ParentIncompatible"
    assert words in accepted.message
    assert next_.status.phase == "Failed"


def selecting(quorum: int) -> dict[str, Any]:
    return {"participants": {"hospitals": None, "selector": {"matchLabels": {"kind": "mr"}}, "quorum": quorum}}


def test_a_selector_takes_the_consenting_hospitals_that_match() -> None:
    seen = make.hospitals() | {B: make.hospital(B, federations=["another"])}
    next_ = make.step(make.spec(**selecting(2)), None, make.observed(hospitals=seen))
    assert [site.name for site in next_.status.sites] == [A, C]


def test_a_selector_with_fewer_consenting_hospitals_than_the_quorum_waits() -> None:
    seen = make.hospitals() | {B: make.hospital(B, federations=["another"])}
    next_ = make.step(make.spec(**selecting(3)), None, make.observed(hospitals=seen))
    accepted = make.condition(next_.status, "Accepted")
    assert accepted.reason == "TooFewHospitals"
    assert "(kind=mr) matches 2 consenting hospitals" in accepted.message
    assert next_.status.phase == "Pending"
    later = make.step(make.spec(**selecting(3)), next_.status, make.observed())
    assert len(later.status.sites) == 3


def test_a_selector_is_evaluated_once() -> None:
    round_ = make.spec(**selecting(2))
    status = make.accepted(round_, make.observed(hospitals=make.hospitals((A, B))))
    next_ = make.step(round_, status, make.observed())
    assert [site.name for site in next_.status.sites] == [A, B]


def failed_before_acceptance() -> FederationRoundStatus:
    return make.step(make.spec(aggregation={"strategy": "fedmagic"}), None, make.observed()).status


def test_a_round_that_was_not_accepted_starts_anew_when_its_spec_is_edited() -> None:
    next_ = make.step(make.spec(), failed_before_acceptance(), make.observed(), generation=2)
    assert make.condition(next_.status, "Accepted").status == "True"
    assert make.condition(next_.status, "Failed").status == "False"
    assert next_.status.completion_time is None
    assert next_.status.observed_generation == 2


def test_a_round_that_was_not_accepted_stays_failed_without_an_edit() -> None:
    status = failed_before_acceptance()
    assert make.step(make.spec(), status, make.observed()).status == status


def test_a_round_that_failed_after_acceptance_does_not_start_anew() -> None:
    round_ = make.spec(retries=0)
    status, seen = make.training(round_)
    failed = make.step(round_, status, make.ended(seen, failed=(A, B, C))).status
    assert failed.phase == "Failed"
    next_ = make.step(make.spec(retries=0, suspend=True), failed, seen, generation=2)
    assert next_.status == failed.model_copy(update={"observed_generation": 2})
    assert (next_.launches, next_.stops, next_.events) == ((), (), ())


def test_an_accepted_round_whose_spec_no_longer_parses_fails_and_stops_its_jobs() -> None:
    status, seen = make.training(make.spec())
    next_ = make.step(None, status, seen, spec_error="spec.model: bad")
    assert next_.status.phase == "Failed"
    assert len(next_.stops) == 3
    assert {site.phase for site in next_.status.sites} == {"Failed"}


def test_a_quorum_above_the_number_of_hospitals_fails_at_once() -> None:
    round_ = make.spec(sites=(A,), participants={"hospitals": [make.reference(A).to_dict()], "quorum": 2})
    status = make.accepted(round_, make.observed())
    next_ = make.step(round_, status, replace(make.observed(), hospitals=make.hospitals((A,))))
    assert next_.status.reason == "QuorumNotReached"
