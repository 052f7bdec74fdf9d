"""Conditions, events, display, ledger, quantities, session policies, configuration: small pure parts."""

from __future__ import annotations

import json
from datetime import timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from tests.authority import Authority
from tests.unit.operator import make
from tests.unit.operator.make import SECOND, A, B, C
from umim.api.base import Condition, ModelReference
from umim.api.hospital import HospitalStatus
from umim.api.jobs import JobConfig
from umim.api.privacy import DifferentialPrivacyRecord
from umim.api.round import FederationRoundStatus, SiteStatus
from umim.errors import ConfigError
from umim.rounds.consent import contradiction, parse_quantity
from umim_operator import credentials, display, events, ledger
from umim_operator.conditions import Reason, find, is_true, set_condition
from umim_operator.config import OperatorConfig

# conditions


def conditions() -> list[Condition]:
    return set_condition([], "Complete", False, Reason.NOT_FINISHED, "not yet", 1, make.NOW)


def test_the_transition_time_changes_only_when_the_status_does() -> None:
    later = set_condition(conditions(), "Complete", False, Reason.TRAINING, "still not", 2, make.NOW + SECOND)
    assert later[0].last_transition_time == make.NOW
    assert (later[0].reason, later[0].message, later[0].observed_generation) == ("Training", "still not", 2)
    done = set_condition(later, "Complete", True, Reason.PUBLISHED, "done", 2, make.NOW + SECOND)
    assert done[0].last_transition_time == make.NOW + SECOND


def test_conditions_keep_their_order_and_are_unique() -> None:
    both = set_condition(conditions(), "Failed", False, Reason.NOT_FAILED, "fine", 1, make.NOW)
    again = set_condition(both, "Complete", True, Reason.PUBLISHED, "done", 1, make.NOW)
    assert [item.type for item in again] == ["Complete", "Failed"]


def test_a_condition_that_is_absent_is_not_true() -> None:
    assert find([], "Failed") is None
    assert not is_true([], "Failed")
    assert not is_true(conditions(), "Complete")


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_the_form_that_the_api_asks_for(reason: Reason) -> None:
    set_condition([], "Failed", True, reason, "x", 1, make.NOW)
    assert len(reason) <= 64


# events


def status_with(*sites: SiteStatus) -> FederationRoundStatus:
    return FederationRoundStatus(sites=list(sites))


def at(site: str, **changes: Any) -> SiteStatus:
    ref = make.reference(site)
    return SiteStatus(name=site, namespace=ref.namespace, hospital=ref.name, **changes)


def test_equal_statuses_give_no_events() -> None:
    status = status_with(at(A, phase="Running", attempt=1)).model_copy(update={"conditions": conditions()})
    assert events.between(status, status) == ()


def test_progress_and_messages_alone_are_no_events() -> None:
    old = status_with(at(A, phase="Running", attempt=1))
    new = status_with(at(A, phase="Running", attempt=1, message="x", progress=make.progress(5)))
    assert events.between(old, new) == ()


@pytest.mark.parametrize("phase", ["Refused", "Backoff", "Failed", "Excluded", "Late"])
def test_a_site_in_trouble_is_a_warning(phase: str) -> None:
    (event,) = events.between(status_with(at(A)), status_with(at(A, phase=phase, reason="X", message="why")))
    assert (event.type, event.reason) == ("Warning", "X")
    assert event.message.endswith("why")


def test_a_new_attempt_is_an_event() -> None:
    old, new = (status_with(at(A, phase="Running", attempt=number)) for number in (1, 2))
    assert len(events.between(old, new)) == 1


def test_sites_of_which_there_is_the_same_to_say_are_one_event() -> None:
    names = [f"hospital-{number:03d}.ct" for number in range(12)]
    old = status_with(*map(at, [*names, A, B]))
    running = [at(name, phase="Running", attempt=1, reason="Launched") for name in names]
    new = status_with(*running, *(at(name, phase="Refused", reason="X", message=name) for name in (A, B)))
    first, *others = events.between(old, new)
    shown = ", ".join(names[:10])
    assert first.message == f"12 sites ({shown} and 2 more) are Running (attempt 1)."
    assert [event.message for event in others] == [f"Site {name} is Refused (attempt 0). {name}" for name in (A, B)]


# display


def test_the_summary_counts_updates_quorum_and_sites() -> None:
    assert display.sites_summary([at(A, phase="Succeeded"), at(B), at(C, phase="Failed")], 2) == "1/2/3"


