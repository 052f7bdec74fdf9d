"""The training loop keeps the GPU as busy as a plain loop of timm and torch."""

from __future__ import annotations

from collections.abc import Callable

from tests.benchmarks.training_throughput import WORK, Work, compare
from umim.training.runtime import Runtime

LEAST_RATIO = 0.85
"""Of the plain loop's images a second, saving left out: a short measurement on a machine that does other work, too. The
benchmark itself measures longer."""


def test_images_a_second_are_those_of_a_plain_loop(
    runtime: Runtime, record_property: Callable[[str, object], None]
) -> None:
    long = WORK["cuda"]
    result = compare(Work(long.architecture, long.image_size, 1920, long.batch_size), 3, runtime)
    for name in ("summary", "images_per_second", "images_per_second_without_saving", "gpu_peak_gib"):
        record_property(name, result[name])
    assert result["summary"]["ratio_without_saving"] > LEAST_RATIO
    assert result["gpu_peak_gib"]["project"] < 1.1 * result["gpu_peak_gib"]["plain"]
