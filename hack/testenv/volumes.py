"""Folders of this host as volumes of the tests' federation: the server's images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hack.testenv.platform import FEDERATION, TEST_LABEL, Platform
from hack.testenv.waiting import wait_until


@contextmanager
def federation_volume(platform: Platform, claim: str, folder: Path) -> Iterator[None]:
    """Bind a claim in the federation's namespace to a folder, while the block runs. No Pod may use it at the end."""
    api, name = platform.api, f"umim-test-{FEDERATION}-{claim}"
    size = {"storage": "1Gi"}
    volume = {
        "capacity": size,
        "accessModes": ["ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": "Retain",
        "hostPath": {"path": str(folder), "type": "Directory"},
        "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": FEDERATION, "name": claim},
    }
    wanted = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "",
        "volumeName": name,
        "resources": {"requests": size},
    }
    meta = {"name": name, "labels": TEST_LABEL}
    api.apply({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": meta, "spec": volume})
    meta = {"name": claim, "namespace": FEDERATION, "labels": TEST_LABEL}
    api.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": wanted})
    try:
        yield
    finally:
        api.delete("PersistentVolumeClaim", FEDERATION, claim)
        wait_until(
            f"claim {claim} deleted",
            lambda: api.find("PersistentVolumeClaim", FEDERATION, claim) is None,
            60,
            lambda: str(api.find("PersistentVolumeClaim", FEDERATION, claim)),
        )
        api.delete("PersistentVolume", "", name)
