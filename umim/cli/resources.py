"""Resources as the command line tool handles them: parsed for display, raw for JSON output. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from umim.api.base import Condition
from umim.api.federation import FederationSpec, FederationStatus
from umim.api.globalmodel import GlobalModelSpec
from umim.api.hospital import HospitalSpec, HospitalStatus
from umim.api.round import FederationRoundSpec, FederationRoundStatus
from umim.errors import ArtifactError, ConfigError
from umim.settings import first_problem

Raw = Mapping[str, Any]
PartT = TypeVar("PartT", bound=BaseModel)


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


@dataclass(frozen=True)
class Hospital:
    """A Hospital."""

    namespace: str
    name: str
    created: datetime
    spec: HospitalSpec
    status: HospitalStatus
    raw: Raw
    """The object as the API server gave it."""

    @property
    def site(self) -> str:
        """The site as namespace.name."""
        return f"{self.namespace}.{self.name}"


def parse_round(raw: Raw) -> Round:
    """Parse a FederationRound. Raises ConfigError when it is of another version than this tool."""
    spec = _valid(FederationRoundSpec, raw["spec"], "FederationRound", raw)
    status = _valid(FederationRoundStatus, raw.get("status", {}), "FederationRound", raw)
    return Round(*_identity(raw), spec, status, raw)


def parse_federation(raw: Raw) -> Federation:
    """Parse a Federation. Raises ConfigError when it is of another version than this tool."""
    spec = _valid(FederationSpec, raw["spec"], "Federation", raw)
    status = _valid(FederationStatus, raw.get("status", {}), "Federation", raw)
    return Federation(*_identity(raw), spec, status, raw)


def parse_hospital(raw: Raw) -> Hospital:
    """Parse a Hospital. Raises ConfigError when it is of another version than this tool."""
    spec = _valid(HospitalSpec, raw["spec"], "Hospital", raw)
    status = _valid(HospitalStatus, raw.get("status", {}), "Hospital", raw)
    return Hospital(*_identity(raw), spec, status, raw)


def parse_model(raw: Raw) -> Model:
    """Parse a GlobalModel. Raises ConfigError when it is of another version than this tool."""
    return Model(*_identity(raw), _valid(GlobalModelSpec, raw["spec"], "GlobalModel", raw), raw)


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


def _identity(raw: Raw) -> tuple[str, str, datetime]:
    """Return namespace, name and time of creation."""
    meta = raw["metadata"]
    return meta["namespace"], meta["name"], datetime.fromisoformat(meta["creationTimestamp"])


def _valid(model: type[PartT], value: Any, kind: str, raw: Raw) -> PartT:
    """Parse a part of an object. Raises ConfigError naming the object."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        name = f"{raw['metadata'].get('namespace', '')}/{raw['metadata'].get('name', '')}"
        raise ConfigError(
            f"{kind} {name} is of another version than this tool ({first_problem(error)}): "
            "use the umim release of the cluster's operator"
        ) from error
