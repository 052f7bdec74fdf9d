"""The server's step after the merge: distillation, the loss it is judged by, and the scale of the merged change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.distillation.parts import distilled, encoder, mixed, state_of, student
from tests.unit.training.parts import ARCHITECTURE, SIZE, same
from umim.data.transforms import normalise
from umim.distillation import run
from umim.distillation.features import FeatureDistiller, FeatureOptions
from umim.distillation.run import Teacher, choose_scale, scaled, server_mim_loss
from umim.errors import ArtifactError, ConfigError
from umim.models.encoder import create_encoder
from umim.models.mim import create_mim
from umim.models.state import ModelState, Tensors
from umim.training.runtime import Runtime
from umim.training.site import load_encoder, load_module

A = Teacher("hospital-a.x", 10, encoder(1))
B = Teacher("hospital-b.x", 20, encoder(2))
C = Teacher("hospital-c.x", 20, encoder(3))


def feature_distance(state: ModelState, teacher: Teacher) -> float:
    """How far the features of the server's images lie from the teacher's."""
    encoders = [create_encoder(ARCHITECTURE, SIZE, 0) for _ in range(2)]
    for made, tensors in zip(encoders, (state.encoder, teacher.encoder), strict=True):
        load_encoder(made, tensors)
    objective = FeatureDistiller(encoders[0], None, encoders[1:], None, [1.0], 0.0, FeatureOptions())
    images = torch.from_numpy(student().dataset.images) / 255
    with torch.inference_mode():
        return objective.loss(images, None, torch.Generator()).item()


def same_state(first: ModelState, second: ModelState) -> bool:
    return same(first.encoder, second.encoder) and same(first.parts(), second.parts())


def test_the_student_learns_the_features_of_its_teacher(tmp_path: Path, runtime: Runtime) -> None:
    merged = state_of(7, decoder=True)
    learned, _ = distilled(tmp_path, runtime, merged, [A], epochs=15, mim_weight=0.1)
    assert feature_distance(learned, A) < 0.5 * feature_distance(merged, A)


def test_the_loss_falls_and_is_told(tmp_path: Path, runtime: Runtime) -> None:
    def last(epochs: int) -> float:
        merged = state_of(7, decoder=True)
        _, metrics = distilled(tmp_path / str(epochs), runtime, merged, [A, B], epochs=epochs)
        assert set(metrics) == {"distillation_loss_last", "distillation_seconds"}
        return metrics["distillation_loss_last"]

    assert last(8) < 0.9 * last(1)


def test_a_student_that_equals_its_teacher_hardly_moves(tmp_path: Path, runtime: Runtime) -> None:
    _, metrics = distilled(
        tmp_path, runtime, ModelState(A.encoder), [A], mim_weight=0, learning_rate=1e-5, weight_decay=0
    )
    assert metrics["distillation_loss_last"] < 1e-4


def test_the_decoder_is_trained_and_heads_and_optimiser_pass_through(tmp_path: Path, runtime: Runtime) -> None:
    start = state_of(7, decoder=True)
    heads = {"organs": {"linear.bias": torch.zeros(2)}}
    optimiser = {"fedadam.first_moment": "0" * 64}
    learned, _ = distilled(tmp_path, runtime, ModelState(start.encoder, start.mim, heads, optimiser), [A])
    assert learned.mim.keys() == start.mim.keys()
    assert not same(learned.mim, start.mim)
    assert (learned.heads, learned.optimiser) == (heads, optimiser)


def test_without_a_decoder_one_is_made_from_the_seed(tmp_path: Path, runtime: Runtime) -> None:
    first, again, other = (
        distilled(tmp_path / folder, runtime, ModelState(encoder(7)), [A], seed=seed)[0]
        for folder, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first.mim.keys() == state_of(7, decoder=True).mim.keys()
    assert same_state(first, again)
    assert not same_state(first, other)


@pytest.mark.parametrize("options", [{}, {"projectors": 1.0, "novelty": 1.0, "anchor": 0.2, "tint": 0.1}])
def test_the_order_of_the_teachers_does_not_matter(tmp_path: Path, runtime: Runtime, options: dict[str, float]) -> None:
    states = [
        distilled(tmp_path / str(number), runtime, state_of(7, decoder=True), list(order), epochs=1, options=options)[0]
        for number, order in enumerate([(A, B, C), (C, A, B), (B, A, C)])
    ]
    assert all(same_state(states[0], state) for state in states[1:])


@pytest.mark.parametrize(("most", "kept"), [(1, [B]), (2, [B, C]), (3, [A, B, C])])
def test_of_too_many_teachers_those_with_the_most_samples_are_kept(
    tmp_path: Path, runtime: Runtime, most: int, kept: list[Teacher]
) -> None:
    merged = state_of(7, decoder=True)
    limited, _ = distilled(tmp_path / "a", runtime, merged, [A, B, C], epochs=1, options={"teachers": float(most)})
    picked, _ = distilled(tmp_path / "b", runtime, merged, kept, epochs=1)
    assert same_state(limited, picked)


def test_teachers_count_by_samples(tmp_path: Path, runtime: Runtime) -> None:
    def nearer_to_a(samples: int) -> float:
        merged, teacher = state_of(7, decoder=True), Teacher(A.site, samples, A.encoder)
        learned, _ = distilled(tmp_path / str(samples), runtime, merged, [teacher, B], epochs=6, mim_weight=0)
        return feature_distance(learned, A)

    assert nearer_to_a(200) < nearer_to_a(2)


def test_only_so_many_images_are_learned_from_as_asked(tmp_path: Path, runtime: Runtime) -> None:
    merged = state_of(7, decoder=True)
    few, _ = distilled(tmp_path / "a", runtime, merged, [A], images=8)
    all_of_them, _ = distilled(tmp_path / "b", runtime, merged, [A], images=20)
    more_than_there_are, _ = distilled(tmp_path / "c", runtime, merged, [A], images=1000)
    assert not same_state(few, all_of_them)
    assert same_state(all_of_them, more_than_there_are)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"strategy": "logits"}, r"spec.distillation.strategy: 'logits' is unknown; allowed: features"),
        (
            {"options": {"novel": 1.0}},
            r"spec.distillation.options.novel: features takes no such option; "
            r"allowed: anchor, novelty, projectors, teachers, tint",
        ),
        ({"options": {"tint": 2.0}}, r"spec.distillation.options.tint: 2.0 is not allowed; allowed: 0 to 1"),
        ({"options": {"teachers": 0.0}}, r"spec.distillation.options.teachers: 0.0 is not allowed; allowed: 1 to 1000"),
    ],
)
def test_a_strategy_or_option_that_there_is_not_is_named(
    tmp_path: Path, runtime: Runtime, spec: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        distilled(tmp_path, runtime, state_of(7, decoder=True), [A], **spec)
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_of_another_shape_is_named_by_its_tensor(tmp_path: Path, runtime: Runtime) -> None:
    broken = Teacher("hospital-a.x", 1, {**A.encoder, "norm.bias": torch.zeros(3)})
    with pytest.raises(ArtifactError, match=r"tensor norm.bias is \(3,\), wanted is \(64,\)"):
        distilled(tmp_path, runtime, state_of(7, decoder=True), [broken])


def test_a_model_without_a_decoder_has_no_server_loss(runtime: Runtime) -> None:
    assert server_mim_loss(state_of(7, decoder=False), student(), 0, runtime) is None


def test_the_server_loss_depends_on_model_and_seed_alone(runtime: Runtime) -> None:
    torch.manual_seed(1)
    first = server_mim_loss(state_of(7, decoder=True), student(), 0, runtime)
    torch.manual_seed(2)
    assert first == server_mim_loss(state_of(7, decoder=True), student(), 0, runtime)
    assert first != server_mim_loss(state_of(7, decoder=True), student(), 1, runtime)


def test_the_server_loss_is_the_mean_over_a_bounded_number_of_images(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    plain = type(create_mim(create_encoder(ARCHITECTURE, SIZE, 0), 0.75, 0)).loss

    def counted(mim, made, images, generator):  # type: ignore[no-untyped-def]
        seen.append(len(images))
        return plain(mim, made, images, generator)

    monkeypatch.setattr("umim.models.mim.MaskedAutoencoder.loss", counted)
    monkeypatch.setattr(run, "MEASURED_IMAGES", 11)
    monkeypatch.setattr(run, "MEASURED_BATCH", 4)
    state = state_of(7, decoder=True)
    loss = server_mim_loss(state, student(), 0, runtime)
    assert seen == [4, 4, 3]
    assert loss == pytest.approx(whole_loss(state), rel=0.2)


def whole_loss(state: ModelState) -> float:
    made = create_encoder(ARCHITECTURE, SIZE, 0)
    load_encoder(made, state.encoder)
    mim = create_mim(made, 0.75, 0)
    load_module(mim, state.mim, "MIM decoder")
    images = torch.from_numpy(student().dataset.images) / 255
    with torch.inference_mode():
        return mim.eval().loss(made.eval(), normalise(images), torch.Generator().manual_seed(0)).item()


def learned_state(tmp_path: Path, runtime: Runtime) -> ModelState:
    """A model that is better on the server's images than the one of seed 7."""
    return distilled(tmp_path, runtime, state_of(7, decoder=True), [A], epochs=4)[0]


