"""A killed Job goes on from its last epoch and ends with the very same bits."""

import logging
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
import torch
from torch import nn

from tests.unit.training.parts import Kill, around, dataset, init_config, kill_after, parent, same, site_config
from umim.errors import StoreError
from umim.models.state import ModelState
from umim.training.checkpoint import Checkpoints
from umim.training.runtime import Runtime
from umim.training.site import Trained, pretrain, train_at_site, work_folder

STEPS = 2  # 16 training images in batches of 8


def full(work: Path, runtime: Runtime, **training: float) -> Trained:
    config = site_config(work, "classification", epochs=4, objective="supervised+mim", proximal_mu=0.1, **training)
    return train_at_site(config, ModelState(parent()), dataset(), around(runtime))


def killed(work: Path, runtime: Runtime, steps: int, **training: float) -> Path:
    config = site_config(work, "classification", epochs=4, objective="supervised+mim", proximal_mu=0.1, **training)
    with pytest.raises(Kill):
        train_at_site(config, ModelState(parent()), dataset(), kill_after(runtime, steps))
    return work_folder(config)


def epochs(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("epoch-*"))


@pytest.mark.parametrize("steps", [1, STEPS + 1, 3 * STEPS, 4 * STEPS])
def test_after_a_kill_the_update_is_bit_identical(tmp_path: Path, runtime: Runtime, steps: int) -> None:
    killed(tmp_path / "b", runtime, steps)
    first, resumed = full(tmp_path / "a", runtime), full(tmp_path / "b", runtime)
    assert same(first.state.encoder, resumed.state.encoder)
    for name in ("loss_before", "loss_after", "accuracy_after", "train_loss_last"):
        assert first.metrics[name] == resumed.metrics[name]


def test_only_epochs_after_the_last_checkpoint_are_trained_again(tmp_path: Path, runtime: Runtime) -> None:
    killed(tmp_path, runtime, steps=3 * STEPS + 1)
    reports: list = []  # type: ignore[type-arg]
    config = site_config(tmp_path, epochs=4, objective="supervised+mim", proximal_mu=0.1)
    train_at_site(config, ModelState(parent()), dataset(), around(runtime, reports))
    assert [(report.epoch, report.step) for report in reports] == [(4, 4 * STEPS)]


def test_pretraining_goes_on_too(tmp_path: Path, runtime: Runtime) -> None:
    with pytest.raises(Kill):
        pretrain(init_config(tmp_path / "b"), dataset("none"), kill_after(runtime, 4))
    resumed = pretrain(init_config(tmp_path / "b"), dataset("none"), around(runtime))
    assert same(
        resumed.state.encoder, pretrain(init_config(tmp_path / "a"), dataset("none"), around(runtime)).state.encoder
    )


def test_two_checkpoints_are_kept(tmp_path: Path, runtime: Runtime) -> None:
    full(tmp_path, runtime)
    folder = work_folder(site_config(tmp_path))
    assert epochs(folder) == [
        "epoch-0003.json",
        "epoch-0003.safetensors",
        "epoch-0004.json",
        "epoch-0004.safetensors",
    ]


@pytest.mark.parametrize("name", ["epoch-0003.safetensors", "epoch-0003.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_checkpoint_is_left_for_the_one_before(
    tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture, name: str, damage: str
) -> None:
    folder = killed(tmp_path / "b", runtime, steps=3 * STEPS + 1)
    assert "epoch-0003.json" in epochs(folder)
    content = (folder / name).read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]
    (folder / name).write_bytes({"cut": content[:middle], "flip": flipped, "empty": b""}[damage])
    with caplog.at_level(logging.INFO):
        resumed = full(tmp_path / "b", runtime)
    assert "epoch-0003.safetensors is damaged" in caplog.text
    assert "going on after epoch 2" in caplog.text
    assert same(resumed.state.encoder, full(tmp_path / "a", runtime).state.encoder)


def test_tensors_without_commit_marker_are_no_checkpoint(tmp_path: Path, runtime: Runtime) -> None:
    folder = killed(tmp_path / "b", runtime, steps=STEPS + 1)
    for path in folder.glob("*.json"):
        path.unlink()
    assert same(full(tmp_path / "b", runtime).state.encoder, full(tmp_path / "a", runtime).state.encoder)


def test_a_checkpoint_of_another_configuration_is_not_used(
    tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    killed(tmp_path / "b", runtime, steps=2 * STEPS + 1, seed=1)
    resumed = full(tmp_path / "b", runtime, seed=2)
    assert "belongs to another configuration or other data" in caplog.text
    assert same(resumed.state.encoder, full(tmp_path / "a", runtime, seed=2).state.encoder)


def test_a_checkpoint_of_other_images_is_not_used(
    tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    killed(tmp_path, runtime, steps=2 * STEPS + 1)
    other = dataset()
    other.images[0, 0, 0, 0] += 1
    config = site_config(tmp_path, epochs=4, objective="supervised+mim", proximal_mu=0.1)
    train_at_site(config, ModelState(parent()), other, around(runtime))
    assert "belongs to another configuration or other data" in caplog.text


def test_another_attempt_of_the_same_round_goes_on(
    tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    killed(tmp_path, runtime, steps=2 * STEPS + 1)
    config = site_config(tmp_path, epochs=4, objective="supervised+mim", proximal_mu=0.1)
    with caplog.at_level(logging.INFO):
        train_at_site(config.model_copy(update={"attempt": 2}), ModelState(parent()), dataset(), around(runtime))
    assert "going on after epoch 2" in caplog.text


def test_training_may_go_on_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.AdamW(model.parameters())
    writing, changed = Event(), Event()

    def saved(_: Path) -> None:
        writing.set()
        assert changed.wait(10)

    checkpoints = Checkpoints(tmp_path, "0" * 64, saved)
    checkpoints.save(1, model, optimiser, torch.amp.GradScaler(enabled=False), {})
    assert writing.wait(10)
    with torch.no_grad():
        model.weight.zero_()
    changed.set()
    checkpoints.finish()
    assert Checkpoints(tmp_path, "0" * 64).resume(model, optimiser, torch.amp.GradScaler(enabled=False)) is not None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_breaks_the_writing_breaks_the_training(tmp_path: Path, runtime: Runtime) -> None:
    def saved(_: Path) -> None:
        raise StoreError("the store does not answer")

    config = site_config(tmp_path, "classification", epochs=1)
    with pytest.raises(StoreError, match="does not answer"):
        train_at_site(config, ModelState(parent()), dataset(), replace(around(runtime), saved=saved))
