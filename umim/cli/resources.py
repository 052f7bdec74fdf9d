"""Resources as the command line tool handles them: parsed for display, raw for JSON output. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from umim.api.base import Condition
from umim.api.federation import FederationSpec, FederationStatus
from umim.api.globalmodel import GlobalModelSpec
from umim.api.round import FederationRoundSpec, FederationRoundStatus
from umim.errors import ArtifactError, ConfigError
from umim.settings import first_problem

Raw = Mapping[str, Any]


@dataclass(frozen=True)
class Round:
    """A FederationRound."""

    namespace: str
    name: str
    created: datetime
    spec: FederationRoundSpec
    status: FederationRoundStatus
    raw: Raw
    """The object as the API server gave it."""

    @property
    def finished(self) -> bool:
        """Whether the round is Complete or Failed."""
        return self.status.phase in ("Complete", "Failed")

    @property
    def message(self) -> str:
        """The sentence that explains the phase: of the newest condition that is true, or none."""
        return _explanation(self.status.conditions)


@dataclass(frozen=True)
class Federation:
    """A Federation."""

    namespace: str
    name: str
    created: datetime
    spec: FederationSpec
    status: FederationStatus
    raw: Raw
    """The object as the API server gave it."""

    @property
    def message(self) -> str:
        """The sentence that explains the phase; while the campaign runs, where it stands."""
        if self.status.phase == "Running" and self.status.reason == "StageRunning":
            return next((one.message for one in self.status.conditions if one.type == "Complete"), "")
        return _explanation(self.status.conditions)


@dataclass(frozen=True)
class Model:
    """A GlobalModel."""

    namespace: str
    name: str
    created: datetime
    spec: GlobalModelSpec
    raw: Raw
    """The object as the API server gave it."""


def parse_round(raw: Raw) -> Round:
    """Parse a FederationRound. Raises ConfigError when it is of another version than this tool."""
    try:
        spec = FederationRoundSpec.model_validate(raw["spec"])
        status = FederationRoundStatus.model_validate(raw.get("status", {}))
    except ValidationError as error:
        raise _other_version("FederationRound", raw, error) from error
    meta = raw["metadata"]
    return Round(meta["namespace"], meta["name"], _created(meta), spec, status, raw)


def parse_federation(raw: Raw) -> Federation:
    """Parse a Federation. Raises ConfigError when it is of another version than this tool."""
    try:
        spec = FederationSpec.model_validate(raw["spec"])
        status = FederationStatus.model_validate(raw.get("status", {}))
    except ValidationError as error:
        raise _other_version("Federation", raw, error) from error
    meta = raw["metadata"]
    return Federation(meta["namespace"], meta["name"], _created(meta), spec, status, raw)


def parse_model(raw: Raw) -> Model:
    """Parse a GlobalModel. Raises ConfigError when it is of another version than this tool."""
    try:
        spec = GlobalModelSpec.model_validate(raw["spec"])
    except ValidationError as error:
        raise _other_version("GlobalModel", raw, error) from error
    meta = raw["metadata"]
    return Model(meta["namespace"], meta["name"], _created(meta), spec, raw)


def lineage(name: str, models: Sequence[Model]) -> list[Model]:
    """Return a model and its ancestors, newest first, as far as they are in the list.

    Raises ArtifactError when a name no longer stands for the digest that a child recorded.
    """
    by_name = {model.name: model for model in models}
    chain = [by_name[name]]
    while (parent := chain[-1].spec.parent) is not None and parent.name in by_name:
        found = by_name[parent.name]
        if found.spec.digest != parent.digest:
            raise ArtifactError(
                f"GlobalModel {chain[-1].name} was trained from {parent.name} with digest {parent.digest}, but "
                f"{parent.name} now has digest {found.spec.digest}: the lineage ends here"
            )
        chain.append(found)
    return chain


def without_bookkeeping(raw: Raw) -> dict[str, Any]:
    """Return an object for JSON output: without metadata.managedFields, which is for the API server."""
    meta = {key: value for key, value in raw["metadata"].items() if key != "managedFields"}
    return {**raw, "metadata": meta}


def _explanation(conditions: Sequence[Condition]) -> str:
    """Return the message of the newest condition that is true, or that of a refusal."""
    true = [condition for condition in conditions if condition.status == "True"]
    refused = [one for one in conditions if one.type == "Accepted" and one.status == "False"]
    chosen = refused or sorted(true, key=lambda condition: condition.last_transition_time)[-1:]
    return chosen[0].message if chosen else ""


def _created(meta: Raw) -> datetime:
    return datetime.fromisoformat(meta["creationTimestamp"])


def _other_version(kind: str, raw: Raw, error: ValidationError) -> ConfigError:
    name = f"{raw['metadata'].get('namespace', '')}/{raw['metadata'].get('name', '')}"
    return ConfigError(
        f"{kind} {name} is of another version than this tool ({first_problem(error)}): "
        "use the umim release of the cluster's operator"
    )
