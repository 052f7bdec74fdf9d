"""A new head is trained alone first; the encoder stays as it is."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.training.parts import ARCHITECTURE, SIZE, Kill, around, dataset, kill_after, parent, same, site_config
from umim.api.hospital import Task
from umim.api.round import TrainingSpec
from umim.data.transforms import normalise
from umim.models.encoder import Encoder, create_encoder
from umim.models.heads import AnyHead, create_head
from umim.models.state import ModelState
from umim.training import warmup
from umim.training.batches import Batches
from umim.training.runtime import Runtime
from umim.training.site import tensors_of, train_at_site
from umim.training.warmup import warm_up


def parts(task: Task) -> tuple[Encoder, AnyHead, Batches]:
    data = dataset(task, count=40)
    train = Batches(data, np.arange(40), 8, torch.device("cpu"))
    encoder = create_encoder(ARCHITECTURE, SIZE, seed=7)
    return encoder, create_head(task, encoder, train.targets(), seed=0), train


def loss(encoder: Encoder, head: AnyHead, train: Batches) -> float:
    encoder.eval(), head.eval()
    with torch.inference_mode():
        losses = []
        for images, targets in train.ordered():
            assert targets is not None
            losses.append(head.loss(head(encoder(normalise(images))), targets))
    return torch.stack(losses).mean().item()


@pytest.mark.parametrize("task", ["classification", "multilabel", "segmentation"])
def test_the_head_is_better_after_and_the_encoder_bit_for_bit_the_same(runtime: Runtime, task: Task) -> None:
    encoder, head, train = parts(task)
    encoder_before, head_before, loss_before = tensors_of(encoder), tensors_of(head), loss(encoder, head, train)
    warm_up(encoder, head, train, TrainingSpec(head_warmup_epochs=20, batch_size=8, learning_rate=1e-3), runtime)
    assert loss(encoder, head, train) < 0.97 * loss_before
    assert same(tensors_of(encoder), encoder_before)
    assert not same(tensors_of(head), head_before)
    assert all(value.grad is None for value in encoder.parameters())


def test_the_seed_alone_decides_what_the_head_becomes(runtime: Runtime) -> None:
    def head(seed: int, noise: int) -> dict[str, torch.Tensor]:
        encoder, made, train = parts("classification")
        torch.manual_seed(noise)
        warm_up(encoder, made, train, TrainingSpec(head_warmup_epochs=3, batch_size=8, seed=seed), runtime)
        return tensors_of(made)

    assert same(head(0, 1), head(0, 2))
    assert not same(head(0, 1), head(1, 1))


@pytest.mark.parametrize(("most", "seen"), [(11, 11), (40, 40), (1024, 40)])
def test_features_of_a_bounded_number_of_images_are_kept(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, most: int, seen: int
) -> None:
    monkeypatch.setattr(warmup, "LARGEST_MAPS", most)
    encoder, head, train = parts("segmentation")
    counted: list[int] = []
    encoder.register_forward_hook(lambda _module, inputs, _output: counted.append(len(inputs[0])))
    warm_up(encoder, head, train, TrainingSpec(head_warmup_epochs=2, batch_size=8), runtime)
    assert sum(counted) == seen  # once, however many passes there are


def test_maps_are_kept_for_masks_and_their_mean_for_classes(runtime: Runtime) -> None:
    for task, positions in (("classification", 1), ("multilabel", 1), ("segmentation", SIZE // 16)):
        encoder, head, train = parts(task)  # type: ignore[arg-type]
        maps, targets = warmup._features(encoder, head, train, TrainingSpec(), runtime)
        assert maps.shape == (40, encoder.width, positions, positions)
        assert len(targets) == 40
        assert maps.dtype == torch.float32


def test_a_training_with_warm_up_starts_from_a_better_head(tmp_path: Path, runtime: Runtime) -> None:
    def before(epochs: int) -> float:
        config = site_config(tmp_path / str(epochs), head_warmup_epochs=epochs)
        data = dataset(count=160, patients=80)
        return train_at_site(config, ModelState(parent()), data, around(runtime)).metrics["loss_before"]

    assert before(20) < 0.98 * before(0)


def test_a_training_that_goes_on_does_not_warm_up_again(
    tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_at_site(
        site_config(tmp_path / "a", head_warmup_epochs=3), ModelState(parent()), dataset(), around(runtime)
    )
    config = site_config(tmp_path / "b", head_warmup_epochs=3)
    with pytest.raises(Kill):
        train_at_site(config, ModelState(parent()), dataset(), kill_after(runtime, 3))
    monkeypatch.delattr(warmup, "_features")
    resumed = train_at_site(config, ModelState(parent()), dataset(), around(runtime))
    assert same(whole.state.encoder, resumed.state.encoder)
    assert same(whole.state.heads["private"], resumed.state.heads["private"])
