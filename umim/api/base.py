"""Common parts of the resources: the model base, durations, references, conditions."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel

GROUP = "umim.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

DURATION_PATTERN = r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?$"
_DURATION = re.compile(r"(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?")
LONGEST_DURATION = timedelta(days=36_500)
"""Longer ones would leave the range of dates when added to the present."""

DNS_LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
DIGEST_PATTERN = r"^[0-9a-f]{64}$"
QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"


def parse_duration(text: str) -> timedelta:
    """Read a Go-style duration of whole hours, minutes and seconds, such as ``1h30m`` or ``45s``.

    Raises ValueError when the text is empty, of another form, or longer than ``LONGEST_DURATION``.
    """
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        raise ValueError(f"{text!r} is not a duration: write hours, minutes and seconds such as 1h30m or 45s")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    total = 3600 * hours + 60 * minutes + seconds
    if total > LONGEST_DURATION.total_seconds():
        raise ValueError(f"{text!r} is too long: at most {format_duration(LONGEST_DURATION)} (100 years) is allowed")
    return timedelta(seconds=total)


def format_duration(value: timedelta) -> str:
    """Write a duration in the form that ``parse_duration`` reads; parts of a second are dropped."""
    total = int(value.total_seconds())
    hours, rest = divmod(total, 3600)
    minutes, seconds = divmod(rest, 60)
    parts = [f"{number}{unit}" for number, unit in ((hours, "h"), (minutes, "m"), (seconds, "s")) if number]
    return "".join(parts) or "0s"


def _rfc3339(value: datetime) -> str:
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _checked_duration(text: str) -> str:
    parse_duration(text)
    return text


Duration = Annotated[
    str,
    Field(pattern=DURATION_PATTERN, min_length=2, max_length=20),
    AfterValidator(_checked_duration),
]
"""A Go-style duration string, see ``parse_duration``."""


def _in_range(value: datetime) -> datetime:
    try:
        value.astimezone(UTC)
    except (OverflowError, ValueError) as error:
        raise ValueError("must be from the year 1 to 9999 in UTC") from error
    return value


Timestamp = Annotated[datetime, AfterValidator(_in_range), PlainSerializer(_rfc3339, return_type=str)]
"""A time with zone, serialised as RFC 3339 in UTC with whole seconds, as metav1.Time is."""

MOST_MESSAGE_CHARACTERS = 1024


def shortened(text: str, most: int = MOST_MESSAGE_CHARACTERS) -> str:
    """Return a text, cut where it is longer than ``most``: what quotes a hostile file may be of any length."""
    return text if len(text) <= most else text[: most - 1] + "…"


Message = Annotated[str, AfterValidator(shortened)]
"""A sentence for the status of a round, which the API server stores up to a size only."""

Digest = Annotated[str, Field(pattern=DIGEST_PATTERN)]
"""A sha256 as 64 hexadecimal digits."""

DnsLabel = Annotated[str, Field(pattern=DNS_LABEL_PATTERN, min_length=1, max_length=63)]
DnsSubdomain = Annotated[str, Field(pattern=DNS_SUBDOMAIN_PATTERN, min_length=1, max_length=253)]
Quantity = Annotated[str, Field(pattern=QUANTITY_PATTERN, max_length=32)]
QueueName = DnsLabel
"""Name of a LocalQueue of Kueue. It becomes a label, so that it has at most 63 characters."""


PublicKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{43}=$")]
"""An Ed25519 public key: its 32 bytes in base64."""


def _int64(value: int) -> int:
    if value >= 2**63:
        raise ValueError("must be less than 2**63")
    return value


INT64 = AfterValidator(_int64)
"""For whole numbers that a Job reports: the API server stores no larger ones."""
FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
"""A figure that a Job reports. JSON, and so the API server, knows neither NaN nor infinity."""
Metrics = dict[str, FiniteFloat]


class ApiModel(BaseModel):
    """Base of everything that crosses a process border: camelCase outside, unknown fields refused, frozen."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        ser_json_inf_nan="constants",
        use_attribute_docstrings=True,
    )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values with camelCase keys, without the fields that are None."""
        result: dict[str, Any] = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return result


def cel_rules(*rules: dict[str, str]) -> ConfigDict:
    """Return a model configuration that adds CEL rules (x-kubernetes-validations) to the resource's schema."""
    return ConfigDict(json_schema_extra={"x-kubernetes-validations": [dict(rule) for rule in rules]})


class Signature(ApiModel):
    """An Ed25519 signature (RFC 8032)."""

    key_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    """The key: first 16 hexadecimal digits of the sha256 of the public key's bytes."""
    value: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{86}==$")]
    """The signature: its 64 bytes in base64."""


ConditionStatus = Literal["True", "False", "Unknown"]


class Condition(ApiModel):
    """One aspect of the observed state, as metav1.Condition defines it."""

    type: Annotated[str, Field(max_length=316)]
    """Name of the aspect, for example Complete."""
    status: ConditionStatus
    """True, False or Unknown."""
    reason: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")]
    """Machine-readable cause, from a fixed list."""
    message: Annotated[str, Field(max_length=32768)]
    """The cause as a sentence for people."""
    last_transition_time: Timestamp
    """When the status last changed."""
    observed_generation: Annotated[int, Field(ge=0)]
    """Generation of the spec that this condition was computed from."""


class HospitalReference(ApiModel):
    """Names one Hospital resource."""

    namespace: DnsLabel
    """Namespace of the hospital."""
    name: DnsSubdomain
    """Name of the Hospital resource in that namespace."""

    @property
    def site(self) -> str:
        """The site's name in status, object keys and aggregation order: ``namespace.name``."""
        return f"{self.namespace}.{self.name}"


class ModelReference(ApiModel):
    """Names one GlobalModel by name and content."""

    name: DnsSubdomain
    """Name of the GlobalModel in the round's namespace."""
    digest: Digest
    """sha256 of its tensors file, in hexadecimal."""
    parts_digest: Digest | None = None
    """sha256 of the file with its other parts, the MIM decoder and shared heads. Absent: it has none."""


class ResourceRequirements(ApiModel):
    """Compute resources of a Job's container, as in a Pod."""

    requests: dict[str, Quantity] = Field(default_factory=dict, max_length=16)
    """Resources that the scheduler sets aside, for example cpu and memory."""
    limits: dict[str, Quantity] = Field(default_factory=dict, max_length=16)
    """Resources that must not be exceeded, for example memory or nvidia.com/gpu."""
