"""Carries out plans of campaigns: observe, plan, one status write, then the round. The thin edge around the planner."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

from umim import contract
from umim.api.base import API_VERSION
from umim.api.federation import FederationStatus
from umim.api.globalmodel import GlobalModelSpec
from umim_operator import events
from umim_operator.actors import NOTHING, Outlook
from umim_operator.federations import observe, planner
from umim_operator.federations.state import FederationObserved, FederationPlan, FederationView, RoundCreation, RoundSeen
from umim_operator.kube import REFUSALS, Kube, KubeError, MissingError
from umim_operator.measures import Measures
from umim_operator.state import Event

Object = dict[str, Any]
_log = logging.getLogger(__name__)


class FederationExecutor:
    """Reconciles Federations, one call a look. Holds no state of any of them."""

    def __init__(self, kube: Kube, measures: Measures, clock: Callable[[], datetime]) -> None:
        self._kube = kube
        self._measures = measures
        self._clock = clock

    def reconcile(self, namespace: str, name: str) -> Outlook:
        """Look at the Federation once and do what is next. Returns when to look again.

        Raises KubeError: nothing is lost, call again.
        """
        try:
            body = self._kube.get("Federation", namespace, name)
        except MissingError:
            return NOTHING
        view = observe.federation_view(body)
        if view.deleting:
            return NOTHING
        with self._measures.reconciling(view):
            return self._look(view, body)

    def _look(self, view: FederationView, body: Object) -> Outlook:
        next_ = planner.plan(view, self._observe(view), self._clock())
        if next_.status != view.status:
            body = self._kube.replace_status("Federation", body, next_.status.to_dict())
        self._measures.looked_at_federation(view, next_.status)
        if next_.status.completion_time is not None and view.status.completion_time is None:
            rounds = [one["metadata"]["uid"] for one in self._rounds(view)]
            self._measures.federation_ended(view, next_.status, rounds)
        if next_.create is not None:
            next_ = self._create(view, body, next_, next_.create)
        if next_.suspend is not None and next_.status.current_round is not None:
            change = {"spec": {"suspend": next_.suspend}}
            self._kube.merge("FederationRound", view.namespace, next_.status.current_round, change)
        for event in next_.events:
            self._emit(view, event)
        return Outlook(next_.look_again)

    def clean(self, namespace: str, name: str) -> bool:
        """Delete the rounds of a deleted Federation; each cleans up itself. Returns whether none is left."""
        view = observe.federation_view(self._kube.get("Federation", namespace, name))
        left = [one["metadata"] for one in self._rounds(view)]
        for meta in left:
            if "deletionTimestamp" not in meta:
                self._kube.delete("FederationRound", namespace, meta["name"], uid=meta["uid"])
        if not left:
            self._measures.federation_gone(view)
        return not left

    def _rounds(self, view: FederationView) -> list[Object]:
        """Return all rounds of the campaign that exist."""
        rounds = self._kube.list("FederationRound", view.namespace, {contract.LABEL_FEDERATION: view.name})
        return [one for one in rounds if view.uid in observe.owners(one["metadata"])]

    def _observe(self, view: FederationView) -> FederationObserved:
        if view.status.current_round is None or view.status.completion_time is not None:
            return FederationObserved()
        try:
            body = self._kube.get("FederationRound", view.namespace, view.status.current_round)
        except MissingError:
            return FederationObserved()
        seen = observe.round_seen(body, view.uid)
        return FederationObserved(seen, self._model(view, seen))

    def _model(self, view: FederationView, seen: RoundSeen) -> GlobalModelSpec | None:
        model = seen.status.global_model
        if not seen.owned or model is None or view.status.global_model == model:
            return None
        try:
            body = self._kube.get("GlobalModel", view.namespace, model.name)
        except MissingError:
            return None
        return GlobalModelSpec.model_validate(body["spec"])

    def _create(
        self, view: FederationView, body: Object, next_: FederationPlan, wanted: RoundCreation
    ) -> FederationPlan:
        """Create the round. Where the API server refuses it, write so into the status."""
        try:
            self._kube.create(round_manifest(view, wanted), "FederationRound")
        except KubeError as error:
            if error.status not in REFUSALS:
                raise
            next_ = planner.refused(next_, view, str(error), self._clock())
            if next_.status != FederationStatus.model_validate(body["status"]):
                self._kube.replace_status("Federation", body, next_.status.to_dict())
        return next_

    def _emit(self, view: FederationView, event: Event) -> None:
        level = logging.WARNING if event.type == "Warning" else logging.INFO
        _log.log(level, "%s/%s: %s: %s", view.namespace, view.name, event.reason, event.message)
        subject = {"namespace": view.namespace, "name": view.name, "uid": view.uid}
        self._kube.create(events.manifest(event, "Federation", subject, self._clock()), "Event")


def round_manifest(view: FederationView, wanted: RoundCreation) -> Object:
    """Return the FederationRound to create. It belongs to the Federation and is deleted with it."""
    owner = {"apiVersion": API_VERSION, "kind": "Federation", "name": view.name, "uid": view.uid, "controller": True}
    marks = {
        contract.LABEL_MANAGED_BY: contract.MANAGED_BY,
        contract.LABEL_FEDERATION: view.name,
        contract.LABEL_STAGE: wanted.stage,
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "FederationRound",
        "metadata": {
            "namespace": view.namespace,
            "name": wanted.name,
            "labels": marks,
            "ownerReferences": [owner],
        },
        "spec": wanted.spec.to_dict(),
    }
