"""The heart of the operator: from a snapshot to the next actions. Pure; reads no clock, environment or network.

Level-triggered: ``plan`` derives everything from the round, its status and what exists. It may be called at any
moment, any number of times, and after any crash; actions are idempotent and named deterministically.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from umim import contract
from umim.api.base import ModelReference, parse_duration, shortened
from umim.api.round import FederationRoundStatus, JobStatus, SiteStatus
from umim.rounds.configs import aggregate_config, init_config
from umim.rounds.consent import Refusal
from umim.rounds.publication import base_publication, publication, reference
from umim.rounds.sites import judged, with_update
from umim.rounds.windows import closed_text, closes_at, opens_at
from umim_operator import attempts, display
from umim_operator.acceptance import references, rejection
from umim_operator.conditions import Reason, find, is_true, set_condition
from umim_operator.consent import refusal
from umim_operator.draft import LONGEST_CONDITION_MESSAGE, Draft
from umim_operator.ledger import entry
from umim_operator.state import (
    DamagedManifest,
    JobView,
    Observed,
    Plan,
    RoundView,
    Timing,
)

SETTLED = frozenset({"Succeeded", "Failed", "Excluded", "Late"})
ACTIVE = frozenset({"Pending", "Backoff"}) | attempts.STARTED
DEFAULT_TIMING = Timing()
NEW_ROUND = "Mend the cause, then make a new round: this one has ended."
MORE_TIME = "Make a new round with a longer spec.deadline, a smaller spec.participants.quorum or other hospitals."
"""What to do about a round that has failed."""


def plan(view: RoundView, observed: Observed, now: datetime, timing: Timing = DEFAULT_TIMING) -> Plan:
    """Return the next actions and the next status of a round."""
    draft = Draft(view, observed, now.replace(microsecond=0), timing)
    if find(draft.status.conditions, "Reconciled") is not None:
        draft.condition("Reconciled", True, Reason.RECONCILED, "The operator sees and does what it needs.")
    _advance_round(draft)
    draft.set(observed_generation=view.generation)
    return draft.finish()


def unreconciled(view: RoundView, reason: Reason, message: str, now: datetime) -> FederationRoundStatus:
    """Return the status of a round for which the operator cannot do what is next.

    The first message stays until the round goes on: a status that changed with every try would wake its own actor.
    """
    before = find(view.status.conditions, "Reconciled")
    if view.status.completion_time is not None:
        return view.status
    if before is not None and (before.status, before.reason) == ("False", str(reason)):
        return view.status
    text = shortened(message, LONGEST_CONDITION_MESSAGE)
    conditions = set_condition(
        view.status.conditions, "Reconciled", False, reason, text, view.generation, now.replace(microsecond=0)
    )
    return view.status.model_copy(update={"conditions": conditions, "reason": str(reason)})


def _advance_round(draft: Draft) -> None:
    if finished(draft.view):
        _expire(draft)
        return
    _reopen(draft)
    if not _accept(draft):
        return
    if _suspend(draft):
        return
    if not _initialize(draft):
        return
    if not _train(draft):
        return
    _aggregate(draft)


def finished(view: RoundView) -> bool:
    """Say whether the round has ended for good: then nothing matters to it but time.

    One that failed before it was accepted starts anew when its spec is edited.
    """
    return _ended(view) and (
        is_true(view.status.conditions, "Accepted") or view.status.observed_generation == view.generation
    )


def _ended(view: RoundView) -> bool:
    return is_true(view.status.conditions, "Complete") or is_true(view.status.conditions, "Failed")


def _reopen(draft: Draft) -> None:
    """Begin anew with a round that had ended and is not finished."""
    if _ended(draft.view):
        draft.status = FederationRoundStatus(observed_generation=draft.view.generation)


def _expire(draft: Draft) -> None:
    """Delete a finished round when its time is over."""
    spec, done = draft.view.spec, draft.status.completion_time
    if spec is None or spec.ttl_after_finished is None or done is None:
        return
    end = done + parse_duration(spec.ttl_after_finished)
    if draft.now >= end:
        draft.delete_round = True
    else:
        draft.wait_until(end)


def _accept(draft: Draft) -> bool:
    if is_true(draft.status.conditions, "Accepted") and draft.view.spec is not None:
        return True
    rejected = rejection(draft.view, draft.observed)
    if rejected is not None:
        draft.condition("Accepted", False, rejected.reason, rejected.message)
        if rejected.final:
            draft.fail(rejected.reason, rejected.message)
        else:
            draft.set(phase="Pending", reason=str(rejected.reason))
            draft.wait(timedelta(seconds=30))
        return False
    hospitals = references(draft.spec, draft.observed, draft.view.namespace)
    sites = [SiteStatus(name=ref.site, namespace=ref.namespace, hospital=ref.name) for ref in hospitals]
    draft.set(sites=sites)
    draft.condition("Accepted", True, Reason.ACCEPTED, f"The round is well formed and names {len(sites)} hospitals.")
    for type_ in ("TrainingFinished", "QuorumReached", "Aggregated", "Complete"):
        draft.condition(type_, False, Reason.NOT_FINISHED, "The round has just been accepted.")
    draft.condition("Failed", False, Reason.NOT_FAILED, "Nothing has failed.")
    _take_parent(draft)
    # Acceptance is on record before any Job runs: from then on the spec is immutable, and a deletion knows the sites.
    draft.go_on()
    return False


def _take_parent(draft: Draft) -> None:
    """Fix the parent by content: that GlobalModel may be deleted or replaced while the round is suspended."""
    name, parent = draft.spec.model.parent.global_model, draft.observed.parent
    if name is not None and parent is not None:
        draft.set(parent=ModelReference(name=name, digest=parent.digest, parts_digest=parent.parts_digest))


def _suspend(draft: Draft) -> bool:
    """Stop or continue. A stopped attempt is not a failure; the next one continues from its checkpoint."""
    was = is_true(draft.status.conditions, "Suspended")
    if not draft.spec.suspend:
        if was:
            draft.set(start_time=draft.now if draft.status.start_time else None)
        reason, text = (
            (Reason.RESUMED, "The round goes on.") if was else (Reason.NOT_SUSPENDED, "It was not asked for.")
        )
        if was or find(draft.status.conditions, "Suspended") is None:
            draft.condition("Suspended", False, reason, text)
        return False
    draft.condition("Suspended", True, Reason.SUSPENDED, "spec.suspend is true: no Job of the round runs.")
    draft.set(phase="Suspended", reason=str(Reason.SUSPENDED))
    draft.stop_all()
    pause: dict[str, object] = {
        "phase": "Pending",
        "retry_time": None,
        "message": None,
        "reason": str(Reason.SUSPENDED),
    }
    draft.set(sites=[_paused_site(draft, site, pause) for site in draft.status.sites])
    for name in ("initialization", "aggregation"):
        current: JobStatus | None = getattr(draft.status, name)
        if current is not None and current.phase in attempts.STARTED:
            draft.set(**{name: current.model_copy(update=pause)})
    return True


def _paused_site(draft: Draft, site: SiteStatus, pause: dict[str, object]) -> SiteStatus:
    site = _committed(draft, attempts.adopt(site, draft.observed.job("site", site.name)))
    return site.model_copy(update=pause) if site.phase in attempts.STARTED else site


def _initialize(draft: Draft) -> bool:
    """Make sure that the parent model exists. Returns whether it does."""
    if draft.status.parent is not None:
        return True
    current = draft.status.initialization or JobStatus()
    result = draft.observed.results.get("init")
    manifest = draft.observed.models.get(result.model_digest or "") if result is not None else None
    if manifest is not None and result is not None:
        new = base_publication(draft.view, manifest, result)
        draft.publications.append(new)
        draft.set(
            parent=reference(new),
            initialization=_succeeded(draft, current, "init"),
        )
        return True
    draft.set(phase="Initializing", reason=str(Reason.INITIALIZING))
    current = draft.server_job(current, "init", lambda attempt: init_config(draft.view, attempt))
    draft.set(initialization=current)
    _tell_of_queue(draft, [current])
    if current.phase == "Failed":
        draft.fail(Reason.INITIALIZATION_FAILED, f"The start model could not be made: {current.message} {NEW_ROUND}")
    return False


def _succeeded(draft: Draft, current: JobStatus, role: contract.Role) -> JobStatus:
    current = attempts.adopt(current, draft.observed.job(role, ""))
    draft.spend(current, draft.view.namespace)
    update = {
        "phase": "Succeeded",
        "reason": str(Reason.RESULT_COMMITTED),
        "message": None,
        "retry_time": None,
        "progress": draft.observed.progress.get(role, current.progress),
    }
    return current.model_copy(update=update)


def _train(draft: Draft) -> bool:
    """Move every site on. Returns whether the updates are complete and suffice."""
    if is_true(draft.status.conditions, "TrainingFinished"):
        return is_true(draft.status.conditions, "QuorumReached")
    if draft.status.start_time is None:
        draft.set(start_time=draft.now)
    draft.set(phase="Training", reason=str(Reason.TRAINING))
    late = draft.now >= draft.deadline
    draft.set(sites=[_advance_site(draft, site, late) for site in draft.status.sites])
    _tell_of_queue(draft, draft.status.sites)
    if draft.observed.deferred:
        draft.go_on()
    return _judge_quorum(draft, late)


def _tell_of_queue(draft: Draft, jobs: Sequence[JobStatus | SiteStatus]) -> None:
    """Say that the round stands still for want of quota: of its Jobs some wait in a queue and none runs."""
    phases = {job.phase for job in jobs}
    if "Queued" in phases and "Running" not in phases:
        draft.set(reason=str(Reason.WAITING_FOR_QUOTA))


def _advance_site(draft: Draft, site: SiteStatus, late: bool) -> SiteStatus:
    if site.phase in SETTLED:
        return site
    job = draft.observed.job("site", site.name)
    site = _committed(draft, attempts.adopt(_with_key(draft, site), job), late)
    if site.phase in SETTLED:
        return site
    refused = _refused(draft, site)
    if late or refused is not None:
        draft.stop(job)
    if refused is not None:
        return site.model_copy(
            update={
                "phase": "Refused",
                "reason": str(refused.reason),
                "message": shortened(refused.message),
                "retry_time": None,
            }
        )
    if late:
        text = f"No update before the deadline of {draft.spec.deadline}."
        if site.phase == "Queued":
            text = shortened(f"{text} Its Job was still waiting for quota: {site.message}")
        return site.model_copy(update={"phase": "Late", "reason": str(Reason.DEADLINE_EXCEEDED), "message": text})
    return _run_site(draft, site, job)


def _with_key(draft: Draft, site: SiteStatus) -> SiteStatus:
    """Pin the hospital's public key until the first attempt is on record: a later one does not count in this round."""
    hospital = draft.observed.hospitals.get(site.name)
    if site.attempt > 0 or hospital is None or hospital.spec is None:
        return site
    return site.model_copy(update={"public_key": hospital.spec.public_key})


