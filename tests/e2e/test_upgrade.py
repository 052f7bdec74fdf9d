"""The upgrade from the version before: what it stored lives on, and a round that it took is carried out.

By its name it runs after all others: the MinIO of the tests keeps nothing over a restart, and the version before has no
TLS, so that MinIO starts anew. Of that version there is the chart, not the operator: the round is suspended until then.
"""

from __future__ import annotations

import json

import pytest

from hack.testenv.hospitals import NAME, Hospitals
from hack.testenv.platform import PREFIX, ROOT, SYSTEM, Platform
from hack.testenv.platform import RELEASE as PLATFORM
from hack.testenv.rounds import RANDOM, Round, round_body

pytestmark = pytest.mark.alone("it installs the version before")

TAKEN = ("minio", "redis", "federations")
"""Values of the tests' release that the chart before takes, too."""
KEPT = ("umim-minio", "umim-object-store", "umim-redis")


def _before(chart: str) -> str:
    (found,) = (ROOT / "tests/data/charts").glob(f"{chart}-[0-9]*.tgz")
    return str(found)


def test_what_the_version_before_stored_lives_on_and_its_round_is_carried_out(
    platform: Platform, hospitals: Hospitals
) -> None:
    values = platform.helm.values(PLATFORM, SYSTEM) or {}
    site = hospitals.add(f"{PREFIX}-upgrade", consent=False)
    try:
        taken = {name: values[name] for name in TAKEN if name in values}
        platform.helm.install(PLATFORM, _before("umim"), SYSTEM, taken, hooks=False)
        assert "queueName" not in _definition(platform), "the definitions are those of the version before"
        hospitals.join(site, chart=_before("umim-hospital"))
        round_ = Round.create(platform, round_body("upgrade", [site], RANDOM, suspend=True))
        secrets = {name: platform.secret(SYSTEM, name) for name in KEPT}
        consent = platform.api.get("Hospital", site.namespace, NAME)
    finally:
        platform.helm.install(PLATFORM, "umim", SYSTEM, values, wait=True)
    assert "queueName" in _definition(platform)
    assert {name: platform.secret(SYSTEM, name) for name in KEPT} == secrets
    hospitals.join(site)
    after = platform.api.get("Hospital", site.namespace, NAME)
    assert (after["metadata"]["uid"], after["spec"]) == (consent["metadata"]["uid"], consent["spec"])
    round_.wait_phase("Suspended")
    round_.set(suspend=False)
    round_.wait_phase("Complete")
    assert [(item["phase"], item["failures"]) for item in round_.status["sites"]] == [("Succeeded", 0)]


def _definition(platform: Platform) -> str:
    return json.dumps(platform.api.get("CustomResourceDefinition", "", "hospitals.umim.dev"))
