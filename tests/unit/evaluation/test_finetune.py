"""Short fine-tuning: the same cost and the same chance for every model."""

from pathlib import Path

import pytest
import torch

from tests.unit.evaluation.parts import encoder, multilabel, segmentation, write
from umim.evaluation.finetune import Budget, finetune
from umim.evaluation.pack import Pack, load_pack
from umim.models.encoder import Encoder
from umim.training.runtime import Runtime

SHORT = Budget(steps=12, head_steps=8, batch_size=16)


def test_fine_tuning_learns_and_leaves_the_encoder_as_it_was(pack: Pack, runtime: Runtime) -> None:
    model = encoder()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = finetune(model, pack, runtime, labels_per_class=10, draws=1, budget=SHORT)
    assert result.score > 0.9
    assert (result.metric, result.train_images, result.test_images) == ("macro_auroc", 20, 20)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_same_seed_gives_the_same_scores(pack: Pack, runtime: Runtime) -> None:
    first, second = (finetune(encoder(), pack, runtime, labels_per_class=4, draws=2, budget=SHORT) for _ in range(2))
    assert first == second


def test_the_encoder_takes_as_many_steps_with_any_number_of_labels(
    pack: Pack, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    forward = Encoder.forward

    def counted(self: Encoder, images: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            steps.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Encoder, "forward", counted)
    for labels in (2, None):
        steps.clear()
        finetune(encoder(), pack, runtime, labels_per_class=labels, draws=1, budget=SHORT)
        assert len(steps) == SHORT.steps


def test_labels_of_several_an_image_and_masks_can_be_fine_tuned(tmp_path: Path, runtime: Runtime) -> None:
    several = load_pack(write(tmp_path, "several", **multilabel()))
    assert finetune(encoder(), several, runtime, labels_per_class=4, draws=1, budget=SHORT).metric == "macro_auroc"
    masks = load_pack(write(tmp_path, "masks", **segmentation()))
    result = finetune(encoder(), masks, runtime, split="validation", labels_per_class=8, draws=1, budget=SHORT)
    assert (result.metric, result.test_images) == ("dice", 4)
