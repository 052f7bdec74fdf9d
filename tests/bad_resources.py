"""Resources that must be refused, one wrong field each: for the models, the CRDs' schemas and the real API server.

What a user or a compromised client could try: paths out of the volume, names that would break other names or commands,
numbers beyond any sense, lists beyond what the API server stores, other types, fields of Pods.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

Object = dict[str, Any]
By = Literal["schema", "rule", "unknown"]
"""What refuses it: the schema, a CEL rule, or the strict decoding of unknown fields."""

HOSPITALS = [{"namespace": f"nowhere-{letter}", "name": "radiology"} for letter in "ab"]
PARTICIPANTS = {"hospitals": HOSPITALS, "quorum": 1}
MODEL = {"architecture": "test_vit", "imageSize": 32, "parent": {"init": "random"}}
GOOD: dict[str, Object] = {
    "FederationRound": {
        "model": MODEL,
        "participants": PARTICIPANTS,
        "serverDataset": {"claimName": "pool", "format": "npz"},
    },
    "Federation": {"model": MODEL, "stages": [{"name": name, "participants": PARTICIPANTS} for name in ("ct", "mri")]},
    "Hospital": {
        "federations": ["federation"],
        "data": {"claimName": "data", "format": "imagefolder"},
        "workClaimName": "work",
    },
    "GlobalModel": {
        "digest": "0" * 64,
        "objectKey": f"models/sha256/{'0' * 64}/model.safetensors",
        "sizeBytes": 1,
        "architecture": "test_vit",
        "imageSize": 32,
        "strategy": "fedavg",
        "round": {"name": "r", "uid": "u"},
        "contributors": [{"site": "a.b", "updateDigest": "1" * 64, "samples": 3}],
        "created": "2026-01-01T00:00:00Z",
    },
}
"""A spec of each kind that is accepted."""


@dataclass(frozen=True)
class Bad:
    """A good resource with one field changed."""

    kind: str
    field: str
    """Where the change is, as the API server writes it: spec.stages[1].name."""
    value: Any
    by: By = "schema"
    says: str = ""
    """What the API server's message holds. Default: the field."""

    @property
    def title(self) -> str:
        """A name of the case, for a person."""
        shown = repr(self.value)
        return f"{self.kind} {self.field}={shown if len(shown) < 40 else shown[:36] + '...'}"

    @property
    def named(self) -> str:
        """What an error must hold."""
        return self.says or self.field

    @property
    def spec(self) -> Object:
        """The bad spec."""
        spec = copy.deepcopy(GOOD[self.kind])
        *parents, last = self.field.removeprefix("spec.").replace("[", ".").replace("]", "").split(".")
        node: Any = spec
        for key in parents:
            node = node[int(key)] if isinstance(node, list) else node.setdefault(key, {})
        if isinstance(node, list):
            node[int(last)] = self.value
        else:
            node[last] = self.value
        return spec

    def body(self, namespace: str) -> Object:
        """Return the whole resource."""
        return body_of(self.kind, self.spec, namespace)


