from pathlib import Path

import pytest
import torch

from tests.unit.training.parts import ARCHITECTURE, SIZE, around, dataset, init_config, parent, same, site_config
from umim.api.hospital import PrivacySpec, Task
from umim.api.round import Objective
from umim.errors import ArtifactError, ConfigError, DataError, TrainingError
from umim.models.encoder import create_encoder
from umim.models.state import ModelState, Tensors
from umim.training.runtime import Runtime
from umim.training.site import encoder_tensors, load_encoder, norm_names, pretrain, train_at_site


@pytest.mark.parametrize(
    ("task", "objective", "score"),
    [
        ("classification", "supervised", "accuracy_after"),
        ("classification", "supervised+mim", "accuracy_after"),
        ("multilabel", "supervised", "accuracy_after"),
        ("segmentation", "supervised+mim", "dice_after"),
        ("classification", "mim", None),
        ("none", "mim", None),
    ],
)
def test_training_lowers_the_validation_loss(
    tmp_path: Path, runtime: Runtime, task: Task, objective: Objective, score: str | None
) -> None:
    config = site_config(tmp_path, task, objective=objective, epochs=6)
    trained = train_at_site(config, ModelState(parent()), dataset(task, count=160, patients=80), around(runtime))
    assert trained.samples == 128
    assert trained.metrics["loss_after"] < trained.metrics["loss_before"]
    assert set(trained.metrics) == {"loss_before", "loss_after", "train_loss_last", "seconds"} | ({score} - {None})
    assert not same(trained.state.encoder, parent())
    assert {name: value.shape for name, value in trained.state.encoder.items()} == {
        name: value.shape for name, value in parent().items()
    }


def test_the_labels_are_learned(tmp_path: Path, runtime: Runtime) -> None:
    config = site_config(tmp_path, epochs=8)
    trained = train_at_site(config, ModelState(parent()), dataset(count=160, patients=80), around(runtime))
    assert trained.metrics["accuracy_after"] == 1


def test_the_same_inputs_give_the_same_update_and_another_seed_another_one(tmp_path: Path, runtime: Runtime) -> None:
    def run(folder: str, seed: int) -> Tensors:
        config = site_config(tmp_path / folder, objective="supervised+mim", seed=seed, proximal_mu=0.1)
        return train_at_site(config, ModelState(parent()), dataset(), around(runtime)).state.encoder

    first = run("a", 1)
    torch.manual_seed(99)
    assert same(first, run("b", 1))
    assert not same(first, run("c", 2))


def test_a_strong_proximal_term_keeps_the_encoder_near_its_parent(tmp_path: Path, runtime: Runtime) -> None:
    def distance(mu: float) -> float:
        config = site_config(tmp_path / str(mu), proximal_mu=mu, epochs=5, weight_decay=0)
        trained = train_at_site(config, ModelState(parent()), dataset(), around(runtime)).state.encoder
        return sum(float((trained[name] - value).square().sum()) for name, value in parent().items())

    assert distance(100) < 0.5 * distance(0)


@pytest.mark.parametrize("architecture", [ARCHITECTURE, "swin_tiny_patch4_window7_224"])
def test_the_tensors_of_norms_are_found_in_every_family(architecture: str) -> None:
    encoder = create_encoder(architecture, SIZE, seed=0)
    names = norm_names(encoder)
    assert set(names) == {name for name in encoder.net.state_dict() if "norm" in name}
    assert names == sorted(names)


def test_private_norms_stay_at_the_site_and_all_else_leaves(tmp_path: Path, runtime: Runtime) -> None:
    def update(*, private: bool) -> Tensors:
        config = site_config(tmp_path / str(private), private_norms=private)
        return train_at_site(config, ModelState(parent()), dataset(), around(runtime)).state.encoder

    norms = set(norm_names(create_encoder(ARCHITECTURE, SIZE, seed=0)))
    kept, open_to_all = update(private=True), update(private=False)
    for name, value in parent().items():
        assert torch.equal(kept[name], value if name in norms else open_to_all[name])
    assert not any(torch.equal(open_to_all[name], parent()[name]) for name in norms if name.endswith("weight"))


def test_labels_are_needed_unless_the_objective_is_mim(tmp_path: Path, runtime: Runtime) -> None:
    with pytest.raises(ConfigError, match=r"spec.training.objective supervised\+mim needs labels"):
        train_at_site(
            site_config(tmp_path, "none", objective="supervised+mim"),
            ModelState(parent()),
            dataset("none"),
            around(runtime),
        )


def test_the_privacy_floor_on_patients_counts_the_training_part(tmp_path: Path, runtime: Runtime) -> None:
    config = site_config(tmp_path).model_copy(update={"privacy": PrivacySpec(min_patients=9)})
    with pytest.raises(DataError, match=r"8 patients in the training part are fewer than spec.privacy.minPatients"):
        train_at_site(config, ModelState(parent()), dataset(), around(runtime))


def test_a_parent_with_a_foreign_tensor_is_refused_by_name() -> None:
    encoder = create_encoder(ARCHITECTURE, SIZE, seed=0)
    tensors = encoder_tensors(encoder)
    with pytest.raises(ArtifactError, match=r"tensor norm.bias is missing, wanted is \(64,\)"):
        load_encoder(encoder, {name: value for name, value in tensors.items() if name != "norm.bias"})
    with pytest.raises(ArtifactError, match=r"tensor head.bias is \(2,\), wanted is no such tensor"):
        load_encoder(encoder, tensors | {"head.bias": torch.zeros(2)})
    with pytest.raises(ArtifactError, match=r"tensor norm.bias is \(3,\), wanted is \(64,\)"):
        load_encoder(encoder, tensors | {"norm.bias": torch.zeros(3)})


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path: Path, runtime: Runtime) -> None:
    broken = parent()
    broken["norm.bias"] = torch.full_like(broken["norm.bias"], torch.inf)
    with pytest.raises(TrainingError, match=r"validation loss is nan: lower spec.training.learningRate"):
        train_at_site(site_config(tmp_path), ModelState(broken), dataset(), around(runtime))
    assert list(tmp_path.rglob("epoch-*")) == []


def test_pretraining_gives_an_encoder_that_depends_on_the_inputs_alone(tmp_path: Path, runtime: Runtime) -> None:
    first = pretrain(init_config(tmp_path / "a"), dataset("none"), around(runtime))
    again = pretrain(init_config(tmp_path / "b"), dataset("none"), around(runtime))
    assert same(first.state.encoder, again.state.encoder)
    assert first.samples == 20
    assert set(first.metrics) == {"train_loss_last", "seconds"}
