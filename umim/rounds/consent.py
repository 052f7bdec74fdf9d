"""Policy: may a round train at a hospital, and with which resources? Pure; the operator and the simulation obey it."""

from __future__ import annotations

import re
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from umim.api.base import ResourceRequirements
from umim.api.hospital import HospitalSpec
from umim.api.round import FederationRoundSpec, TrainingSpec
from umim.rounds.privacy import unsuited

DEFAULT_REQUESTS = {"cpu": "1", "memory": "2Gi"}
DEFAULT_LIMITS = {"memory": "4Gi"}

_QUANTITY = re.compile(r"^([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$")
_FACTORS = {"": Decimal(1), "m": Decimal("0.001")}
_FACTORS |= {unit: Decimal(1000) ** power for power, unit in enumerate("kMGTP", start=1)}
_FACTORS |= {f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTP", start=1)}


class RefusalReason(StrEnum):
    """Every reason for which a hospital does not take part."""

    HOSPITAL_NOT_FOUND = "HospitalNotFound"
    HOSPITAL_INVALID = "HospitalInvalid"
    FEDERATION_NOT_ALLOWED = "FederationNotAllowed"
    ARTIFACT_NOT_ALLOWED = "ArtifactNotAllowed"
    TASK_NOT_SUITABLE = "TaskNotSuitable"
    ARCHITECTURE_NOT_ALLOWED = "ArchitectureNotAllowed"
    EPOCHS_EXCEEDED = "EpochsExceeded"
    PRIVACY_NOT_SUITABLE = "PrivacyNotSuitable"
    RESOURCES_EXCEEDED = "ResourcesExceeded"


class Refusal(NamedTuple):
    """Why a hospital does not take part."""

    reason: RefusalReason
    message: str


def parse_quantity(text: str) -> Decimal:
    """Return the value of a Kubernetes quantity such as 500m, 2 or 4Gi. Raises ValueError for another form."""
    match = _QUANTITY.match(text)
    if match is None:
        raise ValueError(f"{text!r} is not a quantity: write a number with an optional unit such as 500m, 2 or 4Gi")
    number, unit = match.groups()
    return Decimal(number) * _FACTORS[unit or ""]


def site_resources(spec: FederationRoundSpec) -> tuple[dict[str, str], dict[str, str]]:
    """Return requests and limits of a site's Job, with the defaults filled in."""
    return with_default_resources(spec.resources.requests, spec.resources.limits)


def with_default_resources(requests: dict[str, str], limits: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Fill in default requests and limits. A default never contradicts what the user set."""
    raised = {
        name: max(amount, requests.get(name, amount), key=parse_quantity) for name, amount in DEFAULT_LIMITS.items()
    }
    limits = {**raised, **limits}
    defaults = {
        name: min(amount, limits.get(name, amount), key=parse_quantity) for name, amount in DEFAULT_REQUESTS.items()
    }
    return {**defaults, **requests}, limits


def refusal(namespace: str, spec: FederationRoundSpec, hospital: HospitalSpec) -> Refusal | None:
    """Return why the hospital refuses the round of that namespace, or None when it consents."""
    return training_refusal(namespace, spec.model.architecture, spec.training, hospital) or _beyond_limits(
        spec, hospital
    )


def training_refusal(
    namespace: str, architecture: str, training: TrainingSpec, hospital: HospitalSpec
) -> Refusal | None:
    """Return why the hospital refuses a training for that namespace, whatever resources it takes, or None."""
    if namespace not in hospital.federations:
        listed = ", ".join(hospital.federations) or "none"
        return Refusal(
            RefusalReason.FEDERATION_NOT_ALLOWED,
            f"The hospital's spec.federations does not list {namespace}. It lists: {listed}.",
        )
    if "update" not in hospital.privacy.allowed_artifacts:
        return Refusal(
            RefusalReason.ARTIFACT_NOT_ALLOWED,
            "The hospital's spec.privacy.allowedArtifacts does not list update: no model update may leave.",
        )
    if training.objective != "mim" and hospital.data.task == "none":
        return Refusal(
            RefusalReason.TASK_NOT_SUITABLE,
            f"spec.training.objective {training.objective} needs labels, but the hospital's spec.data.task is none.",
        )
    if hospital.architectures is not None and architecture not in hospital.architectures:
        return Refusal(
            RefusalReason.ARCHITECTURE_NOT_ALLOWED,
            f"spec.model.architecture is {architecture}, the hospital's spec.architectures allows "
            f"{', '.join(hospital.architectures)}.",
        )
    if hospital.max_epochs is not None and passes(training) > hospital.max_epochs:
        return Refusal(
            RefusalReason.EPOCHS_EXCEEDED,
            f"The round asks for {passes(training)} epochs (spec.training.epochs and headWarmupEpochs), the hospital's "
            f"spec.maxEpochs allows {hospital.max_epochs}.",
        )
    if (wrong := unsuited(training, hospital.privacy)) is not None:
        return Refusal(RefusalReason.PRIVACY_NOT_SUITABLE, f"{wrong}.")
    return None


def passes(training: TrainingSpec) -> int:
    """Return how often a training goes over a site's images."""
    return training.epochs + training.head_warmup_epochs


def contradiction(resources: ResourceRequirements) -> str | None:
    """Return which request is larger than its limit, such as ``requests.cpu is 4, but limits.cpu is 2``, or None."""
    for name, amount in sorted(resources.requests.items()):
        limit = resources.limits.get(name, amount)
        if parse_quantity(amount) > parse_quantity(limit):
            return f"requests.{name} is {amount}, but limits.{name} is {limit}"
    return None


def _beyond_limits(spec: FederationRoundSpec, hospital: HospitalSpec) -> Refusal | None:
    requests, limits = site_resources(spec)
    for name, most in sorted(hospital.max_resources.items()):
        asked = max(limits.get(name, "0"), requests.get(name, "0"), key=parse_quantity)
        if parse_quantity(asked) > parse_quantity(most):
            return Refusal(
                RefusalReason.RESOURCES_EXCEEDED,
                f"The round asks for {asked} of {name}, the hospital's spec.maxResources allows {most}.",
            )
    return None
