"""``umim init``: commented YAML to begin with. Needs no cluster."""

from __future__ import annotations

from typing import Annotated, Any

import typer
import yaml
from pydantic import BaseModel

from umim.api.base import API_VERSION
from umim.api.federation import FederationSpec
from umim.api.hospital import HospitalSpec
from umim.api.round import FederationRoundSpec
from umim.cli.output import show_text
from umim.cli.skeleton import Choices, skeleton, yaml_value
from umim.simulation.resources import parse_documents

app = typer.Typer(no_args_is_help=True, help="Commented YAML of a resource, to begin with.")

HEAD = """\
# A line with # and no space behind it is an optional field. Remove the # to set it, and the # of the line that it
# belongs to.
# Apply it with: kubectl apply -f FILE
"""
HOSPITALS = [{"namespace": "hospital-a", "name": "radiology"}, {"namespace": "hospital-b", "name": "radiology"}]
DATASET = {"claimName": "unlabelled-images", "format": "imagefolder", "task": "none"}
RESOURCES = {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"memory": "8Gi", "nvidia.com/gpu": "1"}}
DP = "differentialPrivacy"

ROUND_GIVEN: dict[str, Any] = {
    "model.architecture": "vit_tiny_patch16_224",
    "model.imageSize": 224,
    "model.parent.init": "random",
    "training.objective": "supervised",
    "training.epochs": 2,
    "training.batchSize": 64,
    "training.learningRate": 3e-4,
    "aggregation.strategy": "fedavg",
    "deadline": "2h",
}
ROUND_EXAMPLES: dict[str, Any] = {
    "resources": RESOURCES,
    "queueName": "umim",
    "serverDataset": DATASET,
    "aggregation.clipNorm": 10,
    "aggregation.resources": RESOURCES,
    "distillation.images": 1500,
    "distillation.resources": RESOURCES,
    f"training.{DP}.noiseMultiplier": 1.0,
    "ttlAfterFinished": "168h",
}
ROUND_INSTEAD = {
    "model.parent.globalModel": "in place of init",
    "pretraining": "with model.parent.init: mim and serverDataset, and only then",
    "participants.selector": "in place of hospitals, such as {matchLabels: {umim.dev/modality: ct}}",
    "aggregation.encoding.density": "with format: top-k",
    f"training.{DP}.targetEpsilon": "in place of noiseMultiplier",
}

ROUND = Choices(
    {**ROUND_GIVEN, "participants.hospitals": HOSPITALS, "participants.quorum": 2}, ROUND_EXAMPLES, ROUND_INSTEAD
)
FEDERATION = Choices(
    {
        **ROUND_GIVEN,
        "stages.name": "radiology",
        "stages.participants.hospitals": HOSPITALS,
        "stages.participants.quorum": 2,
        "stages.rounds": 3,
    },
    {
        **ROUND_EXAMPLES,
        "stages.training": {"epochs": 4},
        "stages.resources": RESOURCES,
        "stages.aggregation": {"strategy": "uniform"},
        "stages.distillation": {"epochs": 1},
        "stages.deadline": "6h",
        "stages.retries": 2,
        "stopEarly.metric": "server_mim_loss",
    },
    {**ROUND_INSTEAD, "stages.participants.selector": ROUND_INSTEAD["participants.selector"]},
)
HOSPITAL = Choices(
    {
        "data.claimName": "images",
        "data.format": "imagefolder",
        "data.task": "classification",
        "workClaimName": "site-work",
        "privacy.allowedArtifacts": ["update", "metrics"],
        "privacy.minPatients": 20,
    },
    {
        "data.path": "chest-ct",
        "data.taskName": "chest-ct",
        "data.labelsFile": "labels.csv",
        "maxResources": {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1"},
        "queueName": "umim",
        "privacy.clipNorm": 10,
        f"privacy.{DP}.minNoiseMultiplier": 1.0,
        f"privacy.{DP}.epsilonBudget": 8,
        "architectures": ["vit_tiny_patch16_224"],
        "maxEpochs": 20,
        "timeWindows": [{"days": ["Mon", "Tue", "Wed", "Thu", "Fri"], "opens": "20:00", "closes": "06:00"}],
    },
)

Name = Annotated[str, typer.Option(help="Name of the resource.")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Namespace of the resource.")]


@app.command()
def federation(name: Name = "campaign", namespace: Namespace = "federation") -> None:
    """Write a campaign of rounds: stages of hospitals, one after another."""
    show_text(document("Federation", name, namespace, FederationSpec, FEDERATION))


@app.command("round")
def one_round(name: Name = "round-1", namespace: Namespace = "federation") -> None:
    """Write a single round: hospitals train from one model, and their updates become one."""
    show_text(document("FederationRound", name, namespace, FederationRoundSpec, ROUND))


@app.command()
def hospital(
    name: Name = "radiology",
    namespace: Namespace = "hospital-a",
    federation: Annotated[
        list[str] | None,
        typer.Option(help="Namespace whose rounds may train here. May be given several times. Default: federation."),
    ] = None,
) -> None:
    """Write a hospital's consent, for its own namespace. charts/umim-hospital makes the rest of the namespace."""
    given = {"federations": federation or ["federation"], **HOSPITAL.given}
    show_text(document("Hospital", name, namespace, HospitalSpec, Choices(given, HOSPITAL.examples, HOSPITAL.instead)))


def document(kind: str, name: str, namespace: str, spec: type[BaseModel], choices: Choices) -> str:
    """Return the YAML without its last line break. Raises ConfigError for a name that the API server would refuse."""
    metadata = f"metadata:\n  name: {yaml_value(name)}\n  namespace: {yaml_value(namespace)}\n"
    lines = "\n".join(skeleton(spec, choices, 2))
    text = f"{HEAD}apiVersion: {API_VERSION}\nkind: {kind}\n{metadata}spec:\n{lines}"
    parse_documents([yaml.safe_load(text)], f"umim init {kind}")
    return text
