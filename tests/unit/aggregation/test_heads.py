"""Heads of one task become one head where their sites agree; one that does not fit never spoils the encoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.unit.aggregation.conftest import UID, Federation, Tensors
from umim import contract
from umim.api.globalmodel import MOST_CLASSES, MOST_HEADS, SharedHead
from umim.artifacts.models import HeadFile, fetch_parts
from umim.artifacts.parts import read_parts, write_parts
from umim.models.state import ModelState

A, B, C = "hospital-a.x", "hospital-b.x", "hospital-c.x"
ENCODER = {"w": torch.zeros(2)}


def linear(value: float, classes: int = 2) -> dict[str, torch.Tensor]:
    return {"linear.weight": torch.full((classes, 3), value), "linear.bias": torch.full((classes,), value)}


def commit(federation: Federation, site: str, samples: int, tensors: Tensors, **head: Any) -> HeadFile:
    """Commit an update with a head."""
    made = federation.head(site, tensors, **head)
    federation.commit(site, {"w": torch.ones(2)}, samples, head=made)
    return made


def published(federation: Federation, **changes: Any) -> tuple[ModelState, list[SharedHead], dict[str, str]]:
    """Aggregate and return the model's parts, what its heads mean, and why heads of sites were left out."""
    result = federation.aggregate(**changes)
    assert result.model_digest is not None
    assert result.exclusions == []
    left_out = {item.site: item.message for item in result.head_exclusions}
    if result.parts_digest is None:
        return ModelState({}), result.heads, left_out
    model = federation.parent.model_copy(update={"digest": result.model_digest, "parts_digest": result.parts_digest})
    path = federation.folder / "published-parts"
    assert fetch_parts(federation.store, model, path)
    parts, heads = read_parts(path)
    assert heads == result.heads
    return ModelState.from_parts({}, parts), heads, left_out


def test_heads_that_agree_are_averaged_by_samples(federation: Federation) -> None:
    federation.start(ENCODER)
    commit(federation, B, 30, linear(2.0))
    commit(federation, A, 10, linear(4.0))
    state, heads, left_out = published(federation)
    assert heads == [SharedHead(task_name="tissue", task="classification", classes=["a", "b"], sites=[A, B])]
    assert state.heads["tissue"]["linear.weight"].flatten().tolist() == [2.5] * 6
    assert left_out == {}


def test_the_group_with_most_samples_wins_and_the_others_are_told_why(federation: Federation) -> None:
    federation.start(ENCODER)
    commit(federation, A, 10, linear(1.0), classes=("b", "a"))
    commit(federation, B, 10, linear(2.0))
    commit(federation, C, 10, linear(4.0))
    state, heads, left_out = published(federation)
    assert heads[0].sites == [B, C]
    assert state.heads["tissue"]["linear.bias"].tolist() == [3.0, 3.0]
    assert list(left_out) == [A]
    assert "classes ['b', 'a'] differ from ['a', 'b'] of hospital-b.x" in left_out[A]


def test_of_equal_groups_that_of_the_first_site_wins(federation: Federation) -> None:
    federation.start(ENCODER)
    commit(federation, B, 10, linear(2.0), task="multilabel")
    commit(federation, A, 10, linear(1.0))
    _, heads, left_out = published(federation)
    assert (heads[0].task, heads[0].sites) == ("classification", [A])
    assert "task multilabel differ from classification" in left_out[B]


def test_heads_of_other_tasks_are_merged_apart(federation: Federation) -> None:
    federation.start(ENCODER)
    commit(federation, A, 10, linear(1.0), task_name="tissue")
    commit(federation, B, 10, linear(2.0, 5), task_name="organ", classes=tuple("abcde"))
    state, heads, _ = published(federation)
    assert [head.task_name for head in heads] == ["organ", "tissue"]
    assert state.heads["organ"]["linear.bias"].shape == (5,)


