"""What every answer of the console carries, and which requests get one. Pure ASGI: it sees errors, too."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    # Nothing but this console's own files; no inline script, no inline style, no form, no frame around it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
LONGEST_QUERY = 512


class Guard:
    """Refuses hosts that are not this console's and queries that no page has; adds the headers to every answer."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self._app = app
        self._hosts = frozenset(name.lower() for name in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await (self._refusal(scope) or self._app)(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        if host_name(Headers(scope=scope).get("host", "")) not in self._hosts:
            return PlainTextResponse(
                "This console does not answer to the host name of your request. Whoever installed it can add the name "
                "to console.hosts of charts/umim.\n",
                status_code=421,
            )
        if len(scope["query_string"]) > LONGEST_QUERY:
            return PlainTextResponse(f"The query is longer than {LONGEST_QUERY} characters.\n", status_code=414)
        return None


def host_name(header: str) -> str:
    """Return the name of a Host header, without its port and in small letters."""
    name, _, port = header.rpartition(":")
    return (name if name and port.isascii() and port.isdigit() else header).lower()
