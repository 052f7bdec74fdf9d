"""What the console keeps of the cluster."""

from __future__ import annotations

from datetime import UTC, datetime

from tests.unit.cli.samples import hospital_object, round_object
from tests.unit.console.samples import filled, named
from umim.console.cluster import Cache

FIRST = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
LATER = datetime(2026, 11, 24, 12, 5, tzinfo=UTC)


def test_a_change_replaces_the_object_and_a_deletion_forgets_it() -> None:
    cache = filled()
    cache.put("federationrounds", round_object(phase="Suspended"))
    found = cache.snapshot().round("federation", "demo-1")
    assert found is not None
    assert found.status.phase == "Suspended"
    cache.remove("federationrounds", round_object())
    assert cache.snapshot().round("federation", "demo-1") is None


def test_a_new_list_forgets_what_is_not_in_it() -> None:
    cache = filled()
    cache.replace("federationrounds", [named(round_object(), "other")])
    assert [one.name for one in cache.snapshot().rounds] == ["other"]


def test_many_viewers_share_one_snapshot_until_something_changes() -> None:
    cache = filled()
    before = cache.snapshot()
    assert cache.snapshot() is before
    cache.put("hospitals", hospital_object("z", "new"))
    assert cache.snapshot() is not before


def test_resources_are_sorted_by_namespace_and_name() -> None:
    cache = Cache()
    cache.replace("hospitals", [hospital_object(letter, name) for letter, name in ("bx", "ay", "az")])
    assert [one.site for one in cache.snapshot().hospitals] == ["hospital-a.y", "hospital-a.z", "hospital-b.x"]


def test_a_resource_of_another_version_is_named_and_does_not_hide_the_others() -> None:
    cache = filled()
    odd = named(round_object(), "odd")
    odd["spec"]["teleport"] = True
    cache.put("federationrounds", odd)
    seen = cache.snapshot()
    assert [(one.kind, one.name) for one in seen.unreadable] == [("federationrounds", "odd")]
    assert "teleport" in seen.unreadable[0].message
    assert len(seen.rounds) == 3


def test_it_is_complete_only_when_every_kind_was_read() -> None:
    cache = Cache()
    for kind in ("federationrounds", "federations", "globalmodels"):
        cache.replace(kind, [])
        assert not cache.complete
    assert cache.snapshot().unread == ("hospitals",)
    cache.replace("hospitals", [])
    assert cache.complete


def test_silence_of_the_api_server_counts_from_its_first_failure_and_ends_with_an_answer() -> None:
    cache = filled()
    cache.failed("hospitals", FIRST, "no answer")
    cache.failed("hospitals", LATER, "still none")
    seen = cache.snapshot()
    assert (seen.stale_since, seen.problem) == (FIRST, "still none")
    assert len(seen.hospitals) == 2
    cache.answered("hospitals")
    assert cache.snapshot().stale_since is None


def test_what_is_for_the_api_server_alone_is_not_kept() -> None:
    assert "managedFields" not in filled().snapshot().rounds[0].raw["metadata"]
