"""The console as an ASGI application: addresses, and how a page becomes HTML. GET and HEAD only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from importlib import resources
from typing import Any

import jinja2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from umim.cli.words import short, size
from umim.console import words
from umim.console.cluster import Cache, Snapshot
from umim.console.pages import federations, hospitals, models, overview, parts, rounds
from umim.console.prometheus import Prometheus
from umim.console.security import Guard

STATIC = {"console.css": "text/css", "console.js": "text/javascript", "icon.svg": "image/svg+xml"}
KINDS = {
    "federationrounds": "FederationRounds",
    "federations": "Federations",
    "globalmodels": "GlobalModels",
    "hospitals": "Hospitals",
}


@dataclass(frozen=True)
class Console:
    """What the pages are made from."""

    cache: Cache
    prometheus: Prometheus | None = None
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)


def create_app(console: Console, hosts: tuple[str, ...]) -> ASGIApp:
    """Return the application. It answers only to these host names."""
    pages = _Pages(console)
    routes = [
        Route("/", pages.overview),
        Route("/rounds", pages.rounds),
        Route("/rounds/{namespace}/{name}", pages.round),
        Route("/federations", pages.federations),
        Route("/federations/{namespace}/{name}", pages.federation),
        Route("/models", pages.models),
        Route("/models/{namespace}/{name}", pages.model),
        Route("/hospitals", pages.hospitals),
        Route("/hospitals/{namespace}/{name}", pages.hospital),
        Route("/static/{file}", _static(_files())),
        Route("/healthz", _alive),
        Route("/readyz", pages.ready),
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={HTTPException: pages.refused, parts.BadQueryError: pages.bad_query},
    )
    app.router.redirect_slashes = False
    # Around the application, not a part of it: its answer to an error of its own carries the headers, too.
    return Guard(app, hosts)


class _Pages:
    """One method an address. Plain functions: Starlette runs them in threads, since a page may ask Prometheus."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._templates = _environment()

    def overview(self, _: Request) -> Response:
        seen, now = self._look()
        return self._html("overview.html", seen, now, "Overview", page=overview.overview(seen, now))

    def rounds(self, request: Request) -> Response:
        return self._list(request, "rounds", rounds.round_list)

    def round(self, request: Request) -> Response:
        seen, now = self._look()
        one = _found(seen.round, request, "FederationRound", seen)
        page = rounds.round_page(seen, one, request.query_params, now, self._console.prometheus)
        return self._html("round.html", seen, now, f"Round {one.name}", section="rounds", page=page)

    def federations(self, request: Request) -> Response:
        return self._list(request, "federations", federations.federation_list)

    def federation(self, request: Request) -> Response:
        seen, now = self._look()
        one = _found(seen.federation, request, "Federation", seen)
        page = federations.federation_page(seen, one, request.query_params, now)
        return self._html("federation.html", seen, now, f"Federation {one.name}", section="federations", page=page)

    def models(self, request: Request) -> Response:
        return self._list(request, "models", models.model_list)

    def model(self, request: Request) -> Response:
        seen, now = self._look()
        one = _found(seen.model, request, "GlobalModel", seen)
        page = models.model_page(seen, one, request.query_params, now)
        return self._html("model.html", seen, now, f"Model {one.name}", section="models", page=page)

    def hospitals(self, request: Request) -> Response:
        return self._list(request, "hospitals", hospitals.hospital_list)

    def hospital(self, request: Request) -> Response:
        seen, now = self._look()
        one = _found(seen.hospital, request, "Hospital", seen)
        page = hospitals.hospital_page(seen, one, now)
        return self._html(
            "hospital.html", seen, now, f"Hospital {one.namespace}/{one.name}", section="hospitals", page=page
        )

    async def ready(self, _: Request) -> Response:
        if self._console.cache.complete:
            return PlainTextResponse("ok\n")
        seen = self._console.cache.snapshot()
        return PlainTextResponse(f"not read yet: {', '.join(seen.unread)}. {seen.problem}\n", status_code=503)

    def refused(self, _: Request, error: Exception) -> Response:
        """Return the page of an error: nothing there, or another method than GET and HEAD."""
        status = HTTPStatus(getattr(error, "status_code", 500))
        detail = str(getattr(error, "detail", ""))
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            detail = "This console only shows: it takes GET and HEAD. Use kubectl or umim to change something."
        elif status is HTTPStatus.NOT_FOUND and detail == status.phrase:
            detail = "There is no such page."
        return self._error(status, detail, getattr(error, "headers", None))

    def bad_query(self, _: Request, error: Exception) -> Response:
        """Return the page of a query that cannot be answered."""
        return self._error(HTTPStatus.BAD_REQUEST, f"The address is wrong: {error}.")

    def _error(self, status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None) -> Response:
        seen, now = self._look()
        answer = self._html("error.html", seen, now, status.phrase, status=status.value, detail=detail)
        answer.status_code = status.value
        answer.headers.update(headers or {})
        return answer

    def _look(self) -> tuple[Snapshot, datetime]:
        return self._console.cache.snapshot(), self._console.clock()

    def _list(
        self, request: Request, section: str, page_of: Callable[[Snapshot, Mapping[str, str]], object]
    ) -> Response:
        """Return the page of all objects of a kind. ``section`` names its template, address and title."""
        seen, now = self._look()
        page = page_of(seen, request.query_params)
        return self._html(f"{section}.html", seen, now, section.capitalize(), section=section, page=page)

    def _html(self, template: str, seen: Snapshot, now: datetime, title: str, **values: Any) -> Response:
        names = {
            "title": title,
            "section": "",
            "now": now,
            "updated": words.moment(now, now),
            "stale": words.moment(seen.stale_since, now),
            "problem": seen.problem,
            "unread": [KINDS[kind] for kind in seen.unread],
            "unreadable": seen.unreadable,
            "ago": lambda at: words.moment(at, now),
        }
        text = self._templates.get_template(template).render({**names, **values})
        # No copy stays anywhere: who may look is decided in front of the console, and may change.
        return HTMLResponse(text, headers={"Cache-Control": "no-store"})


