"""A whole round on a GPU: pretraining, two hospitals, merge, distillation, each by its Job's own function."""

from __future__ import annotations

from pathlib import Path

from hack.testenv.images import write_textures
from tests.unit.simulation.conftest import FEDERATION, POOL, Machine, a_round
from umim.training.runtime import Runtime


def test_a_round_gives_a_model(tmp_path: Path, runtime: Runtime) -> None:
    machine = Machine(tmp_path, runtime)
    for seed, claim in enumerate(("hospital-a/images", "hospital-b/images", f"{FEDERATION}/pool")):
        write_textures(machine.data / claim / "images.npz", 24, seed)
    model = {"architecture": "test_vit", "imageSize": 32, "parent": {"init": "mim"}}
    training = {"epochs": 2, "batchSize": 8, "objective": "supervised+mim"}
    result = machine.both(
        a_round(
            "a",
            "b",
            model=model,
            serverDataset=POOL,
            training=training,
            pretraining={"epochs": 2, "batchSize": 8},
            aggregation={"strategy": "ties", "encoding": {"format": "int8"}},
            distillation={"epochs": 2, "batchSize": 8},
        )
    )
    assert result.phase == "Complete", result.message
    assert result.models[-1].spec.metrics["server_mim_loss"] > 0
