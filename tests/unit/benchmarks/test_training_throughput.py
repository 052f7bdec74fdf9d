"""The throughput benchmark compares loops that do the same work."""

import pytest
import torch

from tests.benchmarks import training_throughput
from tests.benchmarks.training_throughput import Timed, Work, compare
from umim.training.runtime import start_runtime

SMALL = Work("test_vit", 32, images=20, batch_size=8, epochs=2)


def test_both_loops_do_the_same_work_and_every_repeat_is_kept() -> None:
    result = compare(SMALL, 2, start_runtime(1))
    assert {name: len(times) for name, times in result["repeats"].items()} == {"project": 2, "plain": 2}
    for ours, plain in zip(result["repeats"]["project"], result["repeats"]["plain"], strict=True):
        assert ours["loss"] == pytest.approx(plain["loss"], rel=1e-4)
    assert result["summary"].keys() == {"ratio", "ratio_cpu_time", "ratio_without_saving"}
    assert all(0 < time["saving_seconds"] < time["seconds"] for times in result["repeats"].values() for time in times)


def test_loops_that_do_other_work_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_throughput, "plain_loop", lambda *_: Timed(1.0, 1.0, 0.0, torch.pi, 0))
    with pytest.raises(RuntimeError, match="did not do the same work: losses"):
        compare(SMALL, 1, start_runtime(1))