def test_decoder_and_heads_of_the_parent_are_carried_on(federation: Federation) -> None:
    old = SharedHead(task_name="old", task="classification", classes=["x"], sites=[C])
    again = SharedHead(task_name="tissue", task="classification", classes=["a", "b"], sites=[C])
    parent = ModelState(ENCODER, {"mask": torch.ones(1)}, {"old": linear(7.0, 1), "tissue": linear(9.0)})
    federation.start(ENCODER, write_parts(parent.parts(), [again, old], federation.folder / "start-parts"))
    commit(federation, A, 10, linear(1.0))
    state, heads, _ = published(federation)
    assert heads == [old, again.model_copy(update={"sites": [A]})]
    assert state.mim["mask"].tolist() == [1.0]
    assert state.heads["old"]["linear.bias"].tolist() == [7.0]
    assert state.heads["tissue"]["linear.bias"].tolist() == [1.0, 1.0]


def test_a_model_without_parts_has_none(federation: Federation) -> None:
    federation.start(ENCODER)
    federation.commit(A, {"w": torch.ones(2)})
    result = federation.aggregate()
    assert (result.parts_digest, result.heads, result.head_exclusions) == (None, [], [])


def test_a_head_that_the_operator_did_not_see_is_not_touched(federation: Federation) -> None:
    federation.start(ENCODER)
    commit(federation, A, 10, linear(1.0))
    federation.updates[0] = federation.updates[0].model_copy(update={"head_digest": None})
    federation.store.delete(contract.head_key(UID, A, 1))
    assert published(federation)[1:] == ([], {})


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"linear.weight": torch.tensor([float("nan")])}, "tensor linear.weight holds values that are not finite"),
        ({"linear.weight": torch.zeros(2, dtype=torch.float64)}, "the type of tensor linear.weight is F64"),
        ({"count": torch.tensor(1)}, "the type of tensor count is I64, it must be F32"),
        ({"large": torch.zeros(400_000)}, "bytes, at most"),
    ],
)
def test_an_unusable_head_is_left_out_and_the_encoder_counts(
    federation: Federation, tensors: Tensors, message: str
) -> None:
    federation.start(ENCODER)
    commit(federation, A, 10, tensors)
    state, heads, left_out = published(federation)
    assert (state.heads, heads) == ({}, [])
    assert message in left_out[A]


def test_a_head_that_was_changed_after_the_operator_saw_it_is_left_out(federation: Federation) -> None:
    federation.start(ENCODER)
    commit(federation, A, 10, linear(1.0))
    federation.store.put(contract.head_key(UID, A, 1), b"changed")
    assert "has sha256" in published(federation)[2][A]


def test_a_model_holds_a_bounded_number_of_heads(federation: Federation) -> None:
    names = [f"task-{number}" for number in range(MOST_HEADS)]
    described = [SharedHead(task_name=name, task="classification", classes=["x"]) for name in names]
    parent = ModelState(ENCODER, {}, {name: linear(1.0, 1) for name in names})
    federation.start(ENCODER, write_parts(parent.parts(), described, federation.folder / "start-parts"))
    commit(federation, A, 10, linear(1.0))
    _, heads, left_out = published(federation)
    assert len(heads) == MOST_HEADS
    assert f"the model holds {MOST_HEADS} shared heads already" in left_out[A]


def test_the_order_of_arrival_does_not_change_the_parts(federation: Federation) -> None:
    federation.start(ENCODER)
    for number, site in enumerate((A, B, C), start=1):
        commit(federation, site, number, {"w": torch.randn(100, generator=torch.Generator().manual_seed(number))})
    digests = {federation.aggregate(updates=list(order)).parts_digest for order in orders(federation)}
    assert len(digests) == 1


def orders(federation: Federation) -> list[list[Any]]:
    updates = federation.updates
    return [updates, updates[::-1], [updates[1], updates[0], updates[2]]]


def test_too_many_classes_are_no_manifest(federation: Federation) -> None:
    federation.start(ENCODER)
    with pytest.raises(ValueError, match="classes"):
        commit(federation, A, 10, linear(1.0), classes=tuple(map(str, range(MOST_CLASSES + 1))))
