"""Prepares the object store for the charts: ``python -m umim.entrypoints.store_setup``. Runs again without harm."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from umim import contract
from umim.artifacts.provision import provision
from umim.entrypoints.runner import run_job
from umim.settings import StoreSetupSettings

SERVICE = "umim-store-setup"
PATIENCE_SECONDS = 180.0


def main(env: Mapping[str, str]) -> None:
    """Create bucket, policy and operator user as ``env`` says, see ``StoreSetupSettings``."""
    provision(StoreSetupSettings.from_env(env), PATIENCE_SECONDS)


if __name__ == "__main__":
    sys.exit(run_job(main, SERVICE, os.environ, Path(contract.TERMINATION_LOG)))