def body_of(kind: str, spec: Object, namespace: str) -> Object:
    """Return a resource named bad."""
    metadata = {"name": "bad", "namespace": namespace}
    return {"apiVersion": "umim.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


_R, _F, _H, _G = "FederationRound", "Federation", "Hospital", "GlobalModel"
BAD: list[Bad] = [
    # paths out of the volume
    *(
        Bad(_H, "spec.data.path", path)
        for path in (
            "../../etc",
            "/etc/shadow",
            "a/../../b",
            "a/./b",
            "~root",
            "a//b",
            "a\\..\\b",
            "a\nb",
            "a\0b",
            "$HOME",
        )
    ),
    *(
        Bad(_H, "spec.data.labelsFile", path)
        for path in ("../../etc/passwd", "/dev/zero", "-rf", "a\u202eb", "a" * 513)
    ),
    Bad(_R, "spec.serverDataset.path", "../other-volume"),
    Bad(
        _F,
        "spec.serverDataset",
        {"claimName": "pool", "format": "npz", "path": "/proc/1"},
        says="spec.serverDataset.path",
    ),
    # names that become parts of other names, paths, labels and arguments
    Bad(_H, "spec.data.claimName", "../claim"),
    Bad(_H, "spec.data.claimName", "a" * 254),
    Bad(_H, "spec.workClaimName", "Work Claim"),
    Bad(_H, "spec.serviceAccountName", "default; rm"),
    Bad(_H, "spec.data.taskName", "a/b"),
    Bad(_H, "spec.federations[0]", "*"),
    Bad(_H, "spec.federations", [f"federation-{number}" for number in range(65)]),
    Bad(_R, "spec.model.architecture", "hf-hub:someone/evil"),
    Bad(_R, "spec.model.architecture", "../../model"),
    Bad(_R, "spec.model.architecture", "v" * 129),
    Bad(_R, "spec.model.parent", {"globalModel": "../base"}, says="spec.model.parent.globalModel"),
    Bad(_R, "spec.participants.hospitals[0].namespace", "kube-system/../a"),
    Bad(_R, "spec.participants.hospitals[1].name", "Radiology"),
    Bad(_R, "spec.participants.hospitals[1].name", ""),
    Bad(_R, "spec.aggregation.strategy", "os.system"),
    Bad(_R, "spec.distillation.strategy", "__import__"),
    Bad(_F, "spec.stages[1].name", "a" * 64),
    Bad(_F, "spec.stages[0].name", "mri/../ct"),
    # numbers beyond any sense
    Bad(_R, "spec.training.epochs", 10**9),
    Bad(_R, "spec.training.epochs", -1),
    Bad(_R, "spec.training.batchSize", 2**31),
    Bad(_R, "spec.training.learningRate", -1e-3),
    Bad(_R, "spec.training.seed", 2**31),
    Bad(_R, "spec.training.gradientClipNorm", 0),
    Bad(_R, "spec.model.imageSize", 2**20),
    Bad(_R, "spec.participants.quorum", 100_000),
    Bad(_R, "spec.participants.quorum", 3, "rule"),
    Bad(_R, "spec.aggregation.byzantine", 500),
    Bad(_R, "spec.aggregation.scales", [1] * 17),
    Bad(_R, "spec.retries", 10**6),
    Bad(_R, "spec.deadline", "99999999999999999999h"),
    Bad(_R, "spec.deadline", "-1h"),
    Bad(_R, "spec.deadline", "3s", "rule"),
    Bad(_R, "spec.ttlAfterFinished", "forever"),
    Bad(_R, "spec.resources.limits.memory", "-1Gi"),
    Bad(_R, "spec.resources.limits.memory", "1e99"),
    Bad(_R, "spec.resources.limits", {f"example.com/r{number}": "1" for number in range(17)}),
    Bad(_F, "spec.stages[0].rounds", 501),
    Bad(_F, "spec.stages", [{"name": f"s{number}", "participants": PARTICIPANTS} for number in range(65)]),
    Bad(_H, "spec.privacy.clipNorm", -1),
    Bad(_H, "spec.privacy.noiseMultiplier", -0.5),
    Bad(_H, "spec.privacy.minPatients", 0),
    Bad(_H, "spec.privacy.allowedArtifacts", []),
    # other types
    Bad(_R, "spec.training", "epochs=1"),
    Bad(_R, "spec.participants.hospitals", "all"),
    Bad(_R, "spec.suspend", "maybe"),
    Bad(_R, "spec.aggregation.options", {"momentum": "a lot"}, says="spec.aggregation.options.momentum"),
    Bad(_H, "spec.data", []),
    Bad(_H, "spec.privacy.allowedArtifacts", ["update", "images"], says="spec.privacy.allowedArtifacts[1]"),
    # fields of Pods, which a hospital must never get from a round
    Bad(_R, "spec.hostPath", {"path": "/"}, "unknown"),
    Bad(_R, "spec.training.image", "evil:latest", "unknown"),
    Bad(_R, "spec.training.command", ["sh"], "unknown"),
    Bad(_R, "spec.resources.hostNetwork", True, "unknown"),
    Bad(_H, "spec.data.hostPath", "/", "unknown"),
    Bad(_H, "spec.privacy.disabled", True, "unknown"),
    # models that are none
    Bad(_G, "spec.digest", "0" * 63),
    Bad(_G, "spec.digest", "G" * 64),
    Bad(_G, "spec.digest", "0" * 64 + "\n"),
    Bad(_G, "spec.objectKey", "k" * 1025),
    Bad(_G, "spec.sizeBytes", -1),
    Bad(_G, "spec.imageSize", 0),
    Bad(_G, "spec.created", "yesterday"),
    Bad(_G, "spec.partsDigest", ""),
    Bad(_G, "spec.contributors[0].updateDigest", "none"),
    Bad(_G, "spec.contributors[0].samples", -3),
]
