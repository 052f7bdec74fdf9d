"""CustomResourceDefinitions made from the pydantic models: one source for validation, docs and code.

``python -m umim.api.crd DIRECTORY`` writes one YAML file a resource. The schemas are structural in the sense of
Kubernetes: no references, no unions but "or absent", defaults and CEL rules included.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umim.api.base import GROUP, VERSION, ApiModel
from umim.api.federation import FederationSpec, FederationStatus
from umim.api.globalmodel import GlobalModelSpec
from umim.api.hospital import HospitalSpec, HospitalStatus
from umim.api.round import FederationRoundSpec, FederationRoundStatus
from umim.api.rules import federation_rules, name_limit, round_rules

Schema = dict[str, Any]

_DROPPED = frozenset({"title", "$defs", "propertyNames", "discriminator"})


@dataclass(frozen=True)
class Column:
    """A column of ``kubectl get``; priority 1 shows only with ``-o wide``."""

    name: str
    path: str
    description: str
    type: str = "string"
    priority: int = 0

    def to_dict(self) -> Schema:
        """Return the column as the CRD writes it."""
        return {
            "name": self.name,
            "type": self.type,
            "jsonPath": self.path,
            "description": self.description,
            "priority": self.priority,
        }


@dataclass(frozen=True)
class Resource:
    """What a CRD needs beside the schemas of spec and status."""

    kind: str
    plural: str
    short_names: tuple[str, ...]
    description: str
    spec: type[ApiModel]
    status: type[ApiModel] | None
    columns: tuple[Column, ...]
    rules: tuple[Schema, ...] = ()


_AGE = Column("Age", ".metadata.creationTimestamp", "Time since creation.", type="date")

RESOURCES: tuple[Resource, ...] = (
    Resource(
        kind="Hospital",
        plural="hospitals",
        short_names=("hosp",),
        description="A hospital's consent to take part in federations: its data, its limits and its privacy floor. "
        "Owned by the hospital, in the hospital's namespace.",
        spec=HospitalSpec,
        status=HospitalStatus,
        columns=(
            Column("Federations", ".spec.federations", "Namespaces whose rounds may train here."),
            Column("Format", ".spec.data.format", "Format of the private images."),
            Column("Task", ".spec.data.task", "What the labels are."),
            Column("Updates", ".status.participations", "Updates that have left the hospital.", type="integer"),
            Column("Last-Round", ".status.lastParticipation.round", "Round of the newest update that left."),
            Column("Clip-Norm", ".spec.privacy.clipNorm", "Largest norm of an update.", type="number", priority=1),
            _AGE,
        ),
        rules=(name_limit(63),),
    ),
    Resource(
        kind="FederationRound",
        plural="federationrounds",
        short_names=("fround",),
        description="One round of federated training: hospitals train one model on their own images, their updates "
        "are merged into one GlobalModel.",
        spec=FederationRoundSpec,
        status=FederationRoundStatus,
        columns=(
            Column("Phase", ".status.phase", "Summary of the conditions."),
            Column("Sites", ".status.sitesSummary", "Updates done / quorum / sites in all."),
            Column("Progress", ".status.progress", "Mean progress of the sites' training."),
            Column("Model", ".status.globalModel.name", "The published GlobalModel."),
            _AGE,
            Column("Strategy", ".spec.aggregation.strategy", "How updates are merged.", priority=1),
            Column("Deadline", ".spec.deadline", "Time that the sites have.", priority=1),
            Column("Reason", ".status.reason", "Reason of the phase.", priority=1),
        ),
        rules=(name_limit(200), *round_rules()),
    ),
    Resource(
        kind="Federation",
        plural="federations",
        short_names=("fed",),
        description="A stage-wise campaign: an ordered list of stages of hospitals. The operator makes the rounds of "
        "each stage, one after another, each from the GlobalModel of the one before.",
        spec=FederationSpec,
        status=FederationStatus,
        columns=(
            Column("Phase", ".status.phase", "Summary of the conditions."),
            Column("Stage", ".status.stage", "Number of the newest stage / stages in all."),
            Column("Round", ".status.currentRound", "The newest FederationRound."),
            Column("Model", ".status.globalModel.name", "The newest GlobalModel."),
            _AGE,
            Column("Reason", ".status.reason", "Reason of the phase.", priority=1),
        ),
        rules=(name_limit(63), *federation_rules()),
    ),
    Resource(
        kind="GlobalModel",
        plural="globalmodels",
        short_names=("gmodel",),
        description="Registry entry of one published model: its digest, where it lies and where it comes from. "
        "Made by the operator, immutable.",
        spec=GlobalModelSpec,
        status=None,
        columns=(
            Column("Architecture", ".spec.architecture", "timm name of the encoder."),
            Column("Strategy", ".spec.strategy", "How it was made."),
            Column("Parent", ".spec.parent.name", "The model that the sites started from."),
            Column("Round", ".spec.round.name", "The round that made it."),
            Column("Digest", ".spec.digest", "sha256 of the tensors file.", priority=1),
            _AGE,
        ),
    ),
)


def crd(resource: Resource) -> Schema:
    """Return the CustomResourceDefinition (apiextensions.k8s.io/v1) of one resource."""
    properties: Schema = {
        "apiVersion": {"type": "string", "description": "Version of the API, umim.dev/v1alpha1."},
        "kind": {"type": "string", "description": f"Kind of the resource, {resource.kind}."},
        "metadata": {"type": "object"},
        "spec": structural_schema(resource.spec),
    }
    version: Schema = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [column.to_dict() for column in resource.columns],
    }
    if resource.status is not None:
        properties["status"] = structural_schema(resource.status)
        version["subresources"] = {"status": {}}
    root: Schema = {
        "type": "object",
        "description": resource.description,
        "required": ["spec"],
        "properties": properties,
    }
    if resource.rules:
        root["x-kubernetes-validations"] = list(resource.rules)
    version["schema"] = {"openAPIV3Schema": root}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{GROUP}", "labels": {"app.kubernetes.io/part-of": "umim"}},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": resource.kind,
                "listKind": f"{resource.kind}List",
                "plural": resource.plural,
                "singular": resource.kind.lower(),
                "shortNames": list(resource.short_names),
                "categories": ["umim"],
            },
            "versions": [version],
        },
    }


def structural_schema(model: type[ApiModel]) -> Schema:
    """Return the model's schema in the structural form that Kubernetes asks for."""
    schema = model.model_json_schema(by_alias=True)
    return _convert(schema, schema.get("$defs", {}))


