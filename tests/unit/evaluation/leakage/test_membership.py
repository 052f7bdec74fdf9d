"""The attack finds what was learned by heart, and nothing where nothing was learned."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.evaluation.leakage.parts import site
from tests.unit.training.parts import around
from umim.api.hospital import PrivacySpec
from umim.api.round import TrainingSpec
from umim.data.dataset import ImageDataset
from umim.evaluation.leakage.defences import Defence, defences
from umim.evaluation.leakage.membership import Membership, Site, infer_membership, per_image_loss, trainings_of
from umim.evaluation.leakage.sides import draw_sides
from umim.models.encoder import create_encoder
from umim.models.heads import create_head
from umim.training.runtime import Runtime

BY_HEART = TrainingSpec(epochs=60, batch_size=8, learning_rate=3e-3, weight_decay=0.0)
NOTHING = TrainingSpec(epochs=1, batch_size=64, learning_rate=1e-12)


def attacks(where: Site, training: TrainingSpec, runtime: Runtime, work: Path, **floor: Any) -> dict[str, Membership]:
    table = [Defence("it", training, PrivacySpec(**floor))]
    members = draw_sides(where.dataset, 4, 0)
    return {one.attack: one for one in infer_membership(where, table, members, work, around(runtime))[0]}


@pytest.fixture(scope="module")
def learned(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Models that know random labels by heart, released as they are and with much noise."""
    where = site()
    plain, floor, private = defences(BY_HEART, clip_norm=1.0, noise_multiplier=0.1, target_epsilon=1.0)
    short = replace(private, training=private.training.model_copy(update={"epochs": 10}))
    table = (plain, floor, short)
    members = draw_sides(where.dataset, 4, 0)
    found, useful = infer_membership(where, table, members, tmp_path_factory.mktemp("work"), around(runtime))
    return {"attacks": found, "useful": useful}


def test_labels_learned_by_heart_are_found(learned: dict[str, list[Any]]) -> None:
    found = {one.attack: one for one in learned["attacks"] if one.defence == "none"}
    assert found["loss"].auroc.mean > 0.8
    assert found["calibrated"].auroc.mean > 0.75
    assert found["calibrated"].true_positives.mean > 0.1
    assert found["loss"].auroc.interval is not None


def test_much_noise_hides_them(learned: dict[str, list[Any]]) -> None:
    found = {one.attack: one for one in learned["attacks"] if one.defence == "clip+noise"}
    assert abs(found["loss"].auroc.mean - 0.5) < 0.15
    assert abs(found["calibrated"].auroc.mean - 0.5) < 0.15


def test_dp_sgd_hides_them_and_tells_what_it_spent(learned: dict[str, list[Any]]) -> None:
    found = {one.attack: one for one in learned["attacks"] if one.defence == "dp-sgd"}
    assert abs(found["loss"].auroc.mean - 0.5) < 0.15
    assert abs(found["calibrated"].auroc.mean - 0.5) < 0.15
    spent = {one.defence: one.epsilon for one in learned["useful"]}
    assert spent["none"] is None
    assert spent["dp-sgd"] is not None
    assert 0.9 < spent["dp-sgd"].mean <= 1.0


def test_usefulness_tells_the_norms_that_clipping_and_noise_make(learned: dict[str, list[Any]]) -> None:
    plain, noised, _ = learned["useful"]
    assert plain.trained_norm.values == plain.released_norm.values
    assert plain.trained_norm.mean > 1
    values = sum(value.numel() for value in site().parent.encoder.values())
    assert noised.released_norm.mean == pytest.approx((1 + values * 0.1**2) ** 0.5, rel=0.02)
    assert plain.score_name == "accuracy"
    assert plain.score.mean < 0.6  # random labels cannot be guessed


def test_a_model_that_learned_nothing_tells_nothing(runtime: Runtime, tmp_path: Path) -> None:
    # The two models of a pair are alike, so what one seems to tell of a half the other denies: the mean is 1/2.
    found = attacks(site(), NOTHING, runtime, tmp_path)
    assert found["loss"].auroc.mean == pytest.approx(0.5, abs=0.01)
    assert abs(found["calibrated"].auroc.mean - 0.5) < 0.1


def test_the_same_seed_gives_the_same_noise(runtime: Runtime, tmp_path: Path) -> None:
    first, second = (
        attacks(site(), NOTHING, runtime, tmp_path / name, clip_norm=1.0, noise_multiplier=0.01)["loss"]
        for name in ("a", "b")
    )
    assert first == second


@pytest.mark.parametrize("task", ["none", "multilabel", "segmentation"])
def test_every_task_can_be_attacked(runtime: Runtime, tmp_path: Path, task: Any) -> None:
    where = site(24)
    masks = (where.dataset.images[:, 0] > 128).astype(np.uint8)
    columns = np.stack([np.arange(24) % 2, np.arange(24) % 3 == 0], axis=1).astype(np.uint8)
    targets = {"none": None, "multilabel": columns, "segmentation": masks}[task]
    classes = {"none": (), "multilabel": ("a", "b"), "segmentation": ("foreground",)}[task]
    dataset = replace(where.dataset, task=task, targets=targets, classes=classes)
    training = TrainingSpec(batch_size=8, objective="mim" if task == "none" else "supervised")
    found = attacks(replace(where, dataset=dataset), training, runtime, tmp_path)
    assert 0.2 < found["loss"].auroc.mean < 0.8


def test_defences_that_train_alike_share_their_trainings() -> None:
    assert trainings_of(defences(NOTHING, 1.0, 0.1, 8.0)) == 2
    assert trainings_of([*defences(NOTHING, 1.0, 0.1, 8.0), Defence("other", BY_HEART, PrivacySpec())]) == 3


@pytest.mark.parametrize("task", ["classification", "multilabel", "segmentation"])
def test_the_loss_of_an_image_does_not_depend_on_its_batch(task: Any) -> None:
    encoder = create_encoder("test_vit", 32, 0)
    targets = {
        "classification": torch.tensor([0, 1, 1]),
        "multilabel": torch.tensor([[0, 1], [1, 1], [0, 0]]),
        "segmentation": torch.randint(0, 2, (3, 32, 32), generator=torch.Generator().manual_seed(0)),
    }[task]
    head = create_head(task, encoder, targets, 0)
    generator = torch.Generator().manual_seed(0)
    output = head(encoder(torch.rand((3, 3, 32, 32), generator=generator)))
    together = per_image_loss(head, output, targets)
    alone = torch.cat([per_image_loss(head, output[[one]], targets[[one]]) for one in range(3)])
    assert torch.allclose(together, alone)


def test_no_dataset_is_changed(runtime: Runtime, tmp_path: Path) -> None:
    where = site(24)
    before: ImageDataset = replace(where.dataset, images=where.dataset.images.copy())
    attacks(where, NOTHING, runtime, tmp_path)
    assert (where.dataset.images == before.images).all()
    assert where.dataset.validation is None
