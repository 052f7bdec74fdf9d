"""From a snapshot of a campaign to its next step. Pure; reads no clock, environment or network.

Level-triggered, as the planner of rounds: everything follows from the Federation, its status and its newest round.
The status is the record: how many rounds have started decides which one is next, see ``umim.rounds.campaign``.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from umim.api.federation import StageRound
from umim.rounds.campaign import CampaignRound, campaign_rounds, no_longer_better, round_spec
from umim_operator.acceptance import static_rejection
from umim_operator.conditions import Reason, find, is_true
from umim_operator.federations.draft import FederationDraft
from umim_operator.federations.state import FederationObserved, FederationPlan, FederationView, RoundCreation, RoundSeen

REFUSED_WAIT = timedelta(seconds=30)
"""After the API server refused to create a round."""
TAKEN_WAIT = timedelta(seconds=5)
"""While another round has the name of the next one, which may be on its way out."""
STOP_METRIC = "server_mim_loss"


def plan(view: FederationView, seen: FederationObserved, now: datetime) -> FederationPlan:
    """Return the next step and the next status of a campaign."""
    draft = FederationDraft(view, seen, now.replace(microsecond=0))
    if view.status.completion_time is None:
        _advance(draft)
    draft.set(observed_generation=view.generation)
    return draft.finish()


def refused(planned: FederationPlan, view: FederationView, message: str, now: datetime) -> FederationPlan:
    """Return what becomes of a plan whose round the API server refused to create: it is tried again."""
    draft = FederationDraft(view, FederationObserved(), now.replace(microsecond=0))
    draft.status = planned.status
    draft.reject(Reason.ROUND_REFUSED, f"FederationRound {planned.status.current_round} cannot be created. {message}")
    draft.wait(REFUSED_WAIT)
    return draft.finish()


def _advance(draft: FederationDraft) -> None:
    if draft.view.spec is None:
        draft.reject(Reason.INVALID_SPEC, draft.view.spec_error)
        return
    rounds = campaign_rounds(draft.view.name, draft.spec)
    draft.update_stages()
    current = rounds[draft.started - 1] if draft.started else None
    if current is not None:
        _take_over(draft, current)
    if _end(draft, rounds, current):
        return
    accepted = _accept(draft)
    _suspend(draft)
    if current is not None and not draft.newest_complete:
        _keep(draft, current)
    elif accepted and not draft.spec.suspend:
        current = rounds[draft.started]
        draft.start(current)
        _create(draft, current)
    _tell(draft, rounds, current)


def _take_over(draft: FederationDraft, current: CampaignRound) -> None:
    """Copy where the newest round stands into the table of stages."""
    seen = draft.seen.round
    if draft.newest_complete or seen is None or not seen.owned:
        return
    update: dict[str, object] = {"phase": seen.status.phase}
    model = seen.status.global_model
    if is_true(seen.status.conditions, "Complete") and model is not None:
        loss = draft.seen.model.metrics.get(STOP_METRIC) if draft.seen.model is not None else None
        update |= {"phase": "Complete", "global_model": model, "server_mim_loss": loss}
        start = [seen.status.parent] if not draft.status.lineage and seen.status.parent is not None else []
        draft.set(global_model=model, lineage=[*draft.status.lineage, *start, model])
    draft.update_newest(current, update)


def _end(draft: FederationDraft, rounds: list[CampaignRound], current: CampaignRound | None) -> bool:
    """End the campaign where it is over. Returns whether it is."""
    if current is None:
        return False
    seen = draft.seen.round
    if seen is not None and seen.owned and is_true(seen.status.conditions, "Failed"):
        draft.fail(Reason.ROUND_FAILED, _failure(draft, current, seen))
        return True
    if not draft.newest_complete:
        return False
    if draft.started == len(rounds):
        message = f"All {len(draft.spec.stages)} stages are complete: {_result(draft)}."
        draft.complete(Reason.ALL_STAGES_COMPLETE, message)
        return True
    rule = draft.spec.stop_early
    if rule is None or not no_longer_better(rule, [one.server_mim_loss for one in draft.rounds]):
        return False
    message = (
        f"{rule.metric} has not become better by more than {rule.min_improvement:g} in {rule.patience} rounds "
        f"(spec.stopEarly): {_result(draft)}. The rest of the campaign is skipped."
    )
    draft.complete(Reason.STOPPED_EARLY, message)
    return True


def _result(draft: FederationDraft) -> str:
    model = draft.status.global_model
    return f"the last model is {model.name}" if model is not None else "there is no model"


def _failure(draft: FederationDraft, current: CampaignRound, seen: RoundSeen) -> str:
    cause = find(seen.status.conditions, "Failed")
    why = f"{cause.reason}: {cause.message}" if cause is not None else "no reason is given"
    stage = draft.spec.stages[current.stage].name
    model = draft.status.global_model
    rest = (
        f"GlobalModel {model.name} of the round before is kept: to go on, create a new Federation with "
        f"model.parent.globalModel {model.name} and the stages from {stage} on."
        if model is not None
        else "No round before it made a model: mend the cause and create a new Federation."
    )
    return f"FederationRound {current.name} of stage {stage} failed with {why.rstrip('.')}. {rest}"


def _accept(draft: FederationDraft) -> bool:
    """Check the stages that have not started and the name of the newest round. Returns whether a round may start."""
    seen = None if draft.newest_complete else draft.seen.round
    if seen is not None and not seen.owned:
        draft.reject(
            Reason.ROUND_NAME_TAKEN,
            f"There is a FederationRound {draft.status.current_round} that is not of this Federation: delete it, and "
            "the campaign goes on.",
        )
        draft.wait(TAKEN_WAIT)
        return False
    before = find(draft.status.conditions, "Accepted")
    pending = draft.started > 0 and not draft.newest_complete
    if before is not None and before.reason == Reason.ROUND_REFUSED and pending and seen is None:
        draft.wait(REFUSED_WAIT)
        return False
    for index, stage in enumerate(draft.spec.stages[draft.status.frozen_stages :], draft.status.frozen_stages):
        rejected = static_rejection(round_spec(draft.spec, CampaignRound(0, "", index), "any"))
        if rejected is not None:
            where = f"Stage {stage.name} (spec.stages[{index}] with the federation's settings)"
            why = rejected.message.rstrip(".")
            draft.reject(rejected.reason, f"{where}: {why}. No round starts until this is mended.")
            return False
    draft.condition("Accepted", True, Reason.ACCEPTED, "All stages are well formed.")
    return True


def _suspend(draft: FederationDraft) -> None:
    if draft.spec.suspend:
        draft.condition("Suspended", True, Reason.SUSPENDED, "spec.suspend is true: no round of the campaign runs.")
        return
    before = find(draft.status.conditions, "Suspended")
    if before is None:
        draft.condition("Suspended", False, Reason.NOT_SUSPENDED, "It was not asked for.")
    elif before.status == "True":
        draft.condition("Suspended", False, Reason.RESUMED, "The campaign goes on.")


def _keep(draft: FederationDraft, current: CampaignRound) -> None:
    """Make sure that the newest round exists and is suspended as the campaign is."""
    seen = draft.seen.round
    if seen is None:
        draft.update_newest(current, {"phase": "Pending"})
        if not draft.spec.suspend:
            _create(draft, current)
    elif seen.owned and not seen.deleting and seen.suspended != draft.spec.suspend:
        draft.suspend_round = draft.spec.suspend


def _create(draft: FederationDraft, current: CampaignRound) -> None:
    parent = draft.status.global_model
    spec = round_spec(draft.spec, current, parent.name if parent is not None else None)
    draft.create = RoundCreation(current.name, draft.spec.stages[current.stage].name, spec)


def _tell(draft: FederationDraft, rounds: list[CampaignRound], current: CampaignRound | None) -> None:
    """Say where the campaign stands: phase, and why it is neither complete nor failed."""
    accepted = find(draft.status.conditions, "Accepted")
    reason = str(Reason.SUSPENDED if draft.spec.suspend else Reason.STAGE_RUNNING)
    if accepted is not None and accepted.status == "False":
        reason = accepted.reason
    phase = "Suspended" if draft.spec.suspend else "Running" if draft.started else "Pending"
    draft.set(phase=phase, reason=reason)
    message = "No round has started yet." if current is None else _where(draft, rounds, current)
    draft.condition("Complete", False, Reason.NOT_FINISHED, message)
    draft.condition("Failed", False, Reason.NOT_FAILED, "Nothing has failed.")


def _where(draft: FederationDraft, rounds: list[CampaignRound], current: CampaignRound) -> str:
    newest = draft.rounds[-1]
    stage = draft.spec.stages[current.stage]
    parts = [
        f"Stage {current.stage + 1} of {len(draft.spec.stages)}, {stage.name}: FederationRound {newest.name}, "
        f"{current.number + 1} of {len(rounds)} in all, is {newest.phase}.",
        _round_problem(draft.seen.round),
        _unjudged(draft),
    ]
    return " ".join(part for part in parts if part)


def _round_problem(seen: RoundSeen | None) -> str:
    """Return why the round is not accepted, if it is not."""
    found = find(seen.status.conditions, "Accepted") if seen is not None and seen.owned else None
    return found.message if found is not None and found.status == "False" else ""


def _unjudged(draft: FederationDraft) -> str:
    """Say when spec.stopEarly cannot judge, because the newest model has no figure for it."""
    done: list[StageRound] = [one for one in draft.rounds if one.global_model is not None]
    if draft.spec.stop_early is None or not done or done[-1].server_mim_loss is not None:
        return ""
    model = done[-1].global_model
    name = model.name if model is not None else ""
    return f"spec.stopEarly does not count {name}: its metrics have no {draft.spec.stop_early.metric}."
