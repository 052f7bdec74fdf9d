"""From API objects to the planner's values. Pure: the executor fetches, this module reads."""

from __future__ import annotations

from umim.api.federation import FederationSpec, FederationStatus
from umim.api.round import FederationRoundStatus
from umim_operator.federations.state import FederationView, RoundSeen
from umim_operator.observe import Object, parsed_spec


def federation_view(body: Object) -> FederationView:
    """Read a Federation."""
    meta = body["metadata"]
    spec, spec_error = parsed_spec(FederationSpec, body)
    return FederationView(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        generation=meta.get("generation", 0),
        status=FederationStatus.model_validate(body.get("status") or {}),
        spec=spec,
        spec_error=spec_error,
        deleting="deletionTimestamp" in meta,
    )


def round_seen(body: Object, owner: str) -> RoundSeen:
    """Read a FederationRound. owner: UID of the Federation that asks."""
    meta = body["metadata"]
    return RoundSeen(
        owned=owner in owners(meta),
        suspended=bool(body["spec"].get("suspend", False)),
        status=FederationRoundStatus.model_validate(body.get("status") or {}),
        deleting="deletionTimestamp" in meta,
    )


def owners(meta: Object) -> list[str]:
    """Return the UIDs of the objects that own this one."""
    return [reference["uid"] for reference in meta.get("ownerReferences") or ()]
