"""The policies grant what each role needs, as documents. tests/contract checks them on a real MinIO."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest

from umim import contract
from umim.api.base import ModelReference
from umim.artifacts import policies
from umim.artifacts.policies import Policy

BUCKET = "umim"
DIGEST = "a" * 64
PARTS = "b" * 64
PARENT = ModelReference(name="base", digest=DIGEST, parts_digest=PARTS)
JOBS = {
    "site": policies.site_policy(BUCKET, "u1", "ns.site", 2, PARENT),
    "init": policies.init_policy(BUCKET, "u1"),
    "aggregate": policies.aggregate_policy(BUCKET, "u1", PARENT),
}


def grants(policy: Policy) -> set[tuple[str, str]]:
    return {
        (action, resource)
        for statement in policy["Statement"]
        for action in statement["Action"]
        for resource in statement["Resource"]
    }


@pytest.mark.parametrize("job", JOBS)
def test_the_operator_may_do_all_that_it_hands_on(job: str) -> None:
    """STS intersects the session's policy with the operator's: what is missing there is denied to the Job."""
    operator = grants(policies.operator_policy(BUCKET))
    for action, resource in grants(JOBS[job]):
        assert any(action == own and fnmatchcase(resource, pattern) for own, pattern in operator), (action, resource)


@pytest.mark.parametrize("job", JOBS)
def test_no_job_lists_or_deletes_but_for_its_own_checkpoints(job: str) -> None:
    harmless = {"s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"}
    others = {(action, resource) for action, resource in grants(JOBS[job]) if action not in harmless}
    own = f"arn:aws:s3:::umim/rounds/u1/{job}/checkpoints/*"
    assert others == (set() if job == "site" else {("s3:DeleteObject", own), ("s3:ListBucket", "arn:aws:s3:::umim")})
    listed = [part["Condition"] for part in JOBS[job]["Statement"] if "s3:ListBucket" in part["Action"]]
    prefix = f"rounds/u1/{job}/checkpoints/*"
    assert listed == ([] if job == "site" else [{"StringLike": {"s3:prefix": [prefix]}}])


def test_a_site_reaches_its_parent_and_its_own_attempt() -> None:
    resources = {resource.removeprefix("arn:aws:s3:::umim/") for _, resource in grants(JOBS["site"])}
    assert resources == {
        contract.model_key(DIGEST),
        contract.model_manifest_key(DIGEST),
        contract.parts_key(DIGEST, PARTS),
        "rounds/u1/sites/ns.site/2/*",
    }


def test_all_policies_are_of_one_version_and_only_allow() -> None:
    for policy in (*JOBS.values(), policies.operator_policy(BUCKET)):
        assert policy["Version"] == "2012-10-17"
        assert {statement["Effect"] for statement in policy["Statement"]} == {"Allow"}