def test_the_scale_with_the_smallest_server_loss_is_taken(tmp_path: Path, runtime: Runtime) -> None:
    parent, merged = state_of(7, decoder=True), ModelState(encoder(3), learned_state(tmp_path, runtime).mim)
    scales = [0.25, 0.5, 1.0, 2.0]
    losses = {scale: server_mim_loss(scaled(merged, parent, scale), student(), 5, runtime) for scale in scales}
    assert len(set(losses.values())) == 4
    for order in (scales, scales[::-1]):
        scale, state = choose_scale(order, merged, parent, student(), 5, runtime)
        assert losses[scale] == min(loss for loss in losses.values() if loss is not None)
        assert same_state(state, scaled(merged, parent, scale))


def test_a_scale_without_a_finite_loss_is_not_taken(runtime: Runtime) -> None:
    parent = state_of(7, decoder=True)
    merged = ModelState(mixed(7, 1, 0.5), parent.mim)
    huge = torch.finfo(torch.float32).max
    broken = {name: value.clone() for name, value in merged.encoder.items()}
    broken["norm.weight"] = torch.full_like(broken["norm.weight"], huge / 2)
    scale, _ = choose_scale([10.0, 1e-38], ModelState(broken, parent.mim), parent, student(), 0, runtime)
    assert scale == 1e-38


