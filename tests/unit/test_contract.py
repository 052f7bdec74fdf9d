"""Names that operator and Jobs agree on."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umim import contract
from umim.contract import Role

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")

labels = st.text("ab01-", max_size=61).map(lambda middle: f"a{middle}z")
long_sites = st.text("ab01-.", min_size=62, max_size=200).map(lambda middle: f"a.{middle}z")
names = st.lists(labels, min_size=1, max_size=4).map(".".join).filter(lambda name: len(name) <= 200)
sites = st.tuples(labels, names).map(".".join)
roles = st.sampled_from(["init", "site", "aggregate"])
attempts = st.integers(min_value=1, max_value=10**6)


@settings(deadline=None)
@given(roles, names, st.uuids().map(str), sites, attempts)
def test_job_names_are_dns_labels(role: Role, name: str, uid: str, site: str, attempt: int) -> None:
    assert DNS_LABEL.fullmatch(contract.job_name(role, name, uid, site, attempt))


@settings(deadline=None)
@given(roles, names, st.uuids().map(str), sites, attempts)
def test_job_names_are_deterministic_and_end_in_the_attempt(
    role: Role, name: str, uid: str, site: str, attempt: int
) -> None:
    found = contract.job_name(role, name, uid, site, attempt)
    assert found == contract.job_name(role, name, uid, site, attempt)
    assert found.endswith(f"-{attempt}")


@settings(deadline=None)
@given(names, st.uuids().map(str), st.lists(sites, min_size=2, max_size=5, unique=True))
def test_job_names_of_two_sites_differ(name: str, uid: str, found: list[str]) -> None:
    assert len({contract.job_name("site", name, uid, site, 1) for site in found}) == len(found)


@settings(deadline=None)
@given(names, st.lists(st.uuids().map(str), min_size=2, max_size=2, unique=True))
def test_job_names_of_two_rounds_of_one_name_differ(name: str, uids: list[str]) -> None:
    assert contract.job_name("init", name, uids[0], "", 1) != contract.job_name("init", name, uids[1], "", 1)


@settings(deadline=None)
@given(sites)
def test_site_labels_are_valid_and_short_sites_stay_readable(site: str) -> None:
    label = contract.site_label(site)
    assert LABEL_VALUE.fullmatch(label)
    assert label == site or len(site) > 63


@settings(deadline=None)
@given(st.lists(long_sites, min_size=2, max_size=2, unique=True))
def test_labels_of_long_sites_differ(found: list[str]) -> None:
    assert contract.site_label(found[0]) != contract.site_label(found[1])


def test_a_long_common_beginning_does_not_make_labels_equal() -> None:
    assert contract.site_label("a" * 63 + ".x") != contract.site_label("a" * 63 + ".y")


def test_everything_of_an_attempt_lies_under_its_own_prefix() -> None:
    prefix = contract.site_prefix("uid", "a.b", 2)
    assert prefix == "rounds/uid/sites/a.b/2/"
    assert contract.update_key("uid", "a.b", 2) == prefix + "update.safetensors"
    assert contract.update_manifest_key("uid", "a.b", 2) == prefix + "manifest.json"
    assert not contract.site_prefix("uid", "a.b", 21).startswith(prefix)


@pytest.mark.parametrize("role", ["init", "aggregate"])
def test_results_lie_under_the_round_and_outside_the_sites(role: Role) -> None:
    assert contract.result_key("uid", role) == f"rounds/uid/{role}/result.json"


def test_models_are_addressed_by_content_outside_of_rounds() -> None:
    assert contract.model_key("d" * 64) == f"models/sha256/{'d' * 64}/model.safetensors"
    assert contract.model_manifest_key("d" * 64) == f"models/sha256/{'d' * 64}/manifest.json"


def test_the_progress_of_a_site_has_a_stream_of_its_own() -> None:
    assert contract.progress_stream("uid", "a.b") == "umim:progress:uid:a.b"
