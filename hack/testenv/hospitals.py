"""Hospitals of the tests: a namespace each, volumes on this host, and the real umim-hospital chart."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hack.testenv.api import Object
from hack.testenv.images import write_textures
from hack.testenv.platform import FEDERATION, SYSTEM, TEST_LABEL, Platform
from hack.testenv.waiting import wait_until
from umim.artifacts.signing import Signer
from umim.cli.verify import signing_secret

NAME = "radiology"
RELEASE = "site"
USER = 65532
IMAGES = 24


@dataclass(frozen=True)
class Site:
    """One hospital of the tests."""

    namespace: str
    folder: Path
    """Holds the volumes ``data`` and ``work`` of the hospital."""

    @property
    def name(self) -> str:
        """The site's name in status and object keys."""
        return f"{self.namespace}.{NAME}"

    @property
    def reference(self) -> dict[str, str]:
        """The site as a round names it."""
        return {"namespace": self.namespace, "name": NAME}


class Hospitals:
    """Makes and removes hospitals."""

    def __init__(self, platform: Platform, root: Path) -> None:
        self._platform = platform
        self._root = root
        self._made: dict[str, Site] = {}

    def add(
        self,
        namespace: str,
        hospital: dict[str, Any] | None = None,
        *,
        seed: int = 0,
        images: int = IMAGES,
        prepare: Callable[[Path], None] | None = None,
        gate: bool = False,
        consent: bool = True,
        quota: dict[str, str] | None = None,
        signer: Signer | None = None,
        admission: dict[str, Any] | None = None,
    ) -> Site:
        """Make a hospital with random textures, or what ``prepare`` writes to a path, and return it.

        hospital: values of the chart under ``hospital``. gate: the data volume is missing until ``open_gate``, so
        that the site's Pod waits. consent: whether the Hospital resource exists; if not, see ``join``. signer: the
        hospital's key. admission: values of the chart under ``admissionPolicy``.
        """
        site = Site(namespace, self._root / namespace)
        data = site.folder / "data"
        data.mkdir(parents=True)
        (site.folder / "work").mkdir()
        os.chown(site.folder / "work", USER, USER)
        if prepare is None:
            write_textures(data / "images.npz", images, seed)
        else:
            prepare(data / "images.npz")
        self._platform.namespace(namespace)
        self._made[namespace] = site
        self._volume(site, "work")
        if not gate:
            self._volume(site, "data")
        if signer is not None:
            self._platform.api.apply(signing_secret(NAME, namespace, signer))
            hospital = {"publicKey": signer.public_key, **(hospital or {})}
        if consent:
            self.join(site, hospital, quota, admission)
        return site

    def join(
        self,
        site: Site,
        hospital: dict[str, Any] | None = None,
        quota: dict[str, str] | None = None,
        admission: dict[str, Any] | None = None,
        chart: str = "umim-hospital",
    ) -> None:
        """Install or upgrade the hospital's release: it takes part. chart: another version's."""
        terms = {"name": NAME, "federations": [FEDERATION], "data": {"format": "npz", "path": "images.npz"}}
        volume = {"storageClassName": "", "size": "1Gi"}
        values = {
            "hospital": {**terms, **(hospital or {})},
            "volumes": {part: {**volume, "volumeName": _volume_name(site, part)} for part in ("data", "work")},
            "quota": {"hard": {"requests.nvidia.com/gpu": "4", **(quota or {})}},
            "admissionPolicy": admission or {},
        }
        self._platform.helm.install(RELEASE, chart, site.namespace, values)

    def open_gate(self, site: Site) -> None:
        """Make the data volume that was missing."""
        self._volume(site, "data")

    def remove(self) -> None:
        """Remove all hospitals that were made, their volumes and folders."""
        remove_namespaces(self._platform, list(self._made))
        for site in self._made.values():
            shutil.rmtree(site.folder)

    def _volume(self, site: Site, part: str) -> None:
        claim = {"namespace": site.namespace, "name": f"{RELEASE}-{part}"}
        body = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": _volume_name(site, part), "labels": TEST_LABEL},
            "spec": {
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": str(site.folder / part), "type": "Directory"},
                "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **claim},
            },
        }
        self._platform.api.apply(body)


def sweep(platform: Platform) -> None:
    """Remove the namespaces, rounds and volumes that an interrupted run of the tests left."""
    left = [item["metadata"]["name"] for item in platform.api.select("Namespace", labels=TEST_LABEL)]
    remove_rounds(platform)
    remove_namespaces(platform, [name for name in left if name not in (SYSTEM, FEDERATION)])
    for item in platform.api.select("PersistentVolumeClaim", FEDERATION, TEST_LABEL):
        platform.api.delete("PersistentVolumeClaim", FEDERATION, item["metadata"]["name"])
    for item in platform.api.select("PersistentVolume", labels=TEST_LABEL):
        platform.api.delete("PersistentVolume", "", item["metadata"]["name"])


def remove_rounds(platform: Platform) -> None:
    """Delete all campaigns, rounds and models of the tests' federation.

    The models' objects stay: they are addressed by content, and another federation may use the same ones.
    """
    api = platform.api
    for kind in ("Federation", "FederationRound"):
        _remove_all(platform, kind)
    for item in api.select("GlobalModel", FEDERATION):
        api.delete("GlobalModel", FEDERATION, item["metadata"]["name"])


def _remove_all(platform: Platform, kind: str) -> None:
    api = platform.api
    for item in api.select(kind, FEDERATION):
        api.delete(kind, FEDERATION, item["metadata"]["name"])
    wait_until(
        f"every {kind} of the tests deleted",
        lambda: not api.select(kind, FEDERATION),
        90,
        lambda: _listing(api.select(kind, FEDERATION)),
    )


def remove_namespaces(platform: Platform, names: list[str]) -> None:
    """Delete namespaces with their volumes and wait until they are gone."""
    api = platform.api
    for name in names:
        api.delete("Namespace", "", name)
    wait_until(
        f"namespaces deleted: {', '.join(names)}",
        lambda: not any(api.find("Namespace", "", name) for name in names),
        120,
        lambda: _listing([body for name in names if (body := api.find("Namespace", "", name))]),
    )
    for name in names:
        for part in ("data", "work"):
            api.delete("PersistentVolume", "", f"umim-test-{name}-{part}")


def _volume_name(site: Site, part: str) -> str:
    return f"umim-test-{site.namespace}-{part}"


def _listing(bodies: list[Object]) -> str:
    return "\n".join(f"{body['metadata']['name']}: {body.get('status')}" for body in bodies)