def _refused(draft: Draft, site: SiteStatus) -> Refusal | None:
    return refusal(draft.view.namespace, draft.spec, site.name, draft.observed.hospitals.get(site.name))


def _run_site(draft: Draft, site: SiteStatus, job: JobView | None) -> SiteStatus:
    if site.phase == "Refused" or site.reason == Reason.OUTSIDE_TIME_WINDOW:
        site = site.model_copy(update={"phase": "Pending", "reason": None, "message": None})
    closed = _outside_window(draft, site)
    if closed is not None:
        draft.stop(job)
        return closed
    before = site
    site = attempts.advance(site, job, draft.policy, draft.now)
    if site.failures > before.failures:
        draft.spend(before, site.namespace)
    if site.phase == "Pending":
        if len(draft.launches) >= draft.timing.launches_at_once:
            draft.go_on()
            return site
        return draft.launch_site(site)
    if site.phase in attempts.STARTED:
        draft.renew_site(site, job)
        draft.wait_for_progress()
        return site.model_copy(update={"progress": draft.observed.progress.get(site.name, site.progress)})
    if site.retry_time is not None:
        draft.wait_until(site.retry_time)
    return site


def _outside_window(draft: Draft, site: SiteStatus) -> SiteStatus | None:
    """Return a site that waits for its hospital's next time window, or None when it may run now.

    As with suspend, a stopped attempt is not a failure; the next one continues from its checkpoint.
    """
    hospital = draft.observed.hospitals[site.name].spec
    windows = None if hospital is None else hospital.time_windows
    closes = closes_at(windows, draft.now)
    if windows is None or closes is None:
        return None
    if closes > draft.now:
        draft.wait_until(closes)
        return None
    opens = opens_at(windows, draft.now)
    draft.wait_until(opens)
    return site.model_copy(
        update={
            "phase": "Pending",
            "reason": str(Reason.OUTSIDE_TIME_WINDOW),
            "message": closed_text(opens),
            "retry_time": None,
        }
    )


