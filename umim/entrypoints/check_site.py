"""``helm test`` of a hospital: could a Job train here? ``python -m umim.entrypoints.check_site``.

Runs in a Pod that mounts what a site's Job mounts. Reads the first image and writes to the work volume; nothing leaves.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile

from umim import contract
from umim.api.jobs import HospitalPolicy
from umim.data.load import READERS
from umim.entrypoints.gate import Mounts, read_policy, read_signer
from umim.entrypoints.runner import run_job
from umim.errors import ConfigError, DataError
from umim.rounds.configs import dataset_location

SERVICE = "umim-check-site"

LOG = logging.getLogger(__name__)


def main(_env: Mapping[str, str], mounts: Mounts | None = None) -> None:
    """Check policy, key, images and work volume. Raises UmimError about what keeps Jobs from training."""
    mounts = mounts or Mounts()
    policy = read_policy(mounts.policy / contract.POLICY_FILE)
    if policy.spec.federations:
        LOG.info("the hospital consents to %s", ", ".join(policy.spec.federations))
    else:
        LOG.warning("the hospital consents to nobody yet: list namespaces of federations in hospital.federations")
    if policy.spec.public_key is not None:
        read_signer(mounts.signing, policy.spec.public_key)
        LOG.info("the private key is that of the policy's publicKey")
    _check_images(policy)
    _check_work(mounts.work)


def _check_images(policy: HospitalPolicy) -> None:
    location = dataset_location(policy.spec.data)
    if next(READERS[location.format](location, lambda _done, _total: None), None) is None:
        raise DataError(f"{location.path} holds no image of format {location.format}")
    LOG.info("%s: the first image of format %s can be read", location.path, location.format)


def _check_work(folder: Path) -> None:
    try:
        with NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"the work volume at {folder} cannot be written ({error.strerror}): let group {os.getgid()} write there, "
            "or choose a StorageClass that heeds fsGroup"
        ) from error
    LOG.info("%s can be written", folder)


if __name__ == "__main__":
    sys.exit(run_job(main, SERVICE, os.environ, Path(contract.TERMINATION_LOG)))
