import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from umim.evaluation.leakage.scores import GRID, auroc, calibrated, curve, logit, true_positives

RANDOM = np.random.default_rng(0)
MEMBERS = np.arange(300) % 2 == 0
SCORES = RANDOM.normal(size=300) + MEMBERS


def test_auroc_is_that_of_sklearn() -> None:
    assert auroc(SCORES, MEMBERS) == roc_auc_score(MEMBERS, SCORES)


def test_true_positives_are_those_of_sklearns_curve() -> None:
    wrong, right, _ = roc_curve(MEMBERS, SCORES)
    assert true_positives(SCORES, MEMBERS, 0.01) == max(
        found for rate, found in zip(wrong, right, strict=True) if rate <= 0.01
    )


def test_one_false_positive_of_150_is_within_1_percent_and_two_are_not() -> None:
    # Members 1 .. 150; above member 150 one non-member, above member 100 another one.
    scores = np.concatenate([np.arange(1.0, 151), [151, 100.5], np.zeros(148)])
    members = np.arange(300) < 150
    assert true_positives(scores, members, 0.01) == 50 / 150
    assert true_positives(scores, members, 0.02) == 1.0


def test_tied_scores_are_guessing_not_a_find() -> None:
    assert auroc(np.zeros(300), MEMBERS) == 0.5
    assert true_positives(np.zeros(300), MEMBERS, 0.01) == 0.0


@given(st.lists(st.tuples(st.floats(-5, 5), st.booleans()), min_size=2, max_size=40))
def test_a_curve_never_falls_and_ends_at_1(rows: list[tuple[float, bool]]) -> None:
    scores = np.asarray([score for score, _ in rows] + [0.0, 0.0])
    members = np.asarray([member for _, member in rows] + [True, False])
    found = curve(scores, members)
    assert len(found) == len(GRID)
    assert found == sorted(found)
    assert found[-1] == 1.0


def test_logits_are_those_of_the_probability_and_finite_at_both_ends() -> None:
    assert logit(np.asarray([-math.log(0.9)]))[0] == pytest.approx(math.log(9))
    assert np.isfinite(logit(np.asarray([0.0, 1e4]))).all()


def test_a_calibrated_score_compares_with_the_shadows_trained_without_the_image() -> None:
    # Target 0, twin 1, shadows 2 to 5. Image 0 is out in 2 and 4, image 1 in 3 and 5.
    members = np.asarray([[1, 0], [0, 1], [0, 1], [1, 0], [0, 1], [1, 0]], dtype=np.bool_)
    confidences = np.asarray([[9.0, 4.0], [77, 77], [1, 50], [50, 2], [3, 50], [50, 4]])
    # Means out: 2 and 3. Residuals -1, 1, -1, 1: deviation 1.
    assert calibrated(confidences, members, 0, 1).tolist() == [7.0, 1.0]


def test_an_image_that_is_in_every_shadow_is_refused() -> None:
    members = np.asarray([[1], [0], [1]], dtype=np.bool_)
    with pytest.raises(ValueError, match="1 images are in every shadow"):
        calibrated(np.zeros((3, 1)), members, 0, 1)