@pytest.mark.parametrize(
    ("sites", "shown"),
    [
        ([], "0%"),
        ([at(A), at(B)], "0%"),
        ([at(A, phase="Succeeded"), at(B, phase="Running", progress=make.progress(51))], "75%"),
        ([at(A, phase="Succeeded"), at(B, phase="Refused"), at(C, phase="Failed")], "100%"),
        ([at(A, phase="Late")], "0%"),
    ],
)
def test_progress_is_the_mean_over_the_sites_that_take_part(sites: list[SiteStatus], shown: str) -> None:
    assert display.progress(sites) == shown


def test_many_problems_are_cut_short() -> None:
    text = display.problems([at(f"ns-{i}.x", phase="Failed", message="bad.") for i in range(8)])
    assert text.startswith("ns-0.x: bad. ns-1.x: bad.")
    assert text.endswith("And 3 more.")
    assert display.problems([at(A, phase="Succeeded", message="ignored")]) == ""


# ledger


def participation(number: int) -> Any:
    entry = ledger.entry(make.view(make.spec(), uid=f"uid-{number}"), at(A), make.update(A), make.NOW)
    return entry.participation


def test_recording_an_update_twice_changes_nothing() -> None:
    once = ledger.record(HospitalStatus(), participation(1), 3)
    assert (once.participations, once.observed_generation) == (1, 3)
    assert once.last_participation == participation(1)
    assert ledger.record(once, participation(1), 4) == once


def test_the_ledger_keeps_the_newest_hundred_and_counts_all() -> None:
    status = HospitalStatus()
    for number in range(130):
        status = ledger.record(status, participation(number), 1)
    assert status.participations == 130
    assert [item.round_uid for item in status.ledger] == [f"uid-{number}" for number in range(30, 130)]
    HospitalStatus.model_validate(status.to_dict())


def test_the_epsilon_that_is_spent_is_the_newest_that_was_told() -> None:
    def told(number: int, spent: float | None) -> Any:
        fields = {
            "noise_multiplier": 1,
            "max_grad_norm": 1,
            "sample_rate": 0.1,
            "steps": 5,
            "epsilon": 1,
            "delta": 1e-5,
        }
        record = DifferentialPrivacyRecord.model_validate({**fields, "epsilon_spent": spent})
        return participation(number).model_copy(update={"differential_privacy": record})

    status = HospitalStatus()
    for number, spent, shown in ((1, 1.5, 1.5), (2, None, 1.5), (3, 2.5, 2.5)):
        status = ledger.record(status, told(number, spent), 1)
        assert status.epsilon_spent == shown
    assert ledger.record(status, participation(4), 1).epsilon_spent == 2.5


# quantities


@pytest.mark.parametrize(
    ("text", "value"),
    [("2", "2"), ("500m", "0.5"), ("1.5", "1.5"), ("4Gi", "4294967296"), ("1k", "1000"), ("0", "0"), ("1Ki", "1024")],
)
def test_quantities_have_their_kubernetes_value(text: str, value: str) -> None:
    assert parse_quantity(text) == Decimal(value)


@pytest.mark.parametrize("text", ["", "Gi", "4GB", "-1", "1e3", "4 Gi"])
def test_another_form_of_quantity_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="write a number with an optional unit such as 500m, 2 or 4Gi"):
        parse_quantity(text)


def test_equal_request_and_limit_in_other_units_do_not_contradict() -> None:
    resources = make.spec(resources={"requests": {"cpu": "1000m"}, "limits": {"cpu": "1"}}).resources
    assert contradiction(resources) is None


# session policies


def configs() -> dict[str, JobConfig]:
    round_, start = make.spec(), make.init_spec()
    seen = make.observed(parent=None)
    status, jobs = make.training(round_)
    done = make.ended(jobs, succeeded=(A, B, C))
    delivered = make.observed(jobs=done.jobs, updates=make.updates(A, B, C))
    return {
        "init": make.step(start, make.accepted(start, seen), seen).launches[0].config,
        "site": make.step(round_, make.accepted(round_), make.observed()).launches[0].config,
        "aggregate": make.step(round_, status, delivered).launches[0].config,
    }


def granted(policy: dict[str, Any], action: str) -> list[str]:
    return [
        resource.removeprefix("arn:aws:s3:::bucket/")
        for statement in policy["Statement"]
        for resource in statement["Resource"]
        if action in statement["Action"]
    ]


def test_a_site_may_read_its_parent_and_write_its_own_attempt_only() -> None:
    policy = credentials.policy("bucket", configs()["site"])
    assert granted(policy, "s3:PutObject") == [f"rounds/{make.UID}/sites/{A}/1/*"]
    assert set(granted(policy, "s3:GetObject")) == {
        f"models/sha256/{make.PARENT}/model.safetensors",
        f"models/sha256/{make.PARENT}/manifest.json",
        f"rounds/{make.UID}/sites/{A}/1/*",
    }


