"""The demonstration's round: its manifest, its name, and what came of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
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
        "serverDataset": pool,
        "pretraining": {"epochs": 10, "batchSize": 32, "learningRate": 1e-3, "resources": RESOURCES},
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


def superseded(rounds: Iterable[Round]) -> list[str]:
    """Return the demonstration's finished rounds but the newest two: their Jobs count against the hospitals' quotas."""
    numbered = sorted(int(match[1]) for one in rounds if one.finished and (match := NAME.match(one.name)))
    return [f"demo-{number}" for number in numbered[:-2]]


def report(done: Round, model: Model, chain: Sequence[Model]) -> RenderableType:
    """Return what came of the round: sites, model, lineage."""
    kinds = {f"{site.namespace}.{site.hospital}": site.title for site in SITES}
    legend = "; ".join(f"{site.name}: {kinds[site.name]}" for site in done.status.sites if site.name in kinds)
    return Group(
        heading(f"Round {done.namespace}/{done.name}"),
        render.sites_table(done.status.sites),
        Text(f"{legend}. Loss: of the hospital's own validation patients, before -> after.\n", style="dim"),
        heading("Global model"),
        render.model_facts(model),
        Text("Lineage", style="bold"),
        Padding(render.lineage_tree(chain), (0, 2)),
    )


def heading(text: str) -> Rule:
    """Return a heading of the report."""
    return Rule(Text(text, style="bold"), align="left", style="dim")


def as_json(name: str) -> str:
    """Return the round as a document for kubectl."""
    return json.dumps(manifest(name))
