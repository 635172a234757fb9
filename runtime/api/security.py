"""The gate before every endpoint: Host, Origin, key, and how many may be inside at once.

A page in a browser may reach a loopback port, also under a name that its DNS server
points there; the Host allow-list refuses such names, the Origin check refuses pages.
"""

from __future__ import annotations

import hmac
import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from runtime.api.errors import Farewell
from runtime.api.service import Settings
from runtime.errors import EngineError

#: Open even where a key is required: whoever restarts the server has no key.
OPEN_PATHS = frozenset({"/health"})


#: A name or IPv4 address, an IPv6 address in brackets, each with a port perhaps; or a bare IPv6 address.
_HOST = re.compile(
    r"(?:(?P<name>[a-z0-9_](?:[a-z0-9_.-]{0,252}[a-z0-9_.])?)|\[(?P<address>[0-9a-f:.]{2,45})\])(?::[0-9]{1,5})?"
    r"|(?P<bare>[0-9a-f:.]{2,45})"
)


class Gate:
    """ASGI middleware; refuses before the body is read."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._key = settings.api_key.encode() if settings.api_key is not None else None
        self._hosts = {name.lower() for name in settings.allowed_hosts}
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":  # there are none
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return
        error = self._refusal(Headers(scope=scope), scope["path"])
        if error is not None:
            await Farewell(error, scope["path"])(scope, receive, send)
            return
        self._inside += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._inside -= 1

    def _refusal(self, headers: Headers, path: str) -> EngineError | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or host_name(hosts[0]) not in self._hosts:
            return EngineError(
                "host_not_allowed",
                "the Host header names another server",
                path="Host",
                allowed=", ".join(sorted(self._hosts)),
                hint="start the server with --allow-host NAME if it is reached under another name",
            )
        origin = headers.get("origin")
        if origin is not None and not self._allows(origin, hosts[0]):
            return EngineError(
                "origin_not_allowed",
                "pages of this origin may not call this server",
                path="Origin",
                hint="start the server with --allow-origin ORIGIN to let them",
            )
        if path in OPEN_PATHS:
            return None
        if self._key is not None and not self._knows(headers):
            return EngineError(
                "unauthorized",
                "the key is missing or wrong",
                path="Authorization",
                allowed="Authorization: Bearer KEY, or x-api-key: KEY",
            )
        if self._inside >= self._settings.max_in_flight:
            return EngineError("overloaded", f"{self._inside} requests are being answered already")
        return None

    def _allows(self, origin: str, host: str) -> bool:
        if origin in self._settings.allowed_origins:
            return True
        scheme, _, place = origin.partition("://")
        return scheme in ("http", "https") and place.lower() == host.strip().lower()

    def _knows(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        assert self._key is not None
        if not given and "x-api-key" in headers:  # where Anthropic's clients put it
            scheme, given = "bearer", headers["x-api-key"]
        right = hmac.compare_digest(given.strip().encode(), self._key)
        return right and scheme.lower() == "bearer"


def host_name(header: str) -> str:
    """The name in a Host header, without port and brackets, in lower case; empty where it is no
    ``name[:port]`` (user names, paths and other ports than numbers are none)."""
    found = _HOST.fullmatch(header.strip().lower())
    return "" if found is None else found["name"] or found["address"] or found["bare"]
