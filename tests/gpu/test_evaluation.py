"""Judging a model on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.gpu.parts import ARCHITECTURE, SIZE, stripes
from umim.evaluation.features import extract
from umim.evaluation.finetune import Budget, finetune
from umim.evaluation.pack import Pack, load_pack
from umim.evaluation.probe import linear_probe
from umim.models.encoder import create_encoder
from umim.training.runtime import Runtime

CPU = Runtime(torch.device("cpu"), None)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """Two classes of stripes."""
    arrays: dict[str, Any] = {}
    for side, count, seed in (("train", 40, 1), ("test", 24, 2)):
        labels = np.arange(count) % 2
        arrays |= {f"{side}_images": stripes(labels, seed), f"{side}_labels": labels}
    path = tmp_path_factory.mktemp("pack") / "stripes.npz"
    np.savez(path, **arrays)
    return load_pack(path)


def test_features_and_scores_of_a_probe_are_those_of_the_cpu(pack: Pack, runtime: Runtime) -> None:
    encoder = create_encoder(ARCHITECTURE, SIZE, seed=7)
    torch.set_num_threads(4)
    on_cpu = extract(encoder, pack, SIZE, "test", CPU)
    torch.set_num_threads(1)
    on_gpu = extract(encoder.to(runtime.device), pack, SIZE, "test", runtime)
    for ours, wanted in ((on_gpu.train, on_cpu.train), (on_gpu.held_out, on_cpu.held_out)):
        assert ours.features.dtype == np.float32
        spread = np.linalg.norm(wanted.features - wanted.features.mean(axis=0))
        assert np.linalg.norm(ours.features - wanted.features) < 0.1 * spread
    assert linear_probe(on_gpu, 10).score == pytest.approx(linear_probe(on_cpu, 10).score, abs=0.05)


def test_fine_tuning_learns_and_leaves_the_encoder_as_it_is(pack: Pack, runtime: Runtime) -> None:
    encoder = create_encoder(ARCHITECTURE, SIZE, seed=7).to(runtime.device)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    budget = Budget(steps=40, head_steps=20, batch_size=20, learning_rate=1e-4)
    result = finetune(encoder, pack, runtime, labels_per_class=20, draws=1, budget=budget)
    assert result.score > 0.7
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
