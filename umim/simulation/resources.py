"""The resources of a simulation, from documents as one would apply them to a cluster. Pure; needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from umim.aggregation.names import check_aggregation
from umim.api.base import API_VERSION, ApiModel, DnsLabel, DnsSubdomain, HospitalReference
from umim.api.federation import FederationSpec
from umim.api.hospital import HospitalSpec
from umim.api.round import FederationRoundSpec, ParticipantsSpec
from umim.distillation.names import check_distillation
from umim.errors import ConfigError
from umim.rounds.campaign import campaign_rounds, round_spec
from umim.rounds.consent import contradiction
from umim.rounds.validity import problems
from umim.settings import first_problem

Document = Mapping[str, Any]

ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True)
class Hospital:
    """One Hospital resource."""

    reference: HospitalReference
    labels: Mapping[str, str]
    spec: HospitalSpec

    @property
    def site(self) -> str:
        """The site as namespace.name."""
        return self.reference.site


@dataclass(frozen=True)
class Campaign:
    """What is simulated: a Federation, or a single FederationRound."""

    kind: str
    """Federation or FederationRound."""
    namespace: str
    """Namespace of the federation: hospitals consent to it."""
    name: str
    """Name of the resource."""
    spec: FederationSpec | FederationRoundSpec
    """What it does."""

    @property
    def rounds(self) -> Sequence[tuple[str, str]]:
        """The rounds in their order: name of the stage (empty for a single round) and of the FederationRound."""
        if isinstance(self.spec, FederationRoundSpec):
            return [("", self.name)]
        stages = self.spec.stages
        return [(stages[one.stage].name, one.name) for one in campaign_rounds(self.name, self.spec)]

    def round(self, number: int, parent: str | None) -> FederationRoundSpec:
        """Return the spec of a round, counted from 0. parent: the GlobalModel of the round before, if there is one."""
        if isinstance(self.spec, FederationRoundSpec):
            return self.spec
        return round_spec(self.spec, campaign_rounds(self.name, self.spec)[number], parent)


def parse_documents(documents: Iterable[Document | None], source: str) -> tuple[list[Campaign], list[Hospital]]:
    """Return the Federations and FederationRounds, and the Hospitals, of a file. Empty documents are passed over.

    ``source`` names the file in messages. Raises ConfigError naming the document, the field, its value and what is
    allowed, by the rules of the API server.
    """
    campaigns: list[Campaign] = []
    hospitals: list[Hospital] = []
    for number, document in enumerate(documents, start=1):
        if document is None:
            continue
        parsed = _parse(document, f"{source}, document {number}")
        if isinstance(parsed, Hospital):
            hospitals.append(parsed)
        else:
            campaigns.append(parsed)
    return campaigns, hospitals


def check_campaign(campaign: Campaign, hospitals: Mapping[str, Hospital]) -> None:
    """Raise ConfigError naming what the operator would not accept, or what no simulation can do without.

    ``hospitals`` by site. In a cluster a Hospital may join later, so that a round waits for it; here none can.
    """
    what = f"{campaign.kind} {campaign.namespace}/{campaign.name}"
    for number, (stage, _) in enumerate(campaign.rounds):
        spec = campaign.round(number, None if number == 0 else "the-model-before")
        where = f"{what}, stage {stage}" if stage else what
        try:
            check_aggregation(spec.aggregation, spec.participants.quorum)
            if spec.distillation is not None:
                check_distillation(spec.distillation)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        if (wrong := contradiction(spec.resources)) is not None:
            raise ConfigError(f"{where}: spec.resources.{wrong}: a request must not exceed its limit")
        _check_participants(spec.participants, campaign.namespace, hospitals, where)


def participants(spec: ParticipantsSpec, namespace: str, hospitals: Mapping[str, Hospital]) -> list[HospitalReference]:
    """Return the hospitals of a round, sorted by site: the listed ones, or the consenting ones that match."""
    if spec.hospitals is not None:
        found = list(spec.hospitals)
    else:
        wanted = {} if spec.selector is None else spec.selector.match_labels
        found = [
            hospital.reference
            for hospital in hospitals.values()
            if namespace in hospital.spec.federations and wanted.items() <= dict(hospital.labels).items()
        ]
    return sorted(found, key=lambda reference: reference.site)


def _check_participants(spec: ParticipantsSpec, namespace: str, hospitals: Mapping[str, Hospital], where: str) -> None:
    known = ", ".join(sorted(hospitals)) or "none"
    found = participants(spec, namespace, hospitals)
    for reference in found:
        if reference.site not in hospitals:
            raise ConfigError(
                f"{where}: participants.hospitals names {reference.site}, but there is no Hospital {reference.name} in "
                f"namespace {reference.namespace}. Given are: {known}"
            )
    if len(found) < spec.quorum:
        raise ConfigError(
            f"{where}: participants.selector matches {len(found)} consenting hospitals, fewer than quorum "
            f"{spec.quorum}. Given are: {known}"
        )


class _Metadata(BaseModel):
    """What a simulation reads of a resource's metadata. There may be more."""

    model_config = ConfigDict(extra="ignore")

    namespace: DnsLabel
    name: DnsSubdomain
    labels: dict[str, str] = Field(default_factory=dict)


class _Limited(_Metadata):
    """Metadata of a resource whose name becomes part of other names."""

    name: Annotated[DnsSubdomain, Field(max_length=63)]


KINDS: Mapping[str, tuple[type[ApiModel], type[_Metadata]]] = {
    "Federation": (FederationSpec, _Limited),
    "FederationRound": (FederationRoundSpec, _Metadata),
    "Hospital": (HospitalSpec, _Limited),
}


def _parse(document: Any, where: str) -> Campaign | Hospital:
    if not isinstance(document, Mapping):
        raise ConfigError(f"{where}: a document must be a mapping with apiVersion, kind, metadata and spec")
    kind, version = str(document.get("kind")), str(document.get("apiVersion"))
    if kind not in KINDS or version != API_VERSION:
        raise ConfigError(
            f"{where}: kind {kind} of apiVersion {version} is unknown here; allowed are "
            f"{', '.join(KINDS)} of {API_VERSION}"
        )
    spec_model, metadata_model = KINDS[kind]
    metadata = _validated(metadata_model, document.get("metadata"), "metadata", f"{where}, {kind}")
    where = f"{where}, {kind} {metadata.namespace}/{metadata.name}"
    spec = _validated(spec_model, document.get("spec"), "spec", where)
    for problem in problems(spec, "spec"):
        raise ConfigError(f"{where}: {problem}")
    if isinstance(spec, HospitalSpec):
        return Hospital(HospitalReference(namespace=metadata.namespace, name=metadata.name), metadata.labels, spec)
    assert isinstance(spec, FederationSpec | FederationRoundSpec)  # KINDS has no other
    return Campaign(kind, metadata.namespace, metadata.name, spec)


def _validated(model: type[ModelT], value: Any, field: str, where: str) -> ModelT:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ConfigError(f"{where}: {field}.{first_problem(error)}") from error
