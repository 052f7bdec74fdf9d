"""The demonstration's round: its manifest, its name, and what came of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from hack.demo.install import FEDERATION, POOL_CLAIM
from hack.demo.sites import SITES
from umim.api.base import API_VERSION
from umim.cli import render
from umim.cli.resources import Model, Round

NAME = re.compile(r"^demo-(\d+)$")
RESOURCES = {"requests": {"cpu": "300m", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "3Gi"}}


def manifest(name: str) -> dict[str, Any]:
    """Return the round: MIM on the server's pool, then labels and MIM at three hospitals, two of which must deliver."""
    pool = {"claimName": POOL_CLAIM, "format": "imagefolder", "task": "none"}
    hospitals = [{"namespace": site.namespace, "name": site.hospital} for site in SITES if site.hospital]
    spec = {
        "model": {"architecture": "vit_tiny_patch16_224", "imageSize": 64, "parent": {"init": "mim"}},
        "pretraining": {"dataset": pool, "epochs": 10, "batchSize": 32, "learningRate": 1e-3, "resources": RESOURCES},
        "participants": {"hospitals": hospitals, "quorum": 2},
        "training": {"objective": "supervised+mim", "epochs": 6, "batchSize": 8, "learningRate": 1e-3},
        "resources": RESOURCES,
        "aggregation": {"strategy": "fedavg"},
        "deadline": "10m",
        "retries": 2,
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "FederationRound",
        "metadata": {"name": name, "namespace": FEDERATION},
        "spec": spec,
    }


def next_name(rounds: Iterable[Round]) -> tuple[str, bool]:
    """Return the name of the round to follow, and whether it must be made.

    A demonstration that was interrupted goes on with its unfinished round; else a new one starts: demo-1, demo-2, …
    """
    numbered = {int(match[1]): one for one in rounds if (match := NAME.match(one.name))}
    if not numbered:
        return "demo-1", True
    newest = numbered[max(numbered)]
    return (f"demo-{max(numbered) + 1}", True) if newest.finished else (newest.name, False)


def report(
    done: Round, model: Model, chain: Sequence[Model], kubectl_output: str, pull: str, stop: str
) -> RenderableType:
    """Return the end of the demonstration: sites, model, lineage, how to fetch it and how to stop the cluster."""
    kinds = {f"{site.namespace}.{site.hospital}": site.title for site in SITES}
    legend = ", ".join(f"{site.name}: {kinds[site.name]}" for site in done.status.sites if site.name in kinds)
    return Group(
        Rule(Text(f"Round {done.namespace}/{done.name}", style="bold"), align="left"),
        render.sites_table(done.status.sites),
        Text(legend, style="dim"),
        Text("Losses are those of each hospital's own validation patients, with its own head.\n", style="dim"),
        Rule(Text("Global model", style="bold"), align="left"),
        render.model_facts(model),
        Text("Lineage"),
        render.lineage_tree(chain),
        Text(),
        Rule(Text("kubectl get fround,gmodel,hospital -A -o wide", style="bold"), align="left"),
        Text(kubectl_output.rstrip(), no_wrap=True, overflow="ignore"),
        Text(),
        Rule(Text("Next", style="bold"), align="left"),
        Text(f"Fetch the model:    {pull}", overflow="fold"),
        Text(f"Stop the cluster:   {stop}", overflow="fold"),
    )


def as_json(name: str) -> str:
    """Return the round as a document for kubectl."""
    return json.dumps(manifest(name))
