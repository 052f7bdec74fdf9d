"""What several pages share. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import urlencode

from umim.api.base import Condition
from umim.api.round import FederationRoundStatus
from umim.cli.resources import Federation, Hospital, Model, Round
from umim.console.words import Moment

PAGE_SIZE = 50
MOST_PAGES = 100_000
ItemT = TypeVar("ItemT")
ResourceT = TypeVar("ResourceT", Round, Federation, Model, Hospital)


class BadQueryError(ValueError):
    """A query of the address that cannot be answered. The message says what is allowed."""


@dataclass(frozen=True)
class Fact:
    """A line of a list of facts."""

    name: str
    text: str = ""
    href: str | None = None
    moment: Moment | None = None
    code: bool = False
    """Whether it is something to copy, such as a digest."""


@dataclass(frozen=True)
class Pager(Generic[ItemT]):
    """One page of a list."""

    items: Sequence[ItemT]
    number: int
    pages: int
    total: int
    first: int
    last: int
    """Which of the list, from 1."""
    previous: str | None
    next: str | None
    """Addresses of the pages beside it."""


def paged(
    items: Sequence[ItemT], query: Mapping[str, str], path: str, parameter: str = "page", size: int = PAGE_SIZE
) -> Pager[ItemT]:
    """Return the page of a list that the query asks for. Raises BadQueryError when it is no page."""
    text = query.get(parameter, "1")
    pages = max(1, -(-len(items) // size))
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0
    if not 1 <= number <= pages:
        raise BadQueryError(f"{parameter} must be a whole number from 1 to {pages}")
    first = (number - 1) * size

    def address(other: int) -> str | None:
        return f"{path}?{urlencode({**query, parameter: str(other)})}" if 1 <= other <= pages else None

    part = items[first : first + size]
    return Pager(
        part,
        number,
        pages,
        len(items),
        first + 1 if part else 0,
        first + len(part),
        address(number - 1),
        address(number + 1),
    )


def only(query: Mapping[str, str], *allowed: str) -> dict[str, str]:
    """Return the parameters that a page knows; others have no effect and are in no link."""
    return {name: query[name] for name in allowed if name in query}


def newest_first(items: Iterable[ResourceT]) -> list[ResourceT]:
    """Return resources with the newest first; those of the same second by name."""
    named = sorted(items, key=lambda one: (one.namespace, one.name))
    return sorted(named, key=lambda one: one.created, reverse=True)


def href(one: Round | Federation | Model | Hospital) -> str:
    """Return the address of a resource's page."""
    folders = {Round: "rounds", Federation: "federations", Model: "models", Hospital: "hospitals"}
    return f"/{folders[type(one)]}/{one.namespace}/{one.name}"


def done(status: FederationRoundStatus) -> int:
    """Return how many sites have delivered."""
    return sum(site.phase == "Succeeded" for site in status.sites)


def percent(text: str | None) -> int | None:
    """Return the number of a text such as 75%, or None."""
    digits = (text or "").removesuffix("%")
    return min(100, int(digits)) if digits.isascii() and digits.isdigit() else None


def refusal(conditions: Iterable[Condition]) -> Condition | None:
    """Return the condition that says why a spec was not accepted, or None."""
    return false(conditions, "Accepted")


def false(conditions: Iterable[Condition], type_: str) -> Condition | None:
    """Return the condition of a type when it is False, else None."""
    return next((one for one in conditions if one.type == type_ and one.status == "False"), None)
