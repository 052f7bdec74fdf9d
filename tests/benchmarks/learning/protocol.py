"""The protocol of the learning benchmark: budgets, arms, profiles. Whatever decides a number is fixed here.

All arms of a seed share one start. Federated arms take the same local steps, arms with a server step the same server
steps, and A1 spends on masked image modelling what A4 spends on the server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from umim.api.federation import FederationSpec
from umim.api.hospital import DatasetSpec, HospitalSpec

NAMESPACE = "benchmark"
SERVER_FILE = "server_pool.npz"
SERVER_SITE = "server"
START = "start"


@dataclass(frozen=True)
class Budget:
    """What the arms may spend. Other values are another experiment."""

    architecture: str = "vit_pico_patch8_64"
    image_size: int = 64
    start_epochs: int = 10
    """Passes of MIM over the server's pool in the shared start."""
    mim_rate: float = 1e-3
    """Learning rate wherever the objective is MIM alone: it bears more than labels do."""
    extra_epochs: int = 10
    """Passes of MIM that A1 takes beyond the start. The report shows the seconds of both."""
    rounds: int = 6
    """Rounds of a federated arm, in stages of two."""
    epochs: int = 2
    """Local passes a round."""
    server_images: int = 1500
    """Images of the server's pool a round, for arms with a server step."""


BUDGET = Budget()

PLAIN: Mapping[str, Any] = {
    "objective": "supervised",
    "epochs": BUDGET.epochs,
    "batchSize": 16,
    "learningRate": 3e-4,
    "validationFraction": 0.05,
}
"""Training at the hospitals as FedAvg with private heads is usually run."""
UMIM_CLIENT: Mapping[str, Any] = {**PLAIN, "headWarmupEpochs": 5}
UMIM_MERGE: Mapping[str, Any] = {
    "strategy": "ties",
    "options": {"density": 0.2},
    "weighting": "equal",
    "scales": [2.0],
}
UMIM_SERVER: Mapping[str, Any] = {
    "epochs": 1,
    "images": BUDGET.server_images,
    "batchSize": 64,
    "learningRate": 5e-4,
    "options": {"projectors": 1, "tint": 0.5},
}


@dataclass(frozen=True)
class Arm:
    """One way to make a model."""

    title: str
    """For the report."""
    training: Mapping[str, Any] = field(default_factory=lambda: PLAIN)
    """spec.training without the seed."""
    aggregation: Mapping[str, Any] = field(default_factory=dict)
    """spec.aggregation."""
    distillation: Mapping[str, Any] | None = None
    """spec.distillation without the seed. None: no server step."""
    one_stage: bool = False
    """All local passes in one round, the server's images of all rounds after it."""


FEDERATED: Mapping[str, Arm] = {
    "A2": Arm("FedAvg of the encoder"),
    "A3": Arm("FedProx", {**PLAIN, "proximalMu": 0.01}),
    "A4": Arm("UMIM", UMIM_CLIENT, UMIM_MERGE, UMIM_SERVER),
    "A4-no-distillation": Arm("UMIM without distillation", UMIM_CLIENT, UMIM_MERGE),
    "A4-no-conflict-merge": Arm(
        "UMIM with a plain mean", UMIM_CLIENT, {"weighting": "equal", "scales": [2.0]}, UMIM_SERVER
    ),
    "A4-one-stage": Arm("UMIM in one stage", UMIM_CLIENT, UMIM_MERGE, UMIM_SERVER, one_stage=True),
    "A5": Arm("Federated MIM", {**PLAIN, "objective": "mim", "learningRate": BUDGET.mim_rate}),
}
"""Arms that are Federations, by name."""
OTHERS: Mapping[str, str] = {
    "A0": "Random start",
    "A1": "Server MIM only",
    "local": "Reference: each hospital alone",
    "pooled": "Reference: all data in one place",
}
TITLES: Mapping[str, str] = {**OTHERS, **{name: arm.title for name, arm in FEDERATED.items()}}
"""Titles of all arms."""
CORE = ("A0", "A1", "A2", "A3", "A4", "A5")
"""Arms that a seed must have to count. They are run first, for all seeds."""
ALL_ARMS = ("A0", "A1", *FEDERATED, "local", "pooled")
LEFT_OUT = "A4-without-"
"""Start of the names of A4's runs without one domain."""


@dataclass(frozen=True)
class Profile:
    """How much is run."""

    name: str
    """quick or full."""
    seeds: Sequence[int]
    """One shared start each."""
    arms: Sequence[str]
    """Arms that all seeds run."""
    left_out_seeds: Sequence[int]
    """Seeds that also run A4 without each domain in turn."""
    linear: Sequence[int | None]
    """Labels a class of the linear probe. None: all."""
    finetuning: Sequence[int | None]
    """Labels a class of the fine-tuning."""
    draws: int
    """Draws of the labels."""


PROFILES: Mapping[str, Profile] = {
    "quick": Profile("quick", (0, 1), ("A1", "A2", "A4"), (), (10,), (), 3),
    "full": Profile("full", (0, 1, 2, 3, 4), ALL_ARMS, (0, 1), (10, 50, None), (10,), 5),
}


def dataset(file: str, task: str) -> DatasetSpec:
    """Return a data set that is one file of the folder with the packs."""
    return DatasetSpec.model_validate({"claimName": "data", "path": file, "format": "npz", "task": task})


def hospital(domain: str, task: str) -> HospitalSpec:
    """Return the Hospital of a domain. It consents and has no privacy floor."""
    data = dataset(f"{domain}.npz" if domain != SERVER_SITE else SERVER_FILE, task)
    return HospitalSpec(federations=[NAMESPACE], data=data, work_claim_name="work")


def federation(arm: Arm, domains: Sequence[str], seed: int, budget: Budget = BUDGET) -> FederationSpec:
    """Return the Federation of an arm over the domains. It starts from the shared start."""
    training = {**arm.training, "seed": 1000 * seed}
    server = None if arm.distillation is None else {**arm.distillation, "seed": 1000 * seed}
    rounds = budget.rounds
    if arm.one_stage:
        training["epochs"] *= rounds
        rounds = 1
        if server is not None:
            server["images"] *= budget.rounds
    participants = {
        "hospitals": [{"namespace": NAMESPACE, "name": domain} for domain in domains],
        "quorum": len(domains),
    }
    sizes = [2] * (rounds // 2) + [1] * (rounds % 2)
    return FederationSpec.model_validate(
        {
            "model": {
                "architecture": budget.architecture,
                "imageSize": budget.image_size,
                "parent": {"globalModel": START},
            },
            "serverDataset": dataset(SERVER_FILE, "none").to_dict(),
            "training": training,
            "aggregation": dict(arm.aggregation),
            "stages": [
                {"name": f"stage-{number}", "participants": participants, "rounds": size}
                for number, size in enumerate(sizes, start=1)
            ],
            **({} if server is None else {"distillation": server}),
        }
    )


def recipe() -> dict[str, Any]:
    """Return all that decides the models, for the report and for noticing that models are out of date."""
    return {
        "budget": asdict(BUDGET),
        "arms": {name: asdict(arm) for name, arm in FEDERATED.items()},
    }
