"""Who may do what in the bucket, as IAM policy documents that S3 servers understand. Pure.

A session policy given to STS AssumeRole is intersected with the policy of the user that asks. So the
operator's policy holds all that the Jobs' policies grant; ``tests/unit/artifacts`` checks that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from umim import contract
from umim.api.base import ModelReference

Policy = dict[str, Any]

READ = ("s3:GetObject",)
WRITE = ("s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts")
DELETE = ("s3:DeleteObject",)

ROUNDS = "rounds/*"
MODELS = "models/sha256/*"


def site_policy(bucket: str, uid: str, site: str, attempt: int, parent: ModelReference) -> Policy:
    """One attempt of one site: read the parent model, read and write its own prefix. No listing, no deletion."""
    return _document(
        _allow(READ, bucket, *_model_keys(parent)),
        _allow((*READ, *WRITE), bucket, contract.site_prefix(uid, site, attempt) + "*"),
    )


def init_policy(bucket: str, uid: str) -> Policy:
    """The Job that makes the start model: read its round, write models and its result, keep its checkpoints."""
    return _server_job(bucket, uid, "init")


def aggregate_policy(bucket: str, uid: str, parent: ModelReference) -> Policy:
    """The aggregator: read its round and all of the parent, write models and its result, keep its checkpoints.

    Writing cannot be narrowed to one model: its key is the digest of what is not computed yet.
    """
    return _server_job(bucket, uid, "aggregate", contract.model_prefix(parent.digest) + "*")


def operator_policy(bucket: str) -> Policy:
    """The operator: list and delete rounds, and all that it hands on to Jobs."""
    return _document(
        _allow((*READ, *WRITE, *DELETE), bucket, ROUNDS),
        _allow((*READ, *WRITE), bucket, MODELS),
        _listing(bucket, ROUNDS),
    )


def _model_keys(model: ModelReference) -> list[str]:
    """Return the keys of one model and of the parts that the reference names; of no other parts."""
    keys = [contract.model_key(model.digest), contract.model_manifest_key(model.digest)]
    return keys if model.parts_digest is None else [*keys, contract.parts_key(model.digest, model.parts_digest)]


def _server_job(bucket: str, uid: str, role: contract.Role, *parent: str) -> Policy:
    """Return a policy of few and long statements: STS takes at most 2048 characters.

    Below its own checkpoints the Job also lists and deletes: it finds those of an earlier Pod, and removes old ones.
    """
    checkpoints = contract.checkpoint_prefix(uid, role) + "*"
    return _document(
        _allow(READ, bucket, contract.round_prefix(uid) + "*", *parent),
        _allow(WRITE, bucket, contract.result_key(uid, role), MODELS, checkpoints),
        _allow(DELETE, bucket, checkpoints),
        _listing(bucket, checkpoints),
    )


def _listing(bucket: str, prefix: str) -> dict[str, Any]:
    return {
        "Effect": "Allow",
        "Action": ["s3:ListBucket"],
        "Resource": [f"arn:aws:s3:::{bucket}"],
        "Condition": {"StringLike": {"s3:prefix": [prefix]}},
    }


def _allow(actions: Sequence[str], bucket: str, *keys: str) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": list(actions), "Resource": [f"arn:aws:s3:::{bucket}/{key}" for key in keys]}


def _document(*statements: dict[str, Any]) -> Policy:
    return {"Version": "2012-10-17", "Statement": list(statements)}
