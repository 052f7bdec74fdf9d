"""Writing the merged model: its scale, its range, the optimiser's files, and teachers in any encoding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from tests.unit.aggregation.files import merge, merged, mixed_model, random_model, source, spec, update
from umim.aggregation.merge import decode_file
from umim.aggregation.updates import Update
from umim.api.round import EncodingSpec
from umim.artifacts.memory import MemoryStore
from umim.artifacts.sources import MemorySource, StoredSource
from umim.artifacts.tensors import read_safetensors
from umim.distillation.run import scaled
from umim.errors import ArtifactError
from umim.models.state import ModelState

PARENT = random_model(0)
UPDATES = [update(f"site-{number}", random_model(number), number) for number in (1, 2, 3)]


@pytest.mark.parametrize("scale", [0.3, 0.5, 2.0])
def test_the_scale_moves_the_model_as_the_choice_among_scales_does(scale: float, tmp_path: Path) -> None:
    plain = merged(PARENT, UPDATES, tmp_path / "plain")
    found = merged(PARENT, UPDATES, tmp_path / "scaled", scale=scale)
    expected = scaled(ModelState(plain), ModelState(PARENT), scale).encoder
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_the_scale_holds_for_every_type(tmp_path: Path) -> None:
    parent, updates = mixed_model(0), [update(f"site-{n}", mixed_model(n)) for n in (1, 2)]
    found = merged(parent, updates, tmp_path, scale=0.5)
    for name, before in parent.items():
        if before.is_floating_point():
            mean = (mixed_model(1)[name].double() + mixed_model(2)[name].double()) / 2
            torch.testing.assert_close(found[name], ((before.double() + mean) / 2).to(before.dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_model_outside_the_range_of_its_type_is_named(dtype: torch.dtype, tmp_path: Path) -> None:
    largest = torch.full((2,), torch.finfo(dtype).max, dtype=dtype)
    updates = [update(f"site-{n}", {"w": largest, "v": torch.zeros(2)}) for n in range(2)]
    parent = {"w": torch.zeros(2, dtype=dtype), "v": torch.zeros(2)}
    with pytest.raises(ArtifactError, match="merged tensor w is not finite in"):
        merge(parent, updates, tmp_path, spec("task-arithmetic"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("strategy", ["fedavgm", "fedadam", "fedyogi", "fedadagrad"])
def test_the_optimiser_goes_on_from_the_files_it_wrote(strategy: str, tmp_path: Path) -> None:
    first = merge(PARENT, UPDATES, tmp_path / "first", spec(strategy))
    model = read_safetensors(first.model.path)
    slots = {name: MemorySource(file.path.read_bytes()) for name, file in first.slots.items()}
    for file in first.slots.values():
        remembered = read_safetensors(file.path)
        assert remembered.keys() == {"large", "small", "scalar", "empty"}
        assert all(value.dtype == torch.float32 for value in remembered.values())
    on = merge(model, UPDATES, tmp_path / "on", spec(strategy), slots=slots)
    anew = merge(model, UPDATES, tmp_path / "anew", spec(strategy))
    beta = strategy != "fedadagrad"
    assert on.model.digest != anew.model.digest
    assert {name for name in on.slots if on.slots[name].digest != anew.slots[name].digest} == {
        name for name in on.slots if beta or name == "second_moment"
    }


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (b"no tensors at all", "the optimiser's velocity"),
        (save({"large": torch.zeros(1)}), "the optimiser's velocity lacks tensor empty"),
        (save({**PARENT}), "the optimiser's velocity has a superfluous tensor mask"),
    ],
)
def test_a_file_of_the_optimiser_that_is_not_this_models_is_named(file: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=words):
        merge(PARENT, UPDATES, tmp_path, spec("fedavgm"), slots={"velocity": MemorySource(file)})
    assert list(tmp_path.iterdir()) == []


def test_an_optimiser_needs_values_of_one_type(tmp_path: Path) -> None:
    parent = mixed_model(0)
    with pytest.raises(ArtifactError, match="types BF16, F16, F32, F64: the server's optimisers need one type"):
        merge(parent, [update("site", parent)], tmp_path, spec("fedadam"))


def test_a_teacher_is_what_the_site_trained_with_the_parents_counters(tmp_path: Path) -> None:
    trained = mixed_model(5)
    parent = mixed_model(0)
    found = read_safetensors(decode_file(source(parent), update("site", trained), tmp_path / "teacher"))
    for name, value in trained.items():
        assert torch.equal(found[name], value if value.is_floating_point() else parent[name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_teacher_that_was_sent_as_changes_is_the_parent_with_them(dtype: torch.dtype, tmp_path: Path) -> None:
    parent = {"w": torch.arange(5).to(dtype)}
    store, data = MemoryStore(), save({"w": torch.full((5,), 0.5)})
    store.put("update", data)
    stored = StoredSource(store, "update", len(data), 64)  # it fills the buffer that it is given
    sent = Update("site", 1, stored, encoding=EncodingSpec(format="delta"))
    found = read_safetensors(decode_file(source(parent), sent, tmp_path / "teacher"))
    model = merged(parent, [sent], tmp_path, spec("ties", {"density": 0.9}))
    assert torch.equal(found["w"], (torch.arange(5) + 0.5).to(dtype))
    assert torch.equal(model["w"], found["w"])