async def _alive(_: Request) -> Response:
    # Not in a thread, as ready: pages that wait for Prometheus may have them all.
    return PlainTextResponse("ok\n")


def _found(find: Callable[[str, str], Any], request: Request, kind: str, seen: Snapshot) -> Any:
    """Return the resource that the address names. Raises HTTPException when there is none."""
    namespace, name = request.path_params["namespace"], request.path_params["name"]
    one = find(namespace, name)
    if one is not None:
        return one
    for other in seen.unreadable:
        if KINDS[other.kind] == f"{kind}s" and (other.namespace, other.name) == (namespace, name):
            raise HTTPException(HTTPStatus.NOT_IMPLEMENTED, other.message)
    raise HTTPException(
        HTTPStatus.NOT_FOUND, f"There is no {kind} {name} in namespace {namespace}. It may have been deleted."
    )


@cache
def _environment() -> jinja2.Environment:
    """Return the templates: everything is escaped, an unknown name is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("umim.console"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(
        {"state": words.state, "figure": words.figure, "short": short, "size": size, "href": parts.href}
    )
    environment.globals.update(
        {
            "count": words.count,
            "condition_sentence": words.condition_sentence,
            "round_summary": rounds.summary,
            "percent": parts.percent,
            "groups": rounds.GROUPS,
            "headline": hospitals.headline,
        }
    )
    return environment


def _files() -> dict[str, bytes]:
    folder = resources.files("umim.console") / "static"
    return {name: (folder / name).read_bytes() for name in STATIC}


def _static(files: Mapping[str, bytes]) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        name = request.path_params["file"]
        if name not in files:
            raise HTTPException(HTTPStatus.NOT_FOUND, "There is no such file.")
        return Response(files[name], media_type=STATIC[name], headers={"Cache-Control": "max-age=300"})

    return answer
