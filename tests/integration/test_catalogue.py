"""Bad resources: each is rejected, where its annotation says, with a sentence that names the field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.testenv.api import ApiError
from hack.testenv.campaigns import Campaign
from hack.testenv.hospitals import RELEASE, Hospitals
from hack.testenv.platform import FEDERATION, PREFIX, Platform
from hack.testenv.rounds import Round
from hack.testenv.waiting import wait_until
from umim import contract

Object = dict[str, Any]

FILES = sorted((Path(__file__).parents[1] / "catalogue").glob("*.yaml"))
PLACES = ("admission", "federation", "round", "site")
SITES = f"{PREFIX}-catalogue"
"""Namespace of the catalogue's hospitals."""


def _read(path: Path) -> list[Object]:
    """Return the file's resources, the bad one last, in the namespaces of this run of the tests."""
    text = path.read_text().replace("t-federation", FEDERATION).replace("t-catalogue", SITES)
    return [body for body in yaml.safe_load_all(text) if body]


def _note(path: Path, name: str) -> str:
    note: str = _read(path)[-1]["metadata"]["annotations"][f"umim.dev/{name}"]
    return note


def _at(*places: str) -> list[Any]:
    return [pytest.param(path, id=path.stem) for path in FILES if _note(path, "rejected-by") in places]


def test_the_catalogue_is_large_and_says_for_each_where_and_how_it_is_rejected() -> None:
    assert len(FILES) >= 25
    for path in FILES:
        assert _note(path, "rejected-by") in PLACES
        assert len(_note(path, "says")) >= 15


def test_no_two_resources_that_the_api_server_takes_have_the_same_name() -> None:
    bodies = [body for path in FILES if _note(path, "rejected-by") != "admission" for body in _read(path)]
    names = [(body["kind"], body["metadata"]["namespace"], body["metadata"]["name"]) for body in bodies]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("path", _at("admission"))
def test_it_is_rejected_at_admission(platform: Platform, path: Path) -> None:
    (body,) = _read(path)
    with pytest.raises(ApiError) as caught:
        platform.api.create(body, dry_run=True)
    assert _note(path, "says") in str(caught.value)


@pytest.fixture(scope="module")
def applied(platform: Platform, hospitals: Hospitals, start_model: Any) -> dict[str, Round]:
    """All rounds that the API server takes, applied at once with what belongs to them, by file."""
    hospitals.add(SITES)
    found = {}
    for path in FILES:
        if _note(path, "rejected-by") in ("round", "site"):
            *others, body = _read(path)
            for other in others:
                platform.api.apply(other)
                if other["kind"] == "Hospital":
                    platform.api.apply(_policy(other))
            found[path.stem] = Round.create(platform, body)
    return found


def _policy(hospital: Object) -> Object:
    """Return the ConfigMap with which a hospital says the same to its Jobs, as the chart makes it."""
    meta = hospital["metadata"]
    own = {"namespace": meta["namespace"], "name": meta["name"], "spec": hospital["spec"]}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": contract.policy_name(meta["name"]), "namespace": meta["namespace"]},
        "data": {contract.POLICY_FILE: json.dumps(own)},
    }


@pytest.mark.parametrize("path", _at("federation"))
def test_it_is_rejected_by_a_condition_of_the_campaign(platform: Platform, start_model: Any, path: Path) -> None:
    (body,), says = _read(path), _note(path, "says")
    campaign = Campaign.create(platform, body)
    wait_until(
        f"{says!r} in a condition", lambda: _says(campaign.status.get("conditions", []), says), 60, campaign.dump
    )
    assert "globalModel" not in campaign.status
    campaign.delete()


@pytest.mark.parametrize("path", _at("round"))
def test_it_is_rejected_by_a_condition_of_the_round(applied: dict[str, Round], path: Path) -> None:
    round_, says = applied[path.stem], _note(path, "says")
    wait_until(f"{says!r} in a condition", lambda: _says(round_.status.get("conditions", []), says), 120, round_.dump)
    status = round_.status
    assert status["phase"] in ("Pending", "Failed")
    assert "globalModel" not in status


@pytest.mark.parametrize("path", _at("site"))
def test_it_is_rejected_by_the_status_of_the_site(applied: dict[str, Round], path: Path) -> None:
    round_, says = applied[path.stem], _note(path, "says")
    wait_until(f"{says!r} at a site", lambda: _says(round_.status.get("sites", []), says), 120, round_.dump)
    (site,) = round_.status["sites"]
    assert site["phase"] in ("Refused", "Failed")
    assert "updateDigest" not in site


def test_the_volumes_that_the_catalogue_names_exist(platform: Platform, applied: dict[str, Round]) -> None:
    claims = {item["metadata"]["name"] for item in platform.api.select("PersistentVolumeClaim", SITES)}
    assert claims == {f"{RELEASE}-data", f"{RELEASE}-work"}


def _says(items: list[Object], sentence: str) -> bool:
    return any(sentence in item.get("message", "") for item in items)
