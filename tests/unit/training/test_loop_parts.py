"""Schedule, seeds, optimiser groups, batches, progress, threads."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.training.parts import NOW, Ticks, clock, dataset
from umim.api.round import OptimisationSpec, Progress
from umim.data.transforms import AugmentationConfig
from umim.errors import TrainingError
from umim.models.encoder import create_encoder
from umim.training.batches import Batches
from umim.training.optimiser import create_optimiser
from umim.training.reporter import Clock, MergeReporter, Reporter
from umim.training.runtime import Runtime, thread_count
from umim.training.schedule import learning_rate
from umim.training.seeds import derive

CPU = torch.device("cpu")


def test_the_rate_rises_linearly_to_its_peak_and_falls_by_a_cosine_to_zero() -> None:
    rates = [learning_rate(step, 100, 1.0, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert rates[10] == 1
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[99] < 0.001


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.0), (1, 0.9), (2, 0.5), (3, 0.99)])
def test_the_rate_is_positive_in_the_shortest_trainings(steps: int, warmup: float) -> None:
    assert all(0 < learning_rate(step, steps, 1.0, warmup) <= 1 for step in range(steps))


def test_seeds_of_different_purposes_differ() -> None:
    seeds = {derive(seed, purpose, epoch) for seed in (0, 1) for purpose in ("order", "masks") for epoch in (0, 1, 11)}
    assert len(seeds) == 12
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_positions_norms_and_biases_are_not_decayed() -> None:
    encoder = create_encoder("test_vit", 32, seed=0)
    optimiser = create_optimiser(encoder, OptimisationSpec(weight_decay=0.1))
    decayed, plain = optimiser.param_groups
    by_id = {id(parameter): name for name, parameter in encoder.net.named_parameters()}
    names = {by_id[id(parameter)] for parameter in decayed["params"]}
    assert "patch_embed.proj.weight" in names
    assert "blocks.0.attn.qkv.weight" in names
    assert not {"pos_embed", "cls_token", "norm.weight", "blocks.0.attn.qkv.bias"} & names
    assert len(decayed["params"]) + len(plain["params"]) == len(by_id)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)


def test_a_pass_holds_every_image_once_also_in_a_last_smaller_batch() -> None:
    data = dataset(count=20)
    batches = Batches(data, np.arange(3, 20), 8, CPU)
    still = AugmentationConfig(flip_probability=0, zoom=0, shift=0, brightness=0, contrast=0)
    seen = list(batches.shuffled(5, still, torch.Generator()))
    assert [len(images) for images, _ in seen] == [8, 8, 1]
    assert (batches.steps, batches.images) == (3, 17)
    order = torch.randperm(17, generator=torch.Generator().manual_seed(5)) + 3
    expected = torch.from_numpy(data.images)[order].float() / 255
    torch.testing.assert_close(torch.cat([images for images, _ in seen]), expected, atol=1e-5, rtol=0)
    assert data.targets is not None
    targets = [target for _, target in seen if target is not None]
    assert torch.equal(torch.cat(targets), torch.from_numpy(data.targets)[order])


def test_another_seed_gives_another_order() -> None:
    batches = Batches(dataset(), np.arange(20), 20, CPU)
    still = AugmentationConfig(flip_probability=0, zoom=0, shift=0, brightness=0, contrast=0)
    first, second = (next(batches.shuffled(seed, still, torch.Generator()))[0] for seed in (1, 2))
    assert not torch.equal(first, second)


def test_reading_in_order_leaves_the_images_as_they_are() -> None:
    data = dataset()
    images, _ = next(Batches(data, np.arange(20), 20, CPU).ordered())
    assert torch.equal(images, torch.from_numpy(data.images) / 255)


def test_progress_is_bounded_in_rate_and_says_mean_loss_speed_and_time_left() -> None:
    reports: list[Progress] = []
    reporter = Reporter(
        reports.append, Clock(lambda: NOW, Ticks(0.5)), epochs=2, steps=10, finished_epochs=0, device=CPU
    )
    for epoch in range(2):
        for step in range(10):
            reporter.step(torch.tensor(float(step + 10 * epoch)), images=4)
        mean = reporter.end_epoch()
        assert mean == 4.5 + 10 * epoch
    assert [report.step for report in reports] == [4, 8, 12, 16, 20]
    first = reports[0]
    assert first.loss == pytest.approx(1.5)
    assert first.images_per_second == pytest.approx(4 * 4 / 2.5)
    assert first.eta_seconds == pytest.approx(2.5 / 4 * 16)
    assert (reports[-1].epoch, reports[-1].percent, reports[-1].eta_seconds) == (2, 100, 0)


def test_a_merge_reports_at_a_bounded_rate_how_much_is_done_and_for_how_long_still() -> None:
    reports: list[Progress] = []
    reporter = MergeReporter(reports.append, Clock(lambda: NOW, Ticks(0.5)))
    for done in range(11):
        reporter(done, 10)
    assert [(one.step, one.steps, one.percent) for one in reports] == [(4, 10, 40), (8, 10, 80), (10, 10, 100)]
    assert [one.eta_seconds for one in reports] == [3, 1, 0]
    assert {(one.loss, one.images_per_second) for one in reports} == {(None, None)}


def test_a_short_merge_reports_nothing_and_every_pass_counts_anew() -> None:
    reports: list[Progress] = []
    reporter = MergeReporter(reports.append, Clock(lambda: NOW, Ticks(0.5)))
    for total in (2, 2, 5):
        for done in range(total + 1):
            reporter(done, total)
    assert [(one.step, one.eta_seconds) for one in reports] == [(4, 0.5), (5, 0)]


def test_a_resumed_training_reports_from_where_it_goes_on() -> None:
    reports: list[Progress] = []
    reporter = Reporter(reports.append, clock(), epochs=3, steps=2, finished_epochs=2, device=CPU)
    for _ in range(2):
        reporter.step(torch.tensor(1.0), images=4)
    reporter.end_epoch()
    assert [(report.epoch, report.step, report.steps) for report in reports] == [(3, 6, 6)]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_an_error_at_the_latest_at_the_end_of_the_epoch(bad: float) -> None:
    reporter = Reporter(lambda _: None, clock(), epochs=1, steps=2, finished_epochs=0, device=CPU)
    reporter.step(torch.tensor(bad), images=4)
    reporter.step(torch.tensor(1.0), images=4)
    with pytest.raises(TrainingError, match=r"by step 2 of 2 .*lower spec.training.learningRate"):
        reporter.end_epoch()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "max 100000"}, 4),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "10000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({}, 4),
    ],
)
def test_threads_follow_the_quota_of_the_cgroup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert thread_count({}, tmp_path) == expected


def test_threads_can_be_fixed_by_the_standard_variable(tmp_path: Path) -> None:
    assert thread_count({"OMP_NUM_THREADS": "7"}, tmp_path) == 7


def test_on_the_cpu_there_is_no_mixed_precision(runtime: Runtime) -> None:
    assert (runtime.device.type, runtime.half) == ("cpu", None)
    assert torch.are_deterministic_algorithms_enabled()
    assert not runtime.scaler().is_enabled()
