"""Objects as the API server gives them."""

from typing import Any

DIGEST = "ab" * 32
PARENT = "cd" * 32
SITE_METRICS = {"loss_before": 0.9, "loss_after": 0.45}


def round_object(**status: Any) -> dict[str, Any]:
    return {
        "apiVersion": "umim.dev/v1alpha1",
        "kind": "FederationRound",
        "metadata": {
            "name": "demo-1",
            "namespace": "federation",
            "uid": "u-1",
            "creationTimestamp": "2026-11-24T12:00:00Z",
            "managedFields": [{"manager": "kubectl"}],
        },
        "spec": {
            "model": {"architecture": "vit_tiny_patch16_224", "imageSize": 64, "parent": {"init": "random"}},
            "participants": {
                "hospitals": [
                    {"namespace": "hospital-a", "name": "neuro"},
                    {"namespace": "hospital-b", "name": "thorax"},
                ],
                "quorum": 2,
            },
            "training": {"objective": "supervised", "epochs": 2},
            "deadline": "10m",
        },
        "status": {
            "observedGeneration": 1,
            "phase": "Training",
            "sitesSummary": "1/2/2",
            "progress": "75%",
            "conditions": [condition("Accepted", "True", "The round is well formed.")],
            "sites": [site("a", "neuro", "Succeeded"), site("b", "thorax", "Running")],
            **status,
        },
    }


def condition(type_: str, status: str, message: str, minute: int = 0) -> dict[str, Any]:
    return {
        "type": type_,
        "status": status,
        "reason": type_,
        "message": message,
        "lastTransitionTime": f"2026-11-24T12:{minute:02d}:00Z",
        "observedGeneration": 1,
    }


def site(letter: str, hospital: str, phase: str) -> dict[str, Any]:
    common = {
        "name": f"hospital-{letter}.{hospital}",
        "namespace": f"hospital-{letter}",
        "hospital": hospital,
        "phase": phase,
        "attempt": 1,
        "job": f"demo-1-site-{letter}",
    }
    if phase == "Succeeded":
        return {**common, "samples": 96, "updateDigest": DIGEST, "metrics": SITE_METRICS}
    if phase == "Running":
        progress = {
            "epoch": 1,
            "epochs": 2,
            "step": 5,
            "steps": 10,
            "loss": 0.7,
            "imagesPerSecond": 81.2,
            "etaSeconds": 75,
            "time": "2026-11-24T12:01:00Z",
        }
        return {**common, "progress": progress}
    return {**common, "message": "[bold]the data of hospital-b[/bold] cannot be read"}


def hospital_object(letter: str, name: str, **spec: Any) -> dict[str, Any]:
    left = {
        "round": "federation/demo-1",
        "roundUid": "u-1",
        "updateDigest": DIGEST,
        "sizeBytes": 22_000_000,
        "samples": 96,
        "time": "2026-11-24T12:04:00Z",
    }
    return {
        "apiVersion": "umim.dev/v1alpha1",
        "kind": "Hospital",
        "metadata": {
            "name": name,
            "namespace": f"hospital-{letter}",
            "creationTimestamp": "2026-11-24T11:00:00Z",
        },
        "spec": {
            "federations": ["federation"],
            "data": {"claimName": "images", "format": "dicom", "task": "classification", "taskName": "brain-ct"},
            "workClaimName": "site-work",
            "privacy": {"clipNorm": 10, "noiseMultiplier": 0.5, "minPatients": 20},
            **spec,
        },
        "status": {"participations": 1, "lastParticipation": left, "ledger": [left]},
    }


def model_object(name: str, digest: str, parent: dict[str, str] | None = None) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "digest": digest,
        "objectKey": f"models/sha256/{digest}/model.safetensors",
        "sizeBytes": 22_000_000,
        "architecture": "vit_tiny_patch16_224",
        "imageSize": 64,
        "strategy": "fedavg" if parent else "init-mim",
        "round": {"name": "demo-1", "uid": "u-1"},
        "contributors": [{"site": "hospital-a.neuro", "updateDigest": DIGEST, "samples": 96}] if parent else [],
        "metrics": {"loss_after": 0.45} if parent else {},
        "created": "2026-11-24T12:05:00Z",
    }
    if parent:
        spec["parent"] = parent
    return {
        "apiVersion": "umim.dev/v1alpha1",
        "kind": "GlobalModel",
        "metadata": {"name": name, "namespace": "federation", "creationTimestamp": "2026-11-24T12:05:00Z"},
        "spec": spec,
    }