def test_without_a_decoder_to_measure_with_the_first_scale_is_taken(runtime: Runtime) -> None:
    parent, merged = state_of(7, decoder=False), ModelState(encoder(1))
    scale, state = choose_scale([0.5, 1.0], merged, parent, student(), 0, runtime)
    assert scale == 0.5
    assert same(state.encoder, scaled(merged, parent, 0.5).encoder)


def test_a_single_scale_is_taken_without_measuring(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(run, "server_mim_loss")
    merged = state_of(1, decoder=True)
    assert choose_scale([1.0], merged, state_of(7, decoder=True), student(), 0, runtime) == (1.0, merged)


def test_a_scaled_change_lies_on_the_line_from_the_parent() -> None:
    before: Tensors = {"w": torch.tensor([0.0, 2.0]), "count": torch.tensor([3])}
    after: Tensors = {"w": torch.tensor([1.0, 0.0]), "count": torch.tensor([9])}
    parts: dict[str, Any] = {"mim": {"m": torch.ones(1)}, "heads": {"t": {"b": torch.ones(1)}}}
    parent, merged = ModelState(before), ModelState(after, **parts, optimiser={"fedadam.first_moment": "0" * 64})
    result = scaled(merged, parent, 0.5)
    assert result.encoder["w"].tolist() == [0.5, 1.0]
    assert result.encoder["count"].tolist() == [9]
    assert (result.mim, result.heads, result.optimiser) == (merged.mim, merged.heads, merged.optimiser)
    assert scaled(merged, parent, 1) is merged
    assert after["w"].tolist() == [1.0, 0.0]


def test_scaling_keeps_the_type_of_the_tensors() -> None:
    half = ModelState({"w": torch.ones(2, dtype=torch.bfloat16)})
    assert scaled(half, ModelState({"w": torch.zeros(2)}), 0.5).encoder["w"].dtype == torch.bfloat16
