"""`helm test` of both charts."""

from __future__ import annotations

from pathlib import Path

import pytest

from hack.testenv.helm import HelmError
from hack.testenv.hospitals import RELEASE, Hospitals, Site
from hack.testenv.platform import FEDERATION, PREFIX, SYSTEM, Platform
from hack.testenv.platform import RELEASE as PLATFORM


def test_helm_test_finds_that_the_platform_works(platform: Platform, sites: tuple[Site, Site, Site]) -> None:
    told = platform.helm.test(PLATFORM, SYSTEM)
    for line in (
        "cluster: Kubernetes 1.34",
        "store: answers",
        "credentials of Jobs: the store mints",
        "Redis: rediss://",
    ):
        assert f"ok       {line}" in told
    assert f"ok       operator's rights in {FEDERATION}: it may run Jobs" in told
    assert sites[0].name in told


def test_helm_test_of_a_hospital_reads_its_images_as_a_job_would(
    platform: Platform, sites: tuple[Site, Site, Site]
) -> None:
    told = platform.helm.test(RELEASE, sites[0].namespace)
    assert f"the hospital consents to {FEDERATION}" in told
    assert "the first image of format npz can be read" in told
    assert "/work can be written" in told


def test_helm_test_of_a_hospital_without_its_images_fails(platform: Platform, hospitals: Hospitals) -> None:
    def nothing(path: Path) -> None:
        path.with_name("notes.txt").write_text("the images come tomorrow")

    site = hospitals.add(f"{PREFIX}-empty", prepare=nothing)
    with pytest.raises(HelmError):
        platform.helm.test(RELEASE, site.namespace)
    (pod,) = [item for item in platform.api.select("Pod", site.namespace) if item["metadata"]["name"] == "site-test"]
    (state,) = pod["status"]["containerStatuses"]
    assert state["state"]["terminated"]["exitCode"] == 65
