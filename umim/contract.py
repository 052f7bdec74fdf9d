"""Names that the operator and the Jobs agree on: labels, environment, object keys, Job names. Pure."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping
from typing import Literal

FINALIZER = "umim.dev/cleanup"
FIELD_MANAGER = "umim-operator"

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_ROUND_UID = "umim.dev/round-uid"
LABEL_ROUND_NAME = "umim.dev/round"
LABEL_ROUND_NAMESPACE = "umim.dev/round-namespace"
LABEL_ROLE = "umim.dev/role"
LABEL_SITE = "umim.dev/site"
LABEL_ATTEMPT = "umim.dev/attempt"
LABEL_FEDERATION = "umim.dev/federation"
LABEL_STAGE = "umim.dev/stage"
ANNOTATION_SITE = "umim.dev/site"
LABEL_QUEUE = "kueue.x-k8s.io/queue-name"
"""Kueue's label on a Job: the LocalQueue that admits it."""
LABEL_JOB_UID = "kueue.x-k8s.io/job-uid"
"""Kueue's label on a Workload: UID of the Job that it stands for."""
MANAGED_BY = "umim-operator"

ENV_CONFIG = "UMIM_CONFIG"
CONFIG_PIECE = 30_000
"""Characters of a configuration in one variable. Linux starts no program with a variable of 128 KiB or more, and the
aggregator of a thousand sites has a longer configuration."""
ENV_S3_ENDPOINT = "UMIM_S3_ENDPOINT"
ENV_S3_BUCKET = "UMIM_S3_BUCKET"
ENV_S3_REGION = "UMIM_S3_REGION"
ENV_S3_ACCESS_KEY = "UMIM_S3_ACCESS_KEY"
ENV_S3_SECRET_KEY = "UMIM_S3_SECRET_KEY"
ENV_S3_SESSION_TOKEN = "UMIM_S3_SESSION_TOKEN"
ENV_S3_CA = "UMIM_S3_CA"
ENV_REDIS_URL = "UMIM_REDIS_URL"
ENV_REDIS_USERNAME = "UMIM_REDIS_USERNAME"
ENV_REDIS_PASSWORD = "UMIM_REDIS_PASSWORD"
ENV_REDIS_CA = "UMIM_REDIS_CA"
ENV_TRACEPARENT = "TRACEPARENT"

DATA_MOUNT = "/data"
WORK_MOUNT = "/work"
POLICY_MOUNT = "/etc/umim/policy"
POLICY_FILE = "hospital.json"
"""Key in the hospital's ConfigMap, and name of the file below ``POLICY_MOUNT``."""
SIGNING_MOUNT = "/etc/umim/signing"
SIGNING_FILE = "ed25519.pem"
"""Key in the Secret with a private key, and name of the file below ``SIGNING_MOUNT``."""
FEDERATION_KEY = "federation"
"""Whose key the Jobs of the server sign with, see ``signing_name``. No Hospital may lie in their namespace."""
TERMINATION_LOG = "/dev/termination-log"


def config_variables(text: str) -> dict[str, str]:
    """Return the environment variables of a Job's configuration: UMIM_CONFIG, UMIM_CONFIG_2, ..."""
    pieces = [text[start : start + CONFIG_PIECE] for start in range(0, len(text), CONFIG_PIECE)]
    return {_config_variable(number): piece for number, piece in enumerate(pieces, start=1)}


def config_text(env: Mapping[str, str]) -> str:
    """Return what ``config_variables`` was given; empty where nothing is set."""
    pieces = itertools.takewhile(bool, (env.get(_config_variable(number), "") for number in itertools.count(1)))
    return "".join(pieces)


def _config_variable(number: int) -> str:
    return ENV_CONFIG if number == 1 else f"{ENV_CONFIG}_{number}"


MAX_NAME = 63
Role = Literal["init", "site", "aggregate"]