def _convert(node: Schema, defs: dict[str, Schema]) -> Schema:
    node = _merge_reference(_without_null(node), defs)
    out = {key: value for key, value in node.items() if key not in _DROPPED}
    if "description" in out:
        out["description"] = " ".join(out["description"].split())
    if "const" in out:
        out["enum"] = [out.pop("const")]
    for bound in ("Minimum", "Maximum"):
        if isinstance(limit := out.pop(f"exclusive{bound}", None), int | float):
            out |= {bound.lower(): limit, f"exclusive{bound}": True}
    if "properties" in out:
        out["properties"] = {name: _convert(child, defs) for name, child in out["properties"].items()}
    if "items" in out:
        out["items"] = _convert(out["items"], defs)
    additional = out.pop("additionalProperties", None)
    if isinstance(additional, dict):
        out["additionalProperties"] = _convert(additional, defs)
    return _with_default(out)


def _without_null(node: Schema) -> Schema:
    """Turn ``X or null, default null`` into an optional X: an absent field is None."""
    if "anyOf" not in node:
        return node
    (kept,) = [choice for choice in node["anyOf"] if choice != {"type": "null"}]
    outer = {key: value for key, value in node.items() if key != "anyOf" and (key, value) != ("default", None)}
    return {**kept, **outer}


def _merge_reference(node: Schema, defs: dict[str, Schema]) -> Schema:
    if "$ref" not in node:
        return node
    target = defs[node["$ref"].rsplit("/", 1)[1]]
    return {**target, **{key: value for key, value in node.items() if key != "$ref"}}


def _with_default(node: Schema) -> Schema:
    """Show the default in the description; objects get their defaults field by field."""
    if "default" not in node:
        return node
    if node.get("type") == "object":
        return {**node, "default": {}}
    description = node.get("description", "")
    if "Default:" in description:
        return node
    return {**node, "description": f"{description} Default: {_shown(node['default'])}.".strip()}


def _shown(default: object) -> str:
    if isinstance(default, list):
        return ", ".join(str(item) for item in default)
    return str(default).lower() if isinstance(default, bool) else str(default)


def main(directory: Path) -> None:
    """Write the CRDs as YAML files into the directory."""
    import yaml  # only this command needs it

    directory.mkdir(parents=True, exist_ok=True)
    for resource in RESOURCES:
        text = yaml.safe_dump(crd(resource), sort_keys=False, width=110)
        path = directory / f"{resource.plural}.{GROUP}.yaml"
        path.write_text(f"# Generated by python -m umim.api.crd from umim/api. Do not edit.\n{text}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
