"""A model's tensors as one flat mapping and back."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from umim.models.state import ModelState

TENSOR = torch.zeros(1)
NAMES = st.from_regex(r"[a-z_]{1,8}(\.[a-z0-9_]{1,8}){0,3}", fullmatch=True)
TASKS = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
TENSORS = st.dictionaries(NAMES, st.just(TENSOR), max_size=4)


@given(TENSORS, st.dictionaries(TASKS, TENSORS.filter(bool), max_size=3))
def test_parts_come_back_as_they_were(mim: dict[str, torch.Tensor], heads: dict[str, dict[str, torch.Tensor]]) -> None:
    state = ModelState({"norm.bias": TENSOR}, mim, heads)
    assert ModelState.from_parts(state.encoder, state.parts()) == state


def test_names_tell_the_part_and_the_task() -> None:
    state = ModelState({}, {"blocks.0.bias": TENSOR}, {"mim": {"linear.bias": TENSOR}, "heads": {"mim.x": TENSOR}})
    assert list(state.parts()) == ["mim.blocks.0.bias", "heads.heads.mim.x", "heads.mim.linear.bias"]


def test_tasks_are_in_a_fixed_order() -> None:
    forward, backward = ({name: {"b": TENSOR} for name in order} for order in (("a", "b", "c"), ("c", "b", "a")))
    assert list(ModelState({}, {}, forward).parts()) == list(ModelState({}, {}, backward).parts())


def test_an_encoder_alone_has_no_parts() -> None:
    state = ModelState({"norm.bias": TENSOR})
    assert state.parts() == {}
    assert ModelState.from_parts(state.encoder, {}) == state


def test_tensors_of_neither_kind_are_left_out() -> None:
    assert ModelState.from_parts({}, {"other.x": TENSOR}) == ModelState({})
