"""Policy: may this round train at the hospital of a site? Pure."""

from __future__ import annotations

from umim.api.round import FederationRoundSpec
from umim.rounds import consent
from umim.rounds.consent import Refusal, RefusalReason
from umim_operator.state import HospitalView


def refusal(namespace: str, spec: FederationRoundSpec, site: str, hospital: HospitalView | None) -> Refusal | None:
    """Return why the hospital refuses the round of that namespace, or None when it consents."""
    if hospital is None:
        where, name = site.split(".", 1)
        return Refusal(
            RefusalReason.HOSPITAL_NOT_FOUND,
            f"There is no Hospital {name} in namespace {where}: the hospital has not opted in.",
        )
    if hospital.spec is None:
        return Refusal(RefusalReason.HOSPITAL_INVALID, f"The Hospital resource is invalid: {hospital.spec_error}")
    return consent.refusal(namespace, spec, hospital.spec)
