"""Policy: is the round well formed, beyond what the API server checks? Pure."""

from __future__ import annotations

from typing import NamedTuple

from umim.aggregation.names import check_quorum, check_strategy
from umim.api.base import HospitalReference
from umim.api.round import FederationRoundSpec
from umim.distillation.names import check_distillation
from umim.errors import ConfigError
from umim.rounds.consent import contradiction
from umim_operator.conditions import Reason
from umim_operator.state import Observed, RoundView


class Rejection(NamedTuple):
    """Why a round is not accepted. A final one ends the round, another one waits for its cause to go away."""

    reason: Reason
    message: str
    final: bool


def rejection(view: RoundView, observed: Observed) -> Rejection | None:
    """Return why the round cannot start now, or None when it can."""
    if view.spec is None:
        return Rejection(Reason.INVALID_SPEC, view.spec_error, final=True)
    return (
        static_rejection(view.spec)
        or _parent_rejection(view.spec, view, observed)
        or _participants_rejection(view.spec, observed, view.namespace)
    )


def static_rejection(spec: FederationRoundSpec) -> Rejection | None:
    """Return what is wrong with a spec whatever else exists, or None."""
    return _strategy_rejection(spec) or _quorum_rejection(spec) or _resources_rejection(spec)


def _strategy_rejection(spec: FederationRoundSpec) -> Rejection | None:
    try:
        check_strategy(spec.aggregation)
        if spec.distillation is not None:
            check_distillation(spec.distillation)
    except ConfigError as error:
        return Rejection(Reason.UNKNOWN_STRATEGY, str(error), final=True)
    return None


def _quorum_rejection(spec: FederationRoundSpec) -> Rejection | None:
    try:
        check_quorum(spec.aggregation, spec.participants.quorum)
    except ConfigError as error:
        return Rejection(Reason.INVALID_SPEC, str(error), final=True)
    return None


def references(spec: FederationRoundSpec, observed: Observed, namespace: str) -> list[HospitalReference]:
    """Return the hospitals of the round, sorted by site: the listed ones, or the consenting ones that match."""
    if spec.participants.hospitals is not None:
        found = spec.participants.hospitals
    else:
        found = [
            view.reference
            for view in observed.hospitals.values()
            if view.spec is not None and namespace in view.spec.federations
        ]
    return sorted(found, key=lambda reference: reference.site)


def _resources_rejection(spec: FederationRoundSpec) -> Rejection | None:
    asked = {"resources": spec.resources, "aggregation.resources": spec.aggregation.resources}
    if spec.pretraining is not None:
        asked["pretraining.resources"] = spec.pretraining.resources
    if spec.distillation is not None:
        asked["distillation.resources"] = spec.distillation.resources
    for field, resources in asked.items():
        found = contradiction(resources)
        if found is not None:
            message = f"spec.{field}.{found}: a request must not exceed its limit."
            return Rejection(Reason.INVALID_SPEC, message, final=True)
    return None


def _parent_rejection(spec: FederationRoundSpec, view: RoundView, observed: Observed) -> Rejection | None:
    name = spec.model.parent.global_model
    if name is None:
        return None
    parent = observed.parent
    if parent is None:
        message = f"spec.model.parent.globalModel: there is no GlobalModel {name} in namespace {view.namespace} yet."
        return Rejection(Reason.PARENT_NOT_FOUND, message, final=False)
    for field, wanted, has in (
        ("architecture", spec.model.architecture, parent.architecture),
        ("imageSize", spec.model.image_size, parent.image_size),
    ):
        if wanted != has:
            message = f"spec.model.{field} is {wanted}, but GlobalModel {name} has {has}: they must be equal."
            return Rejection(Reason.PARENT_INCOMPATIBLE, message, final=True)
    return None


def _participants_rejection(spec: FederationRoundSpec, observed: Observed, namespace: str) -> Rejection | None:
    if spec.participants.selector is None:
        return None
    matching = len(references(spec, observed, namespace))
    if matching >= spec.participants.quorum:
        return None
    labels = ", ".join(f"{key}={value}" for key, value in sorted(spec.participants.selector.match_labels.items()))
    message = (
        f"spec.participants.selector ({labels}) matches {matching} consenting hospitals, "
        f"fewer than spec.participants.quorum {spec.participants.quorum}."
    )
    return Rejection(Reason.TOO_FEW_HOSPITALS, message, final=False)
