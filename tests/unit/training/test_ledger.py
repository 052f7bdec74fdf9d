"""The privacy ledger: crashes, resumed trainings, Jobs at the same time, budgets."""

from __future__ import annotations

import multiprocessing
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.unit.training.parts import NOW, Kill, around, clock, dataset, kill_after, parent, site_config
from umim.api.hospital import PrivacySpec
from umim.api.jobs import SiteJobConfig
from umim.api.privacy import DifferentialPrivacyFloor, DifferentialPrivacySpec
from umim.errors import DataError, PrivacyBudgetError, StoreError
from umim.models.state import ModelState
from umim.training.accountant import epsilon
from umim.training.ledger import Budget, LedgerEntry, PrivacyLedger, only_one
from umim.training.runtime import Runtime
from umim.training.site import FINISHED_NAME, LOCK_NAME, Surroundings, Trained, train_at_site, work_folder

FREE = Budget(None, 1e-5)


def entry(number: int = 1, **changes: Any) -> LedgerEntry:
    values = {"noise_multiplier": 1.0, "max_grad_norm": 1.0, "sample_rate": 0.1, "steps": 50, **changes}
    return LedgerEntry(
        time=NOW,
        round=f"federation/r{number}",
        round_uid=f"uid-{number}",
        attempt=1,
        training=f"{number:064x}",
        **values,
    )


ALONE = epsilon([entry().mechanism], FREE.delta)
TWICE = epsilon([entry().mechanism] * 2, FREE.delta)


def test_entries_come_back_as_they_were_written(tmp_path: Path) -> None:
    ledger = PrivacyLedger(tmp_path / "new")
    for number in range(3):
        ledger.enter(entry(number, noise_multiplier=1.1 + number / 3), FREE, resumed=False)
    assert ledger.entries() == [entry(number, noise_multiplier=1.1 + number / 3) for number in range(3)]


def test_all_entries_together_are_composed(tmp_path: Path) -> None:
    ledger = PrivacyLedger(tmp_path)
    assert ledger.enter(entry(1), FREE, resumed=False) == ALONE
    assert ledger.enter(entry(2), FREE, resumed=False) == TWICE < 2 * ALONE


def test_what_exceeds_the_budget_is_refused_and_not_entered(tmp_path: Path) -> None:
    ledger, budget = PrivacyLedger(tmp_path), Budget((ALONE + TWICE) / 2, FREE.delta)
    ledger.enter(entry(1), budget, resumed=False)
    wanted = rf"epsilonBudget of the Hospital is \S+ at delta 1e-05, {ALONE:.3f} is spent, .* needs {ALONE:.3f} alone"
    with pytest.raises(PrivacyBudgetError, match=wanted):
        ledger.enter(entry(2), budget, resumed=False)
    assert ledger.entries() == [entry(1)]
    ledger.enter(entry(3, noise_multiplier=20.0), budget, resumed=False)


def test_a_training_that_goes_on_is_entered_once_and_needs_no_budget(tmp_path: Path) -> None:
    ledger, budget = PrivacyLedger(tmp_path), Budget(ALONE, FREE.delta)
    ledger.enter(entry(1), budget, resumed=False)
    assert ledger.enter(entry(1), budget, resumed=True) == ALONE
    assert len(ledger.entries()) == 1


def test_a_training_that_starts_anew_is_entered_again(tmp_path: Path) -> None:
    ledger = PrivacyLedger(tmp_path)
    ledger.enter(entry(1), FREE, resumed=False)
    assert ledger.enter(entry(1), FREE, resumed=False) == TWICE


def test_a_checkpoint_of_a_training_that_is_in_no_ledger_does_not_go_on_for_nothing(tmp_path: Path) -> None:
    ledger = PrivacyLedger(tmp_path)
    ledger.enter(entry(2), FREE, resumed=False)
    assert ledger.enter(entry(1), FREE, resumed=True) == TWICE


def test_a_line_that_was_not_finished_was_not_trained_and_the_next_one_is_whole(tmp_path: Path) -> None:
    ledger, file = PrivacyLedger(tmp_path), tmp_path / "ledger.jsonl"
    ledger.enter(entry(1), FREE, resumed=False)
    whole = file.read_bytes()
    for cut in (1, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole + whole[:cut])
        ledger.enter(entry(2), FREE, resumed=False)
        assert ledger.entries() == [entry(1), entry(2)]


@pytest.mark.parametrize("damage", [b"{}\n", b"\n", b"\x00\x00\n", b'{"steps": 1}\n'])
def test_a_damaged_line_stops_every_private_training_and_its_text_stays_inside(tmp_path: Path, damage: bytes) -> None:
    ledger, file = PrivacyLedger(tmp_path), tmp_path / "ledger.jsonl"
    ledger.enter(entry(1), FREE, resumed=False)
    file.write_bytes(damage + file.read_bytes())
    with pytest.raises(DataError, match=r"ledger.jsonl, line 1") as caught:
        ledger.enter(entry(2), FREE, resumed=False)
    assert caught.value.public == "the privacy ledger in the work volume cannot be read"


