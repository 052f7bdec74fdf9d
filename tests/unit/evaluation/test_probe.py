"""Features and the linear probe."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from tests.unit.evaluation.parts import SIZE, encoder, multilabel, segmentation, write
from umim.data.transforms import normalise, to_unit
from umim.errors import DataError
from umim.evaluation.features import Features, FeatureSet, extract
from umim.evaluation.metrics import dice, macro_auroc
from umim.evaluation.pack import Pack, load_pack
from umim.evaluation.probe import linear_probe
from umim.evaluation.segmentation import THRESHOLDS, mean_dice_by_threshold, segmentation_scores
from umim.models.encoder import pooled
from umim.training.runtime import Runtime


def synthetic(signal: float, count: int = 60, seed: int = 0) -> Features:
    """Two classes that differ by ``signal`` deviations in one of 8 features."""
    random = np.random.default_rng(seed)
    targets = np.arange(count) % 2
    values = random.normal(size=(count, 8)).astype(np.float32)
    values[:, 3] += signal * targets
    half = count // 2
    sets = [FeatureSet(values[part], targets[part]) for part in (slice(0, half), slice(half, None))]
    return Features("synthetic", "classification", ("a", "b"), *sets)


def test_features_are_the_pooled_map_of_inputs_made_as_in_training(pack: Pack, runtime: Runtime) -> None:
    model = encoder()
    features = extract(model, pack, SIZE, "test", runtime)
    images = torch.from_numpy(pack.test.images)[:, None]
    with torch.inference_mode():
        wanted = pooled(model.eval()(normalise(to_unit(images))))
    torch.testing.assert_close(torch.from_numpy(features.held_out.features), wanted)
    assert features.train.features.shape == (40, model.width)


def test_extracting_leaves_the_encoder_as_it_was(pack: Pack, runtime: Runtime) -> None:
    model = encoder().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    extract(model, pack, SIZE, "test", runtime)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_validation_part_never_shows_a_test_image(pack: Pack, runtime: Runtime) -> None:
    broken = replace(pack, test=replace(pack.test, images=np.zeros_like(pack.test.images)))
    features = [extract(encoder(), one, SIZE, "validation", runtime) for one in (pack, broken)]
    assert (features[0].held_out.features == features[1].held_out.features).all()
    assert len(features[0].train) + len(features[0].held_out) == 40


def test_classes_that_features_tell_apart_score_high_and_noise_scores_about_a_half() -> None:
    assert linear_probe(synthetic(6.0), None).score > 0.95
    scores = [linear_probe(synthetic(0.0, 400, seed), None).score for seed in range(5)]
    assert np.mean(scores) == pytest.approx(0.5, abs=0.05)


def test_an_untrained_encoder_tells_stripes_from_brightness(pack: Pack, runtime: Runtime) -> None:
    result = linear_probe(extract(encoder(), pack, SIZE, "test", runtime), 10, draws=3)
    assert result.metric == "macro_auroc"
    assert result.score > 0.9
    assert result.score == pytest.approx(np.mean(result.scores))
    assert (len(result.scores), result.train_images, result.test_images) == (3, 20, 20)


def test_a_probe_gives_the_same_numbers_again_and_others_with_another_seed() -> None:
    features = synthetic(1.0)
    assert linear_probe(features, 5) == linear_probe(features, 5)
    assert linear_probe(features, 5).scores != linear_probe(features, 5, seed=1).scores


def test_all_labels_are_probed_once() -> None:
    assert len(linear_probe(synthetic(1.0), None, draws=5).scores) == 1


def test_more_labels_than_there_are_are_refused() -> None:
    with pytest.raises(DataError, match=r"synthetic: images of class a: there are 15 .* the 16"):
        linear_probe(synthetic(1.0), 16)


def test_a_feature_that_is_constant_does_no_harm() -> None:
    features = synthetic(6.0)
    for part in (features.train, features.held_out):
        part.features[:, 0] = 5.0
    assert linear_probe(features, None).score > 0.95


def test_labels_of_several_an_image_are_scored_each(tmp_path: Path, runtime: Runtime) -> None:
    pack = load_pack(write(tmp_path, **multilabel()))
    result = linear_probe(extract(encoder(), pack, SIZE, "test", runtime), 8, draws=2)
    assert result.metric == "macro_auroc"
    assert result.score > 0.85


def test_a_bright_square_is_found(tmp_path: Path, runtime: Runtime) -> None:
    pack = load_pack(write(tmp_path, **segmentation()))
    features = extract(encoder(), pack, SIZE, "test", runtime)
    assert features.train.features.ndim == 4
    result = linear_probe(features, None)
    assert result.metric == "dice"
    assert result.score > 0.7
    assert len(linear_probe(features, 10).scores) == 5


def test_the_mask_of_one_image_suffices_to_learn_from(tmp_path: Path, runtime: Runtime) -> None:
    features = extract(encoder(), load_pack(write(tmp_path, **segmentation())), SIZE, "test", runtime)
    assert 0 < linear_probe(features, 1).score <= 1


def test_a_mask_that_is_linear_in_the_features_is_reproduced_pixel_by_pixel() -> None:
    random = np.random.default_rng(0)
    masks = (random.random((12, 8, 8)) > 0.5).astype(np.uint8)
    cells = masks.reshape(12, 4, 2, 4, 2).transpose(0, 2, 4, 1, 3).reshape(12, 4, 4, 4)  # (N, pixels, h, w)
    scores, threshold = segmentation_scores(cells[:8].astype(np.float32), masks[:8], cells[8:].astype(np.float32))
    assert ((scores > threshold) == masks[8:]).all()


@settings(max_examples=30, deadline=None)
@given(
    arrays(np.float64, (3, 4, 4), elements=st.sampled_from([0.0, 0.1, 0.02, 0.5, 0.51, 0.96, 1.0, -1.0])),
    arrays(np.bool_, (3, 4, 4)),
)
def test_dice_by_threshold_is_dice_at_each_threshold(scores: NDArray[np.float64], wanted: NDArray[np.bool_]) -> None:
    found = mean_dice_by_threshold(scores, wanted)
    expected = [dice(scores > threshold, wanted.astype(np.uint8)).mean() for threshold in THRESHOLDS]
    np.testing.assert_allclose(found, expected)


def test_dice_of_known_masks() -> None:
    wanted = np.zeros((3, 2, 2), dtype=np.uint8)
    wanted[0, 0] = 1
    predicted = np.zeros((3, 2, 2), dtype=np.bool_)
    predicted[0, :, 0] = True  # one of two pixels
    predicted[2, 0, 0] = True  # where nothing is
    assert dice(predicted, wanted).tolist() == [3 / 5, 1.0, 1 / 2]


def test_macro_auroc_is_the_mean_over_classes() -> None:
    targets = np.asarray([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]])
    assert macro_auroc(targets.astype(float), targets) == 1.0
    scores = np.asarray([[0.9, 0.1, 0.0], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2], [0.2, 0.7, 0.1]])
    # class 0: 1 of 4 pairs wrong; class 1: right; class 2: right.
    assert macro_auroc(scores, targets) == pytest.approx((0.75 + 1 + 1) / 3)
