"""The server's Jobs: the start model before the sites, aggregation after them, publication, the end."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.unit.operator import make
from tests.unit.operator.make import SECOND, A, B, C
from umim.api.artifacts import Exclusion, HeadExclusion, UpdateFigures
from umim.api.jobs import AggregateJobConfig, InitJobConfig
from umim.api.round import FederationRoundStatus
from umim.rounds.configs import aggregate_config
from umim_operator.state import Observed, Plan


def initializing() -> tuple[FederationRoundStatus, Observed]:
    round_ = make.init_spec()
    seen = make.observed(parent=None)
    status = make.step(round_, make.accepted(round_, seen), seen).status
    return status, replace(seen, jobs=(make.job("init"),))


def init_step(status: FederationRoundStatus, seen: Observed, after: timedelta = timedelta(0)) -> Plan:
    return make.step(make.init_spec(), status, seen, after)


# initialization


def test_a_round_without_parent_makes_its_start_model_first() -> None:
    round_ = make.init_spec()
    seen = make.observed(parent=None)
    next_ = make.step(round_, make.accepted(round_, seen), seen)
    assert make.launched(next_) == [("init", 1)]
    (launch,) = next_.launches
    assert launch.reference.namespace == make.FEDERATION
    assert isinstance(launch.config, InitJobConfig)
    assert launch.config.init == "random"
    assert next_.status.phase == "Initializing"
    assert next_.status.start_time is None


def test_masked_pretraining_gets_its_own_settings_and_data() -> None:
    model = {"architecture": "vit_tiny_patch16_224", "imageSize": 64, "parent": {"init": "mim"}}
    pool = {"claimName": "pool", "path": "x", "format": "npz"}
    round_ = make.spec(model=model, server_dataset=pool, pretraining={"epochs": 9})
    seen = make.observed(parent=None)
    config = make.step(round_, make.accepted(round_, seen), seen).launches[0].config
    assert isinstance(config, InitJobConfig)
    assert config.optimisation.epochs == 9
    assert config.data is not None
    assert config.data.path == "/data/x"


def test_an_init_job_whose_pod_cannot_start_is_looked_at_again_and_says_why() -> None:
    status, seen = initializing()
    stuck = replace(seen, jobs=(make.job("init", reason="ImagePullBackOff", message="no such image"),))
    next_ = init_step(status, stuck)
    assert next_.status.initialization is not None
    assert next_.status.initialization.message == "no such image"
    assert next_.look_again == 5 * SECOND


def test_an_init_job_launched_before_a_crash_is_adopted() -> None:
    round_ = make.init_spec()
    seen = make.observed(parent=None)
    next_ = make.step(round_, make.accepted(round_, seen), replace(seen, jobs=(make.job("init"),)))
    assert next_.launches == ()
    assert next_.status.initialization is not None
    assert (next_.status.initialization.phase, next_.status.initialization.attempt) == ("Running", 1)


def test_a_start_model_is_published_and_the_sites_start_from_it() -> None:
    status, seen = initializing()
    seen = replace(seen, jobs=(make.job("init", outcome="succeeded"),), **make.result("init"))
    next_ = init_step(status, seen)
    (publication,) = next_.publications
    assert publication.name == "base-" + make.MODEL[:8]
    assert publication.spec.round.name == "stage-1"
    assert next_.status.parent is not None
    assert next_.status.parent.digest == make.MODEL
    assert next_.status.initialization is not None
    assert next_.status.initialization.phase == "Succeeded"
    assert make.launched(next_) == [(A, 1), (B, 1), (C, 1)]
    assert [item.name for item in next_.spent] == [make.job("init").name]


def test_a_committed_start_model_counts_although_its_job_is_gone() -> None:
    status, seen = initializing()
    next_ = init_step(status, replace(seen, jobs=(), **make.result("init")))
    assert next_.status.parent is not None


def test_a_failed_init_job_is_tried_again_after_its_backoff() -> None:
    status, seen = initializing()
    seen = replace(seen, jobs=(make.job("init", outcome="failed", message="evicted"),))
    first = init_step(status, seen)
    assert first.status.initialization is not None
    assert (first.status.initialization.phase, first.status.initialization.failures) == ("Backoff", 1)
    assert first.look_again == 10 * SECOND
    assert init_step(first.status, seen, 9 * SECOND).launches == ()
    next_ = init_step(first.status, seen, 10 * SECOND)
    assert make.launched(next_) == [("init", 2)]
    assert next_.status.initialization is not None
    assert next_.status.initialization.retry_time is None


def test_a_permanent_failure_of_the_init_job_fails_the_round() -> None:
    status, seen = initializing()
    seen = replace(seen, jobs=(make.job("init", outcome="failed", message="no such encoder", exit_code=78),))
    next_ = init_step(status, seen)
    failed = make.condition(next_.status, "Failed")
    assert failed.reason == "InitializationFailed"
    assert failed.message.startswith("The start model could not be made: no such encoder")
    assert next_.launches == ()


def test_an_init_job_without_retries_left_fails_the_round() -> None:
    round_ = make.init_spec(retries=0)
    status, seen = initializing()
    next_ = make.step(round_, status, replace(seen, jobs=(make.job("init", outcome="succeeded"),)))
    assert next_.status.reason == "InitializationFailed"


# aggregation


def test_the_aggregator_gets_all_committed_updates_sorted_by_site() -> None:
    status, seen = make.training(make.spec(sites=(C, B, A)))
    seen = replace(make.ended(seen, succeeded=(A, B, C)), updates=make.updates(C, A, B))
    (launch,) = make.step(make.spec(sites=(C, B, A)), status, seen).launches
    assert isinstance(launch.config, AggregateJobConfig)
    assert [item.site for item in launch.config.updates] == [A, B, C]
    assert launch.config.updates[0].digest == make.update_digest(A, 1)
    assert launch.config.quorum == 2


def test_the_result_of_the_aggregator_completes_the_round() -> None:
    status, seen = make.trained(make.spec())
    seen = replace(seen, jobs=(make.job("aggregate", outcome="succeeded"),), **make.result("aggregate"))
    next_ = make.step(make.spec(), status, seen, 60 * SECOND)
    assert next_.status.phase == "Complete"
    assert make.condition(next_.status, "Complete").status == "True"
    assert make.condition(next_.status, "Aggregated").status == "True"
    assert next_.status.global_model is not None
    assert (next_.status.global_model.name, next_.status.global_model.digest) == ("stage-1-bbbbbbbb", make.MODEL)
    assert next_.status.completion_time == make.NOW + 60 * SECOND
    (publication,) = next_.publications
    assert publication.spec.object_key == f"models/sha256/{make.MODEL}/model.safetensors"


def test_a_committed_result_counts_although_the_aggregator_is_gone() -> None:
    status, seen = make.trained(make.spec())
    next_ = make.step(make.spec(), status, replace(seen, jobs=(), **make.result("aggregate")))
    assert next_.status.phase == "Complete"
    assert next_.launches == ()


def test_an_aggregator_launched_before_a_crash_is_adopted() -> None:
    status, seen = make.trained(make.spec())
    before = status.model_copy(update={"aggregation": None})
    next_ = make.step(make.spec(), before, seen)
    assert next_.launches == ()
    assert next_.status.aggregation is not None
    assert next_.status.aggregation.attempt == 1


def test_a_failed_aggregator_is_tried_again_and_no_site_trains_again() -> None:
    status, seen = make.trained(make.spec())
    seen = replace(seen, jobs=(*seen.jobs[:-1], make.job("aggregate", outcome="failed", exit_code=137)))
    status = make.step(make.spec(), status, seen).status
    next_ = make.step(make.spec(), status, seen, 10 * SECOND)
    assert make.launched(next_) == [("aggregate", 2)]


def test_an_aggregator_without_retries_left_fails_the_round() -> None:
    round_ = make.spec(retries=0)
    status, seen = make.trained(round_)
    seen = replace(seen, jobs=(make.job("aggregate", outcome="failed", message="out of memory"),))
    next_ = make.step(round_, status, seen)
    failed = make.condition(next_.status, "Failed")
    assert failed.reason == "AggregationFailed"
    assert failed.message.startswith("The updates could not be merged: out of memory")


def test_excluded_updates_are_shown_with_their_reason() -> None:
    status, seen = make.trained(make.spec())
    excluded = [Exclusion(site=B, reason="NotFinite", message="tensor x holds NaN " + "x" * 2000)]
    seen = replace(seen, jobs=(), **make.result("aggregate", exclusions=excluded))
    next_ = make.step(make.spec(), status, seen)
    site = make.site(next_.status, B)
    assert (site.phase, site.reason) == ("Excluded", "NotFinite")
    assert site.message is not None
    assert len(site.message) == 1024
    assert next_.status.phase == "Complete"
    assert next_.status.sites_summary == "2/2/3"


def test_an_update_unlike_the_others_counts_and_is_reported_once() -> None:
    status, seen = make.trained(make.spec())
    figures = [
        UpdateFigures(site=A, norm=1.0, cosine=0.9, outlier=False),
        UpdateFigures(site=B, norm=12.0, cosine=-0.5, outlier=True),
        UpdateFigures(site=C, norm=1.0, cosine=0.8, outlier=False),
    ]
    seen = replace(seen, jobs=(), **make.result("aggregate", outliers=figures))
    next_ = make.step(make.spec(), status, seen)
    site = make.site(next_.status, B)
    text = "unlike the others: its norm is 12, 12 times the median, its cosine to the mean of the others -0.50."
    assert (site.phase, site.update_norm, site.update_cosine, site.outlier) == ("Succeeded", 12.0, -0.5, True)
    assert site.message == f"The update looks {text}"
    assert (make.site(next_.status, A).update_norm, make.site(next_.status, A).message) == (1.0, None)
    aggregated = make.condition(next_.status, "Aggregated").message
    assert aggregated.endswith(f"is published. {B}: The update looks {text}")
    (event,) = [event for event in next_.events if event.reason == "UpdateUnlikeOthers"]
    assert (event.type, event.message) == ("Warning", f"Site {B}: {site.message}")
    again = make.step(make.spec(), next_.status, seen)
    assert [event for event in again.events if event.reason == "UpdateUnlikeOthers"] == []


def test_an_outlier_among_updates_that_change_nothing_has_no_multiple_of_the_median() -> None:
    status, seen = make.trained(make.spec())
    figures = [UpdateFigures(site=site, norm=float(site == B), cosine=0.0, outlier=site == B) for site in (A, B, C)]
    head = HeadExclusion(site=B, task_name="organ", message="too large")
    seen = replace(seen, jobs=(), **make.result("aggregate", outliers=figures, head_exclusions=[head]))
    site = make.site(make.step(make.spec(), status, seen).status, B)
    assert site.message == (
        "The update looks unlike the others: its norm is 1, its cosine to the mean of the others 0.00. "
        "The head of task organ was left out: too large"
    )


def test_a_result_without_a_model_fails_the_round_for_want_of_quorum() -> None:
    status, seen = make.trained(make.spec())
    excluded = [Exclusion(site=site, reason="WrongParent", message="x") for site in (A, B)]
    text = "1 valid update, the quorum is 2"
    seen = replace(seen, jobs=(), **make.result("aggregate", None, exclusions=excluded, message=text))
    next_ = make.step(make.spec(), status, seen)
    assert (next_.status.phase, next_.status.reason) == ("Failed", "QuorumNotReached")
    assert make.condition(next_.status, "QuorumReached").status == "False"
    assert make.condition(next_.status, "Failed").message.startswith(text)
    assert make.site(next_.status, A).phase == "Excluded"
    assert next_.publications == ()


# after the end


def complete(**changes: Any) -> tuple[FederationRoundStatus, Observed]:
    status, seen = make.trained(make.spec())
    seen = replace(seen, jobs=(), **make.result("aggregate"))
    return make.step(make.spec(**changes), status, seen).status, seen


def test_nothing_is_done_for_a_finished_round() -> None:
    status, seen = complete()
    next_ = make.step(make.spec(), status, seen, timedelta(days=365))
    assert next_ == Plan(status=status)


@pytest.mark.parametrize("passed", [timedelta(0), timedelta(hours=23)])
def test_a_finished_round_is_kept_until_its_time_to_live_is_over(passed: timedelta) -> None:
    status, seen = complete()
    next_ = make.step(make.spec(ttlAfterFinished="24h"), status, seen, passed)
    assert not next_.delete_round
    assert next_.look_again == timedelta(hours=24) - passed


def test_a_finished_round_is_deleted_when_its_time_to_live_is_over() -> None:
    status, seen = complete()
    assert make.step(make.spec(ttlAfterFinished="24h"), status, seen, timedelta(hours=24)).delete_round


def test_a_failed_round_is_deleted_after_its_time_to_live_too() -> None:
    round_ = make.spec(retries=0, ttlAfterFinished="10s")
    status, seen = make.training(round_)
    status = make.step(round_, status, make.ended(seen, failed=(A, B, C))).status
    assert make.step(round_, status, seen, 10 * SECOND).delete_round


# events


def test_events_tell_what_changed_and_only_once() -> None:
    round_ = make.spec()
    first = make.step(round_, None, make.observed())
    assert [(event.type, event.reason) for event in first.events] == [("Normal", "Accepted")]
    second = make.step(round_, first.status, make.observed())
    assert [(event.reason, event.message) for event in second.events] == [
        ("Launched", f"3 sites ({A}, {B}, {C}) are Running (attempt 1).")
    ]
    seen = make.observed(jobs=tuple(make.job("site", site) for site in (A, B, C)))
    assert make.step(round_, second.status, seen).events == ()


def test_the_end_of_a_round_is_an_event() -> None:
    status, seen = make.trained(make.spec())
    seen = replace(seen, jobs=(), **make.result("aggregate"))
    next_ = make.step(make.spec(), status, seen)
    assert ("Normal", "Published", "GlobalModel stage-1-bbbbbbbb is published.") in [
        (event.type, event.reason, event.message) for event in next_.events
    ]


def test_a_failure_is_a_warning() -> None:
    status, seen = make.training(make.spec())
    next_ = make.step(make.spec(), status, make.ended(seen, failed=(A,), message="no disk"))
    assert [(event.type, event.reason, event.message) for event in next_.events] == [
        ("Warning", "JobFailed", f"Site {A} is Backoff (attempt 1). no disk")
    ]


# parts, heads and figures of the server


def test_the_parts_of_a_start_model_reach_the_sites() -> None:
    status, seen = initializing()
    done = make.observed(parent=None, jobs=seen.jobs, **make.result("init", parts_digest="d" * 64))
    next_ = init_step(status, make.ended(done, succeeded=("",)))
    assert next_.status.parent is not None
    assert next_.status.parent.parts_digest == "d" * 64
    assert next_.publications[0].spec.parts_digest == "d" * 64


def test_the_parts_of_the_parent_are_fixed_at_acceptance() -> None:
    seen = make.observed(parent=make.parent_model(parts_digest="d" * 64))
    status = make.accepted(make.spec(), seen)
    assert status.parent is not None
    assert status.parent.parts_digest == "d" * 64


def test_the_aggregator_gets_distillation_images_and_heads() -> None:
    distillation = {"epochs": 3, "resources": {"limits": {"memory": "8Gi"}}}
    pool = {"claimName": "pool", "format": "npz"}
    round_ = make.spec(training={"heads": "shared"}, server_dataset=pool, distillation=distillation)
    status, _ = make.trained(round_)
    config = aggregate_config(make.view(round_), with_head(status, A), 1)
    assert config.distillation is not None
    assert config.distillation.epochs == 3
    assert config.data is not None
    assert config.data.path == "/data"
    assert [update.head_digest for update in config.updates] == ["e" * 64, None, None]


def test_the_aggregator_of_a_round_with_private_heads_is_told_of_none() -> None:
    status, _ = make.trained(make.spec())
    config = aggregate_config(make.view(make.spec()), with_head(status, A), 1)
    assert [update.head_digest for update in config.updates] == [None, None, None]


def test_a_head_that_was_left_out_is_told_at_its_site_and_the_update_counts() -> None:
    round_ = make.spec()
    status, seen = make.trained(round_)
    head = HeadExclusion(site=A, task_name="tissue", message="its classes differ")
    done = make.observed(jobs=seen.jobs, **make.result("aggregate", head_exclusions=[head]))
    next_ = make.step(round_, status, done)
    site = make.site(next_.status, A)
    assert (site.phase, site.message) == ("Succeeded", "The head of task tissue was left out: its classes differ")
    assert next_.status.phase == "Complete"


def test_live_progress_of_a_job_of_the_server_is_in_its_status() -> None:
    status, seen = initializing()
    next_ = init_step(status, replace(seen, progress={"init": make.progress(30)}))
    assert next_.status.initialization is not None
    assert next_.status.initialization.progress is not None
    assert next_.status.initialization.progress.percent == 30
    kept = init_step(next_.status, seen)
    assert kept.status.initialization == next_.status.initialization


def with_head(status: FederationRoundStatus, name: str) -> FederationRoundStatus:
    """The status after one site let a head out."""
    return make.with_site(status, name, head_digest="e" * 64)