@pytest.mark.parametrize("role", ["init", "site", "aggregate"])
def test_no_job_may_delete_anything_but_its_own_checkpoints(role: str) -> None:
    policy = credentials.policy("bucket", configs()[role])
    own = [] if role == "site" else [f"rounds/{make.UID}/{role}/checkpoints/*"]
    assert granted(policy, "s3:DeleteObject") == own


@pytest.mark.parametrize("role", ["init", "site", "aggregate"])
def test_a_session_policy_with_the_longest_names_is_short_enough_for_sts(role: str) -> None:
    parent = ModelReference(name="base", digest=make.PARENT, parts_digest=make.MODEL)
    config = configs()[role]
    config = config.model_copy(update={"parent": parent}) if role != "init" else config
    policy = credentials.expiring(credentials.policy("b" * 63, config), make.NOW)
    assert len(json.dumps(policy, separators=(",", ":"))) < 2048


@pytest.mark.parametrize(("role", "name"), [("site", A), ("init", "init"), ("aggregate", "aggregate")])
def test_a_job_reports_progress_under_its_site_or_role(role: str, name: str) -> None:
    assert credentials.source(configs()[role]) == name


def test_an_unknown_configuration_gets_no_policy() -> None:
    config = configs()["site"]
    fields = {name: getattr(config, name) for name in JobConfig.model_fields}
    with pytest.raises(TypeError, match="no policy for JobConfig"):
        credentials.policy("bucket", JobConfig(**fields))


def test_every_permission_ends_at_the_given_time_in_utc() -> None:
    end = (make.NOW + timedelta(hours=1)).astimezone(timezone(timedelta(hours=5)))
    statements: list[dict[str, Any]] = [{"Action": ["a"]}, {"Action": ["b"], "Condition": {"StringLike": {"x": 1}}}]
    policy = {"Version": "1", "Statement": statements}
    first, second = credentials.expiring(policy, end)["Statement"]
    assert first["Condition"] == {"DateLessThan": {"aws:CurrentTime": "2026-03-01T13:00:00Z"}}
    assert set(second["Condition"]) == {"StringLike", "DateLessThan"}
    assert "Condition" not in statements[0]


# configuration

ENVIRONMENT = {
    "UMIM_S3_ENDPOINT": "http://minio:9000",
    "UMIM_S3_BUCKET": "umim",
    "UMIM_S3_ACCESS_KEY": "operator",
    "UMIM_S3_SECRET_KEY": "s3cret",
    "UMIM_TRAINER_IMAGE": "trainer:1",
    "UMIM_AGGREGATOR_IMAGE": "aggregator:1",
}


def test_the_operator_needs_no_more_than_store_and_images() -> None:
    config = OperatorConfig.from_env(ENVIRONMENT)
    assert (config.redis, config.telemetry.endpoint) == (None, None)
    assert config.jobs.pull_policy == "IfNotPresent"
    assert config.jobs.server_service_account == "umim-server"


def test_jobs_are_told_where_things_are_and_nothing_secret() -> None:
    more = {"UMIM_REDIS_URL": "redis://redis:6379", "UMIM_REDIS_PASSWORD": "hidden"}
    more["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://collector:4318"
    environment = OperatorConfig.from_env({**ENVIRONMENT, **more}).jobs.environment
    assert environment == {
        "UMIM_S3_ENDPOINT": "http://minio:9000",
        "UMIM_S3_BUCKET": "umim",
        "UMIM_S3_REGION": "us-east-1",
        "UMIM_REDIS_URL": "redis://redis:6379",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
    }


def test_jobs_are_told_whom_to_trust() -> None:
    store, redis = Authority("store").pem, Authority("redis").pem
    more = {"UMIM_REDIS_URL": "rediss://redis:6379", "UMIM_S3_CA": store, "UMIM_REDIS_CA": redis}
    environment = OperatorConfig.from_env({**ENVIRONMENT, **more}).jobs.environment
    assert (environment["UMIM_S3_CA"], environment["UMIM_REDIS_CA"]) == (store, redis)


@pytest.mark.parametrize("name", sorted(ENVIRONMENT))
def test_a_missing_variable_is_named(name: str) -> None:
    environment = {key: value for key, value in ENVIRONMENT.items() if key != name}
    with pytest.raises(ConfigError, match=name):
        OperatorConfig.from_env(environment)


def test_an_unknown_pull_policy_is_named_with_what_is_allowed() -> None:
    environment = {**ENVIRONMENT, "UMIM_IMAGE_PULL_POLICY": "Sometimes"}
    with pytest.raises(ConfigError, match="UMIM_IMAGE_PULL_POLICY='Sometimes' must be one of Always, IfNotPresent"):
        OperatorConfig.from_env(environment)
