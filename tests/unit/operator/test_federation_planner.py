"""The planner of campaigns: stages in their order, each round from the model before, and nothing lost at any end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.operator import campaign
from tests.unit.operator.campaign import after_rounds, complete, failed, model_of, phases, running, stage, step, why
from tests.unit.operator.make import NOW
from umim.api.federation import FederationSpec, FederationStatus
from umim_operator.conditions import Reason
from umim_operator.federations.planner import plan, refused
from umim_operator.federations.state import FederationObserved

FIRST, SECOND, THIRD, LAST = "fed-s1-ct-r1", "fed-s2-mri-r1", "fed-s2-mri-r2", "fed-s3-us-r1"
SPEC = campaign.spec()
STOP = campaign.spec(
    serverDataset={"claimName": "pool", "format": "npz"}, stopEarly={"patience": 2, "minImprovement": 0.1}
)


def suspended(spec: FederationSpec = SPEC, to: bool = True) -> FederationSpec:
    return spec.model_copy(update={"suspend": to})


def edited(**changes: Any) -> FederationSpec:
    return campaign.spec(**changes)


def test_a_new_campaign_is_accepted_and_starts_its_first_round_in_one_look() -> None:
    next_ = step(SPEC, None)
    assert next_.create is not None
    assert (next_.create.name, next_.create.stage) == (FIRST, "ct")
    assert next_.create.spec.model.parent.global_model == "base"
    assert (next_.status.current_round, next_.status.stage, next_.status.frozen_stages) == (FIRST, "1/3", 1)
    assert (next_.status.phase, next_.status.reason) == ("Running", "StageRunning")
    assert phases(next_.status) == ["Running", "Pending", "Pending"]
    assert why(next_.status, "Accepted").status == "True"
    assert why(next_.status, "Complete").status == why(next_.status, "Failed").status == "False"
    assert {event.reason for event in next_.events} == {"Accepted", "StageRunning"}


def test_a_round_that_was_recorded_but_not_created_is_created_at_the_next_look() -> None:
    first = step(SPEC, None)
    again = step(SPEC, first.status)
    assert again.create == first.create
    assert again.status == first.status
    assert again.events == ()


def test_a_round_that_somebody_deleted_is_made_again() -> None:
    status = step(SPEC, after_rounds(SPEC), running()).status
    again = step(SPEC, status)
    assert again.create is not None
    assert again.create.name == FIRST


def test_a_round_that_is_being_deleted_is_waited_for() -> None:
    next_ = step(SPEC, after_rounds(SPEC), running(deleting=True))
    assert (next_.create, next_.suspend) == (None, None)


def test_the_table_follows_the_phase_of_the_running_round() -> None:
    next_ = step(SPEC, after_rounds(SPEC), running())
    assert next_.create is None
    assert next_.status.stages[0].rounds[0].phase == "Training"
    assert "is Training" in why(next_.status, "Complete").message
    assert step(SPEC, next_.status, running()).status == next_.status


def test_the_reason_why_a_round_is_not_accepted_shows() -> None:
    seen = running()
    waits = [campaign.condition("Accepted", "False", "ParentNotFound", "There is no GlobalModel base.")]
    seen = replace(seen, status=seen.status.model_copy(update={"phase": "Pending", "conditions": waits}))
    assert "There is no GlobalModel base." in why(step(SPEC, after_rounds(SPEC), seen).status, "Complete").message


def test_the_next_stage_starts_in_the_look_that_sees_the_round_complete() -> None:
    next_ = step(SPEC, after_rounds(SPEC), complete(FIRST), campaign.model(server_mim_loss=0.5))
    assert next_.create is not None
    assert next_.create.name == SECOND
    assert next_.create.spec.model.parent.global_model == model_of(FIRST).name
    assert next_.create.spec.participants.hospitals is not None
    assert [one.namespace for one in next_.create.spec.participants.hospitals] == ["hospital-mri"]
    assert next_.status.lineage == [campaign.BASE, model_of(FIRST)]
    assert next_.status.global_model == model_of(FIRST)
    assert next_.status.stages[0].rounds[0].server_mim_loss == 0.5
    assert phases(next_.status) == ["Complete", "Running", "Pending"]
    assert (next_.status.stage, next_.status.frozen_stages) == ("2/3", 2)


def test_each_round_has_its_own_seed() -> None:
    seeds = []
    status = None
    for name in (FIRST, SECOND, THIRD, LAST):
        next_ = step(SPEC, status) if status is None else step(SPEC, status, complete(str(status.current_round)))
        assert next_.create is not None
        assert next_.create.name == name
        seeds.append(next_.create.spec.training.seed)
        status = next_.status
    assert seeds == [10, 11, 12, 13]


def test_a_stage_is_complete_after_its_last_round_only() -> None:
    status = after_rounds(SPEC, None, None)
    assert phases(status) == ["Complete", "Running", "Pending"]
    assert [one.name for one in status.stages[1].rounds] == [SECOND, THIRD]
    assert phases(after_rounds(SPEC, None, None, None)) == ["Complete", "Complete", "Running"]


def test_the_campaign_is_complete_after_its_last_round() -> None:
    status = after_rounds(SPEC, None, None, None, None)
    assert (status.phase, status.reason) == ("Complete", "AllStagesComplete")
    assert status.completion_time is not None
    assert phases(status) == ["Complete"] * 3
    names = [FIRST, SECOND, THIRD, LAST]
    assert status.lineage == [campaign.BASE, *(model_of(name) for name in names)]
    assert status.global_model == model_of(LAST)
    assert model_of(LAST).name in why(status, "Complete").message
    assert (why(status, "Failed").status, status.frozen_stages) == ("False", 3)


def test_a_campaign_that_has_ended_stays_as_it_is() -> None:
    status = after_rounds(SPEC, None, None, None, None)
    next_ = step(suspended(), status)
    assert (next_.status, next_.create, next_.suspend, next_.events) == (status, None, None, ())


def test_a_failed_round_fails_the_campaign_and_says_how_to_go_on() -> None:
    status = step(SPEC, after_rounds(SPEC, None), failed()).status
    assert (status.phase, status.reason) == ("Failed", "RoundFailed")
    assert phases(status) == ["Complete", "Failed", "Skipped"]
    message = why(status, "Failed").message
    for part in (SECOND, "mri", "QuorumNotReached: 1 updates", f"model.parent.globalModel {model_of(FIRST).name}"):
        assert part in message
    assert status.global_model == model_of(FIRST)
    assert status.stages[1].rounds[0].phase == "Failed"
    assert step(SPEC, status, failed()).create is None


def test_a_failed_first_round_leaves_no_model_to_go_on_from() -> None:
    message = why(step(SPEC, after_rounds(SPEC), failed()).status, "Failed").message
    assert "No round before it made a model" in message


# suspend


def test_suspending_suspends_the_running_round_and_starts_no_other() -> None:
    next_ = step(suspended(), after_rounds(SPEC), running())
    assert next_.suspend is True
    assert next_.status.phase == "Suspended"
    assert why(next_.status, "Suspended").status == "True"
    done = step(suspended(), next_.status, complete(FIRST))
    assert (done.create, done.suspend) == (None, None)
    assert done.status.phase == "Suspended"
    assert done.status.lineage[-1] == model_of(FIRST)
    again = step(SPEC, done.status)
    assert again.create is not None
    assert again.create.name == SECOND
    assert why(again.status, "Suspended").reason == "Resumed"


def test_going_on_continues_the_suspended_round() -> None:
    status = step(suspended(), after_rounds(SPEC), running()).status
    assert step(suspended(), status, running(suspended=True)).suspend is None
    assert step(SPEC, status, running(suspended=True)).suspend is False


def test_a_campaign_that_is_created_suspended_starts_nothing() -> None:
    next_ = step(suspended(), None)
    assert next_.create is None
    assert (next_.status.phase, next_.status.frozen_stages, next_.status.stage) == ("Suspended", 0, "0/3")
    assert why(next_.status, "Accepted").status == "True"


def test_a_recorded_round_is_not_created_while_suspended() -> None:
    status = after_rounds(SPEC)
    assert step(suspended(), status).create is None
    assert step(SPEC, status).create is not None


# edits and refusals


def test_later_stages_may_be_edited_added_removed_and_moved_while_it_runs() -> None:
    stages = [stage("ct"), stage("pet"), stage("mri", 1, training={"epochs": 9})]
    spec = edited(stages=stages)
    status = step(spec, after_rounds(SPEC), running()).status
    assert [item.name for item in status.stages] == ["ct", "pet", "mri"]
    next_ = step(spec, status, complete(FIRST))
    assert next_.create is not None
    assert next_.create.name == "fed-s2-pet-r1"
    last = step(spec, next_.status, complete("fed-s2-pet-r1"))
    assert last.create is not None
    assert last.create.spec.training.epochs == 9


def test_a_stage_added_before_the_last_round_ends_runs_too() -> None:
    spec = edited(stages=[stage("ct")])
    longer = edited(stages=[stage("ct"), stage("mri")])
    next_ = step(longer, after_rounds(spec), complete(FIRST))
    assert next_.create is not None
    assert next_.create.name == SECOND


@pytest.mark.parametrize(
    ("stages", "reason", "says"),
    [
        (
            [stage("ct"), stage("mri", aggregation={"strategy": "guess"})],
            Reason.UNKNOWN_STRATEGY,
            "Stage mri (spec.stages[1]",
        ),
        (
            [stage("ct"), stage("mri", resources={"requests": {"cpu": "2"}, "limits": {"cpu": "1"}})],
            Reason.INVALID_SPEC,
            "must not exceed its limit",
        ),
    ],
)
def test_a_bad_later_stage_is_named_and_nothing_starts_until_it_is_mended(
    stages: list[dict[str, Any]], reason: Reason, says: str
) -> None:
    bad = edited(stages=stages)
    fresh = step(bad, None)
    assert fresh.create is None
    assert (fresh.status.phase, fresh.status.reason) == ("Pending", str(reason))
    assert says in why(fresh.status, "Accepted").message
    status = step(bad, after_rounds(SPEC), running()).status
    assert status.phase == "Running"
    waits = step(bad, status, complete(FIRST))
    assert waits.create is None
    assert waits.status.lineage[-1] == model_of(FIRST)
    assert (why(waits.status, "Accepted").status, waits.status.completion_time) == ("False", None)
    mended = step(SPEC, waits.status)
    assert mended.create is not None
    assert mended.create.name == SECOND
    assert why(mended.status, "Accepted").status == "True"


def test_a_spec_that_cannot_be_read_is_refused_with_the_reason() -> None:
    next_ = plan(campaign.view(None, spec_error="spec.stages: unknown"), FederationObserved(), NOW)
    assert why(next_.status, "Accepted").message == "spec.stages: unknown"
    assert next_.create is None


def test_a_round_that_the_api_server_refuses_is_tried_again_and_the_reason_shows() -> None:
    planned = step(SPEC, None)
    answer = refused(planned, campaign.view(SPEC), "POST: exceeded quota", NOW)
    assert answer.look_again is not None
    assert answer.status.reason == "RoundRefused"
    message = why(answer.status, "Accepted").message
    assert (FIRST in message, "exceeded quota" in message) == (True, True)
    again = step(SPEC, answer.status)
    assert again.create == planned.create
    assert again.look_again == answer.look_again
    assert again.status == answer.status
    assert why(step(SPEC, again.status, running()).status, "Accepted").status == "True"


def test_a_round_of_another_owner_stands_in_the_way_and_is_left_alone() -> None:
    status = after_rounds(SPEC)
    blocked = step(suspended(), status, running(owned=False))
    assert (blocked.create, blocked.suspend) == (None, None)
    assert (blocked.status.reason, blocked.look_again is not None) == ("RoundNameTaken", True)
    assert FIRST in why(blocked.status, "Accepted").message
    other = step(SPEC, blocked.status, replace(failed(), owned=False))
    assert other.status.phase == "Running"
    free = step(SPEC, other.status)
    assert free.create is not None
    started = step(SPEC, free.status, running()).status
    assert why(started, "Accepted").status == "True"


# stopping early


def test_the_campaign_stops_when_the_loss_gets_no_better() -> None:
    status = after_rounds(STOP, 0.9, 0.85, 0.84)
    assert (status.phase, status.reason) == ("Complete", "StoppedEarly")
    assert phases(status) == ["Complete", "Complete", "Skipped"]
    assert "server_mim_loss" in why(status, "Complete").message
    assert status.global_model == model_of(THIRD)


def test_it_stops_in_the_middle_of_a_stage_too() -> None:
    rule = {"patience": 1}
    spec = campaign.spec(serverDataset={"claimName": "pool", "format": "npz"}, stopEarly=rule)
    status = after_rounds(spec, 0.9, 0.95)
    assert phases(status) == ["Complete", "Complete", "Skipped"]
    assert len(status.stages[1].rounds) == 1


def test_it_goes_on_while_the_loss_gets_better() -> None:
    assert after_rounds(STOP, 0.9, 0.85, 0.7).phase == "Running"


def test_without_the_figure_it_never_stops_and_says_so() -> None:
    status = after_rounds(STOP, None, None, None)
    assert status.phase == "Running"
    message = why(status, "Complete").message
    assert f"spec.stopEarly does not count {model_of(THIRD).name}" in message
    assert "server_mim_loss" in message


def test_all_stages_complete_wins_over_stopping_early() -> None:
    assert after_rounds(STOP, 0.9, 0.7, 0.69, 0.68).reason == "AllStagesComplete"


def test_a_status_has_room_for_the_longest_campaign() -> None:
    spec = campaign.spec(stages=[stage(f"s{number}", rounds=10) for number in range(50)])
    status = after_rounds(spec, *[0.5] * 500)
    assert status.phase == "Complete"
    assert len(status.lineage) == 501
    assert len(FederationStatus.model_dump_json(status)) < 500_000
