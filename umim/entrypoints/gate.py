"""The hospital's side of its own Job: its policy, its key and its record. Whatever leaves passes here, see ADR 0011."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from umim import contract
from umim.api.artifacts import UpdateManifest
from umim.api.jobs import HospitalPolicy, SiteJobConfig
from umim.artifacts.audit import AuditLog
from umim.artifacts.manifests import canonical_digest
from umim.artifacts.signing import Signer
from umim.errors import ConfigError, PolicyError
from umim.rounds.policy import check_open, check_policy
from umim.rounds.validity import problems
from umim.settings import first_problem


@dataclass(frozen=True)
class Mounts:
    """What the hospital gives to its Job: folders where its volumes are mounted."""

    policy: Path = Path(contract.POLICY_MOUNT)
    """Its ConfigMap."""
    signing: Path = Path(contract.SIGNING_MOUNT)
    """The Secret with its private key. Empty where it has none."""
    work: Path = Path(contract.WORK_MOUNT)
    """Its work volume."""


class Gate:
    """Lets a site's Job begin, go on and deliver as far as the hospital's policy allows."""

    def __init__(
        self, policy: HospitalPolicy, signer: Signer | None, audit: AuditLog, now: Callable[[], datetime]
    ) -> None:
        self._policy = policy
        self._signer = signer
        self._audit = audit
        self._now = now

    @classmethod
    def open(cls, config: SiteJobConfig, gpus: int, mounts: Mounts, now: Callable[[], datetime]) -> Gate:
        """Return the gate of a Job that its hospital's policy allows. ``gpus`` is the number of GPUs that it sees.

        Raises PolicyError when there is no policy, it forbids the Job, or the private key is not the policy's;
        WindowClosedError when the Job may not run now.
        """
        found = read_policy(mounts.policy / contract.POLICY_FILE)
        check_policy(config, found, gpus)
        signer = None if found.spec.public_key is None else read_signer(mounts.signing, found.spec.public_key)
        gate = cls(found, signer, AuditLog(mounts.work, config, now), now)
        gate.check_open()
        return gate

    def check_open(self) -> None:
        """Raise WindowClosedError when the hospital's time window has closed."""
        check_open(self._policy, self._now())

    def seal(self, manifest: UpdateManifest) -> UpdateManifest:
        """Sign what is about to leave, and note it. Raises WindowClosedError."""
        self.check_open()
        if self._signer is not None:
            manifest = self._signer.sign_update(manifest)
        self._audit.record("intent", manifest, canonical_digest(manifest))
        return manifest

    def delivered(self, manifest: UpdateManifest) -> None:
        """Note that an update is committed."""
        self._audit.record("done", manifest, canonical_digest(manifest))


def read_policy(path: Path) -> HospitalPolicy:
    """Return a hospital's policy. Raises PolicyError naming the file, the field and what is wrong with it."""
    if not path.is_file():
        raise PolicyError(
            f"there is no {path}: the hospital's policy is ConfigMap {contract.policy_name('NAME')} of its namespace, "
            "which charts/umim-hospital makes; without it nothing is trained"
        )
    try:
        policy = HospitalPolicy.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise PolicyError(f"{path}: {first_problem(error)}") from error
    for problem in problems(policy.spec, "spec"):
        raise PolicyError(f"{path}: {problem}")
    return policy


def read_signer(folder: Path, public_key: str) -> Signer:
    """Return the hospital's signer. Raises PolicyError.

    The operator can replace the Secret, but not the public key in the policy.
    """
    try:
        signer = Signer.from_pem(folder / contract.SIGNING_FILE)
    except ConfigError as error:
        raise PolicyError(f"the hospital's policy has a publicKey, so its Jobs must sign: {error}") from error
    if signer.public_key != public_key:
        raise PolicyError(
            f"the private key in {folder} belongs to publicKey {signer.public_key}, the hospital's policy has "
            f"{public_key}"
        )
    return signer