def _committed(draft: Draft, site: SiteStatus, late: bool = False) -> SiteStatus:
    """Take a committed update, whatever became of its Job, unless it came after consent was withdrawn."""
    update = draft.observed.updates.get((site.name, site.attempt))
    if update is None or site.phase in SETTLED or (site.phase == "Refused" and _refused(draft, site) is not None):
        return site
    job = draft.observed.job("site", site.name)
    if job is not None and job.outcome == "active" and job.attempt == site.attempt and not late:
        return site  # the Job commits and then ends by itself; at the deadline what it committed counts
    if isinstance(update, DamagedManifest) and site.phase not in attempts.STARTED:
        return site  # it has been counted; it stays in the store until the round is deleted
    draft.spend(site, site.namespace)
    if isinstance(update, DamagedManifest):
        return attempts.damaged(site, update.message, draft.policy, draft.now)
    draft.ledger.append(entry(draft.view, site, update, draft.now))
    progress = draft.observed.progress.get(site.name, site.progress)
    return with_update(site, update).model_copy(update={"reason": str(Reason.UPDATE_COMMITTED), "progress": progress})


def _judge_quorum(draft: Draft, late: bool) -> bool:
    sites = draft.status.sites
    quorum = draft.spec.participants.quorum
    done = sum(site.phase == "Succeeded" for site in sites)
    active = sum(site.phase in ACTIVE for site in sites)
    refused = [site for site in sites if site.phase == "Refused"]
    if done >= quorum and active == 0:
        reason = Reason.DEADLINE_EXCEEDED if late else Reason.ALL_SITES_FINISHED
        draft.condition("TrainingFinished", True, reason, f"{done} of {len(sites)} sites delivered an update.")
        draft.condition("QuorumReached", True, Reason.QUORUM_REACHED, f"{done} updates, the quorum is {quorum}.")
        return True
    if late or done + active + len(refused) < quorum:
        why = f"at the deadline of {draft.spec.deadline}" if late else "and no more can come"
        todo = MORE_TIME if late else NEW_ROUND
        message = " ".join(f"{done} updates {why}, the quorum is {quorum}. {display.problems(sites)} {todo}".split())
        draft.condition("QuorumReached", False, Reason.QUORUM_NOT_REACHED, message)
        draft.fail(Reason.QUORUM_NOT_REACHED, message)
        return False
    if done + active < quorum:
        message = f"{done + active} updates can come, the quorum is {quorum}. {display.problems(refused)}".strip()
        draft.condition("QuorumReached", False, Reason.WAITING_FOR_CONSENT, message)
        draft.set(reason=str(Reason.WAITING_FOR_CONSENT))
    else:
        message = f"{done} updates, the quorum is {quorum}."
        draft.condition("QuorumReached", done >= quorum, _quorum_reason(done >= quorum), message)
    draft.wait_until(draft.deadline)
    return False


