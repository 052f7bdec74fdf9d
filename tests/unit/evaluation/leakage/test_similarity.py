import numpy as np
import pytest

from umim.evaluation.leakage.similarity import assign, correlation, nearest, psnr, ssim

RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.random((1, 16, 16))


def test_psnr_of_an_error_of_a_tenth_is_20_decibels() -> None:
    assert psnr(np.full((1, 16, 16), 0.4), np.full((1, 16, 16), 0.5)) == pytest.approx(20)


def test_an_exact_image_has_100_decibels_and_ssim_1() -> None:
    assert psnr(IMAGE, IMAGE) == 100
    assert ssim(IMAGE, IMAGE) == pytest.approx(1)


def test_ssim_of_one_window_is_wang_et_als_formula() -> None:
    a, b = RANDOM.random((1, 7, 7)), RANDOM.random((1, 7, 7))
    (variance_a, covariance), (_, variance_b) = np.cov(a.ravel(), b.ravel())
    luminance = (2 * a.mean() * b.mean() + 1e-4) / (a.mean() ** 2 + b.mean() ** 2 + 1e-4)
    structure = (2 * covariance + 9e-4) / (variance_a + variance_b + 9e-4)
    assert ssim(a, b) == pytest.approx(luminance * structure)


def test_ssim_is_the_mean_over_windows_and_channels() -> None:
    a, b = RANDOM.random((3, 9, 8)), RANDOM.random((3, 9, 8))
    windows = [
        ssim(a[[channel], row : row + 7, column : column + 7], b[[channel], row : row + 7, column : column + 7])
        for channel in range(3)
        for row in range(3)
        for column in range(2)
    ]
    assert ssim(a, b) == pytest.approx(np.mean(windows))


def test_correlation_sees_neither_brightness_nor_contrast() -> None:
    assert correlation(IMAGE, 0.2 + 0.5 * IMAGE) == pytest.approx(1)
    assert correlation(IMAGE, 1 - IMAGE) == pytest.approx(-1)
    assert correlation(np.full_like(IMAGE, 0.5), IMAGE) == 0


def test_reconstructions_are_assigned_one_to_one() -> None:
    truths = RANDOM.random((3, 1, 8, 8))
    assert assign(truths[[2, 0, 1]], truths).tolist() == [1, 2, 0]
    # Truth 0 is nearest to both guesses; the second truth gets the one that is left.
    assert set(assign(truths[[0, 0, 0]], truths)) == {0, 1, 2}


def test_the_nearest_image_is_recognised_through_noise() -> None:
    pool = RANDOM.random((20, 1, 16, 16))
    assert nearest(pool[13] + 0.2 * RANDOM.normal(size=(1, 16, 16)), pool) == 13
