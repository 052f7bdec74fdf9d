"""The short memory of Hospitals: fewer requests, and no consent that is older than it may be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import pytest

from tests.unit.operator import make
from tests.unit.operator.make import A, B
from umim_operator.hospitals import FEW, MEMORY_SECONDS, Hospitals
from umim_operator.kube import Kube, MissingError

Object = dict[str, Any]


def body(site: str, federations: tuple[str, ...] = (make.FEDERATION,)) -> Object:
    reference = make.reference(site)
    spec = make.hospital_spec(federations=list(federations)).to_dict()
    return {"metadata": {"namespace": reference.namespace, "name": reference.name}, "spec": spec}


class Server:
    """An API server with Hospitals, and the requests that it got."""

    def __init__(self, *sites: str) -> None:
        self.bodies = {site: body(site) for site in sites}
        self.requests: list[str] = []
        self.meanwhile = lambda: None
        """What happens while a request is on its way."""

    def get(self, kind: str, namespace: str, name: str) -> Object:
        assert kind == "Hospital"
        self.requests.append(f"{namespace}.{name}")
        found = self.bodies.get(f"{namespace}.{name}")
        self.meanwhile()
        if found is None:
            raise MissingError(404, "not found")
        return found

    def each(
        self, kind: str, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> Iterator[Object]:
        assert (kind, namespace) == ("Hospital", None)
        self.requests.append(f"all with {dict(labels or {})}")
        yield from self.bodies.values()


class World:
    def __init__(self, *sites: str) -> None:
        self.server = Server(*sites)
        self.now = 100.0
        self.hospitals = Hospitals(cast(Kube, self.server), lambda: self.now)

    def consenting(self, *sites: str) -> list[str]:
        found = self.hospitals.get([make.reference(site) for site in sites])
        return [site for site, view in found.items() if view.spec is not None and view.spec.federations]


def test_a_hospital_is_asked_for_once_in_a_while_however_often_rounds_look() -> None:
    world = World(A, B)
    for _ in range(10):
        assert world.consenting(A, B) == [A, B]
    assert sorted(world.server.requests) == [A, B]


def test_a_withdrawn_consent_is_seen_at_once_when_the_watch_reports_it() -> None:
    world = World(A, B)
    assert world.consenting(A, B) == [A, B]
    world.server.bodies[A] = body(A, ())
    del world.server.bodies[B]
    world.hospitals.forget(A)
    world.hospitals.forget(B)
    assert world.consenting(A, B) == []


def test_a_withdrawn_consent_is_seen_after_seconds_when_the_watch_misses_it() -> None:
    world = World(A)
    assert world.consenting(A) == [A]
    del world.server.bodies[A]
    world.now += MEMORY_SECONDS
    assert world.consenting(A) == []


def test_a_hospital_that_did_not_exist_is_seen_when_it_comes() -> None:
    world = World()
    assert world.consenting(A) == []
    world.server.bodies[A] = body(A)
    assert world.consenting(A) == [], "it is remembered that there was none"
    world.hospitals.forget(A)
    assert world.consenting(A) == [A]


def test_an_answer_that_was_on_its_way_when_the_hospital_changed_is_not_remembered() -> None:
    world = World(A)

    def change() -> None:
        world.now += 0.1
        world.server.bodies[A] = body(A, ())
        world.hospitals.forget(A)
        world.server.meanwhile = lambda: None

    world.server.meanwhile = change
    assert world.consenting(A) == [A], "the answer was right when it was given"
    assert world.consenting(A) == []


@pytest.mark.parametrize(("count", "requests"), [(FEW, FEW), (FEW + 1, 1)])
def test_many_hospitals_are_read_by_one_list(count: int, requests: int) -> None:
    sites = [f"hospital-{number:03d}.ct" for number in range(count)]
    world = World(*sites, B)
    for _ in range(2):
        assert world.consenting(*sites) == sites
    assert len(world.server.requests) == requests


def test_a_selector_always_asks() -> None:
    world = World(A, B)
    for _ in range(2):
        assert list(world.hospitals.select({"umim.dev/modality": "ct"})) == [A, B]
    assert world.server.requests == ["all with {'umim.dev/modality': 'ct'}"] * 2


def test_what_is_no_longer_asked_for_is_not_held_in_memory() -> None:
    world = World(A, B)
    world.consenting(A)
    world.now += MEMORY_SECONDS
    world.consenting(B)
    assert list(world.hospitals._read) == [B]
