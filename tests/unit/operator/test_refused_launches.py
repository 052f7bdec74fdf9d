"""The API server refuses to create a Job: shown on the site, tried again, no retry lost, nobody else held up."""

from __future__ import annotations

from datetime import timedelta

from tests.unit.operator import make
from tests.unit.operator.make import SECOND, A, B, C
from umim import contract
from umim.api.round import FederationRoundStatus
from umim_operator.attempts import without_refused
from umim_operator.launches import secret_names

ROUND = make.spec()


def refused_at_a() -> FederationRoundStatus:
    status = make.step(ROUND, make.accepted(ROUND), make.observed()).status
    return without_refused(status, {make.job("site", A).name: "secrets is forbidden"}, make.NOW)


def test_a_refused_launch_is_shown_on_its_site_and_costs_no_retry() -> None:
    site = make.site(refused_at_a(), A)
    assert (site.phase, site.reason, site.attempt, site.failures, site.job) == ("Backoff", "LaunchRefused", 0, 0, None)
    assert site.message == "The Job cannot be created. secrets is forbidden"


def test_the_other_sites_train_meanwhile() -> None:
    status = refused_at_a()
    assert {make.site(status, name).phase for name in (B, C)} == {"Running"}


def test_a_refused_launch_is_tried_again_under_the_same_name_after_half_a_minute() -> None:
    seen = make.observed(jobs=(make.job("site", B), make.job("site", C)))
    early = make.step(ROUND, refused_at_a(), seen, 29 * SECOND)
    assert early.launches == ()
    next_ = make.step(ROUND, refused_at_a(), seen, 30 * SECOND)
    assert [item.reference.name for item in next_.launches] == [make.job("site", A, 1).name]


def test_a_site_whose_launch_is_refused_until_the_deadline_is_late() -> None:
    seen = make.observed(jobs=(make.job("site", B), make.job("site", C)))
    next_ = make.step(ROUND, refused_at_a(), seen, timedelta(minutes=30))
    assert make.site(next_.status, A).phase == "Late"


def test_a_refused_server_job_is_shown_and_tried_again() -> None:
    round_ = make.init_spec()
    seen = make.observed(parent=None)
    status = make.step(round_, make.accepted(round_, seen), seen).status
    refused = without_refused(status, {make.job("init").name: "exceeded quota"}, make.NOW)
    assert refused.initialization is not None
    assert (refused.initialization.phase, refused.initialization.reason) == ("Backoff", "LaunchRefused")
    assert make.launched(make.step(round_, refused, seen, 30 * SECOND)) == [("init", 1)]


def test_without_a_refusal_the_status_stays_as_it_is() -> None:
    status = make.training(ROUND)[0]
    assert without_refused(status, {}, make.NOW) == status


def test_a_long_refusal_fits_into_the_status() -> None:
    status = make.step(ROUND, make.accepted(ROUND), make.observed()).status
    refused = without_refused(status, {make.job("site", A).name: "x" * 5000}, make.NOW)
    FederationRoundStatus.model_validate(refused.to_dict())


def test_the_secrets_of_all_attempts_are_known_by_name_and_that_of_the_next_one_too() -> None:
    status = make.with_site(make.training(ROUND)[0], A, attempt=2)
    names = secret_names(make.view(ROUND, status), "hospital-a")
    assert names == sorted(contract.job_name("site", "stage-1", make.UID, A, number) for number in (1, 2, 3))


def test_the_secrets_of_the_server_lie_in_the_rounds_namespace() -> None:
    names = secret_names(make.view(ROUND, make.training(ROUND)[0]), make.FEDERATION)
    assert names == sorted([make.job("init").name, make.job("aggregate").name])
