"""A hospital's public key is pinned with its first attempt in the round."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.operator import make
from tests.unit.operator.make import A, B, C
from umim.api.jobs import AggregateJobConfig
from umim_operator.state import Observed

KEY, OTHER = "A" * 43 + "=", "B" * 43 + "="
ROUND = make.spec()


def with_key(key: str | None) -> Observed:
    return make.observed(hospitals=make.hospitals() | {A: make.hospital(A, publicKey=key)})


def test_the_aggregator_gets_the_keys_of_the_hospitals_that_have_one() -> None:
    seen = with_key(KEY)
    status = make.step(ROUND, make.accepted(ROUND, seen), seen).status
    assert make.site(status, A).public_key == KEY
    jobs = replace(seen, jobs=tuple(make.job("site", name) for name in (A, B, C)))
    done = replace(make.ended(jobs, succeeded=(A, B, C)), updates=make.updates(A, B, C))
    (launch,) = make.step(ROUND, status, done).launches
    assert isinstance(launch.config, AggregateJobConfig)
    assert [one.public_key for one in launch.config.updates] == [KEY, None, None]


def test_a_key_that_changes_or_goes_away_during_the_round_does_not_count() -> None:
    status = make.step(ROUND, make.accepted(ROUND, with_key(KEY)), with_key(KEY)).status
    for later in (OTHER, None):
        jobs = tuple(make.job("site", name) for name in (A, B, C))
        assert make.site(make.step(ROUND, status, replace(with_key(later), jobs=jobs)).status, A).public_key == KEY


def test_a_key_that_comes_while_the_first_attempt_runs_does_not_count() -> None:
    status = make.step(ROUND, make.accepted(ROUND, with_key(None)), with_key(None)).status
    jobs = tuple(make.job("site", name) for name in (A, B, C))
    assert make.site(make.step(ROUND, status, replace(with_key(KEY), jobs=jobs)).status, A).public_key is None


def test_a_job_whose_launch_is_not_on_record_has_its_key_pinned_all_the_same() -> None:
    seen = with_key(KEY)
    accepted = make.accepted(ROUND, seen)  # the operator died after it made the Job, before it wrote the status
    jobs = replace(seen, jobs=(make.job("site", A, outcome="succeeded"),), updates=make.updates(A))
    site = make.site(make.step(ROUND, accepted, jobs).status, A)
    assert (site.phase, site.public_key) == ("Succeeded", KEY)