def _quorum_reason(reached: bool) -> Reason:
    return Reason.QUORUM_REACHED if reached else Reason.WAITING_FOR_UPDATES


def _aggregate(draft: Draft) -> None:
    current = draft.status.aggregation or JobStatus()
    result = draft.observed.results.get("aggregate")
    if result is not None and (result.model_digest is None or result.model_digest in draft.observed.models):
        draft.set(aggregation=_succeeded(draft, current, "aggregate"))
        draft.set(sites=[judged(site, result) for site in draft.status.sites])
        if result.model_digest is None:
            message = f"{result.message.removesuffix('.')}. {NEW_ROUND}"
            draft.condition("QuorumReached", False, Reason.QUORUM_NOT_REACHED, message)
            draft.fail(Reason.QUORUM_NOT_REACHED, message)
        else:
            manifest = draft.observed.models[result.model_digest]
            draft.complete(publication(draft.view, draft.status, manifest, result))
        return
    draft.set(phase="Aggregating", reason=str(Reason.AGGREGATING))
    current = draft.server_job(
        current, "aggregate", lambda attempt: aggregate_config(draft.view, draft.status, attempt)
    )
    draft.set(aggregation=current)
    _tell_of_queue(draft, [current])
    if current.phase == "Failed":
        draft.fail(Reason.AGGREGATION_FAILED, f"The updates could not be merged: {current.message} {NEW_ROUND}")