def test_jobs_at_the_same_time_do_not_spend_the_same_budget(tmp_path: Path) -> None:
    ledger, budget = PrivacyLedger(tmp_path), Budget((ALONE + TWICE) / 2, FREE.delta)

    def attempt(number: int) -> bool:
        try:
            ledger.enter(entry(number), budget, resumed=False)
        except PrivacyBudgetError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(attempt, range(6))) == 1
    assert len(ledger.entries()) == 1


def _hold(path: Path, ready: Any, done: Any) -> None:
    with only_one(path):
        ready.set()
        done.wait(60)


def test_a_lock_keeps_other_processes_out_and_ends_with_its_process(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "lock", ready, done))
    holder.start()
    assert ready.wait(120)
    with pytest.raises(StoreError, match="another Job of this round still trains"), only_one(tmp_path / "lock"):
        pass
    holder.kill()
    holder.join()
    with only_one(tmp_path / "lock"):
        pass


# with real trainings


def private(work: Path, budget: float | None = None) -> SiteJobConfig:
    floor = DifferentialPrivacyFloor(min_noise_multiplier=1.0, epsilon_budget=budget)
    asked = DifferentialPrivacySpec(noise_multiplier=2.0)
    return site_config(work, differential_privacy=asked).model_copy(
        update={"privacy": PrivacySpec(differential_privacy=floor)}
    )


def train(config: SiteJobConfig, where: Surroundings) -> Trained:
    return train_at_site(config, ModelState(parent()), dataset(), where)


def test_a_training_is_in_the_ledger_before_its_first_step(tmp_path: Path, runtime: Runtime) -> None:
    config = private(tmp_path)

    def dies(_: int) -> bytes:
        raise Kill

    with pytest.raises(Kill):
        train(config, Surroundings(runtime, lambda _: None, clock(), entropy=dies))
    (found,) = PrivacyLedger.of(config).entries()
    assert (found.noise_multiplier, found.sample_rate, found.steps) == (2.0, 0.5, 4)
    assert (found.round, found.round_uid, found.attempt) == ("federation/r", "uid-1", 1)


def test_a_crash_spends_once_with_its_checkpoint_and_twice_without(tmp_path: Path, runtime: Runtime) -> None:
    config = private(tmp_path)
    ledger = PrivacyLedger.of(config)
    with pytest.raises(Kill):
        train(config, kill_after(runtime, steps=3))
    trained = train(config, around(runtime))
    assert len(ledger.entries()) == 1
    assert trained.differential_privacy is not None
    assert trained.differential_privacy.epsilon_spent == trained.differential_privacy.epsilon
    shutil.rmtree(work_folder(config))
    anew = train(config, around(runtime)).differential_privacy
    assert len(ledger.entries()) == 2
    assert anew is not None
    assert anew.epsilon_spent is not None
    assert anew.epsilon_spent > anew.epsilon


def test_what_goes_on_from_a_checkpoint_has_other_noise(tmp_path: Path, runtime: Runtime) -> None:
    config = private(tmp_path / "a")
    with pytest.raises(Kill):
        train(config, kill_after(runtime, steps=3))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first, other = (train(private(tmp_path / name), around(runtime)).state.encoder["norm.bias"] for name in "ab")
    assert not first.equal(other)


def test_an_outcome_that_may_have_been_seen_is_not_made_again_for_nothing(tmp_path: Path, runtime: Runtime) -> None:
    config = private(tmp_path)
    folder, ledger = work_folder(config), PrivacyLedger.of(config)
    first = train(config, around(runtime)).state.encoder["norm.bias"]
    assert (folder / FINISHED_NAME).exists()
    assert train(config, around(runtime)).state.encoder["norm.bias"].equal(first)
    assert len(ledger.entries()) == 1
    (folder / "epoch-0002.json").unlink()  # the last checkpoint is lost, the one before is there
    assert not train(config, around(runtime)).state.encoder["norm.bias"].equal(first)
    assert len(ledger.entries()) == 2


def test_another_noise_does_not_go_on_from_the_checkpoint_of_the_first(tmp_path: Path, runtime: Runtime) -> None:
    config = private(tmp_path)
    train(config, around(runtime))
    stricter = DifferentialPrivacyFloor(min_noise_multiplier=3.0)
    train(config.model_copy(update={"privacy": PrivacySpec(differential_privacy=stricter)}), around(runtime))
    assert [one.noise_multiplier for one in PrivacyLedger.of(config).entries()] == [2.0, 3.0]


def test_a_job_beyond_the_budget_takes_no_step(tmp_path: Path, runtime: Runtime) -> None:
    config = private(tmp_path, budget=0.5)

    def untouched(_: int) -> bytes:
        raise AssertionError("a step was taken")

    with pytest.raises(PrivacyBudgetError, match=r"epsilonBudget of the Hospital is 0.5 .* 0.000 is spent"):
        train(config, Surroundings(runtime, lambda _: None, clock(), entropy=untouched))
    assert PrivacyLedger.of(config).entries() == []
    assert list(tmp_path.rglob("epoch-*")) == []


def test_a_second_job_of_the_round_does_not_train_beside_the_first(tmp_path: Path, runtime: Runtime) -> None:
    config = private(tmp_path)
    with only_one(work_folder(config) / LOCK_NAME), pytest.raises(StoreError, match="another Job"):
        train(config, around(runtime))
    assert PrivacyLedger.of(config).entries() == []