def job_name(role: Role, round_name: str, round_uid: str, site: str, attempt: int) -> str:
    """Return the deterministic Job name of an attempt, a DNS label of at most 63 characters.

    The readable part is cut; a hash over round UID, role and site keeps names apart.
    """
    digest = hashlib.sha256(f"{round_uid}/{role}/{site}".encode()).hexdigest()[:10]
    readable = re.sub(r"[^a-z0-9-]+", "-", f"{round_name}-{role}").strip("-")
    tail = f"-{digest}-{attempt}"
    return readable[: MAX_NAME - len(tail)].rstrip("-") + tail


def site_label(site: str) -> str:
    """Return the site as a label value: itself when it fits in 63 characters, else cut and hashed."""
    if len(site) <= MAX_NAME:
        return site
    return f"{site[:52].rstrip('.-')}-{hashlib.sha256(site.encode()).hexdigest()[:10]}"


def policy_name(hospital: str) -> str:
    """Return the name of the ConfigMap with a hospital's policy."""
    return f"umim-policy-{hospital}"


def signing_name(owner: str) -> str:
    """Return the name of the Secret with the private key of a hospital, or of the federation."""
    return f"umim-signing-{owner}"


MODEL_FILE = "model.safetensors"
MANIFEST_FILE = "manifest.json"
"""Names of a model's two files, in the store and where it is fetched to."""


MODELS = "models/sha256/"
"""Key prefix of all global models."""


def model_prefix(digest: str) -> str:
    """Return the key prefix of a global model."""
    return f"{MODELS}{digest}/"


def model_key(digest: str) -> str:
    """Return the key of a global model's tensors file."""
    return model_prefix(digest) + MODEL_FILE


def model_manifest_key(digest: str) -> str:
    """Return the key of a global model's manifest."""
    return model_prefix(digest) + MANIFEST_FILE


def parts_key(digest: str, parts_digest: str) -> str:
    """Return the key of what a global model holds besides its encoder: MIM decoder and shared heads."""
    return f"{model_prefix(digest)}parts/{parts_digest}.safetensors"


def optimiser_key(digest: str, slot_digest: str) -> str:
    """Return the key of what the server's optimiser remembers in one slot. ``digest`` is its model's."""
    return f"{model_prefix(digest)}optimiser/{slot_digest}.safetensors"


def round_prefix(round_uid: str) -> str:
    """Return the key prefix of everything that belongs to one round."""
    return f"rounds/{round_uid}/"


def site_prefix(round_uid: str, site: str, attempt: int) -> str:
    """Return the key prefix that one attempt of one site may write to."""
    return f"{round_prefix(round_uid)}sites/{site}/{attempt}/"


def update_key(round_uid: str, site: str, attempt: int) -> str:
    """Return the key of a site's tensors file."""
    return site_prefix(round_uid, site, attempt) + "update.safetensors"


def update_manifest_key(round_uid: str, site: str, attempt: int) -> str:
    """Return the key of a site's manifest: the commit marker of its update."""
    return site_prefix(round_uid, site, attempt) + "manifest.json"


def head_key(round_uid: str, site: str, attempt: int) -> str:
    """Return the key of the task head that a site lets out with its update."""
    return site_prefix(round_uid, site, attempt) + "head.safetensors"


def checkpoint_prefix(round_uid: str, role: Role) -> str:
    """Return the key prefix of the checkpoints of an init or aggregate Job, which outlive its Pod."""
    return f"{round_prefix(round_uid)}{role}/checkpoints/"


def result_key(round_uid: str, role: Role) -> str:
    """Return the key of the result of an init or aggregate Job."""
    return f"{round_prefix(round_uid)}{role}/result.json"


def progress_stream(round_uid: str, source: str) -> str:
    """Return the Redis stream to which a Job appends its live progress.

    ``source`` is the site, or the role of a Job of the server: a site's name has a dot, so that they never meet.
    """
    return f"umim:progress:{round_uid}:{source}"
