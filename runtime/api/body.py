"""Request bodies: bounded in bytes and time, strict JSON, checked by a schema, off the event loop."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import ClientDisconnect, Request

from runtime.api.checking import check
from runtime.api.examiner import EXAMINER
from runtime.api.intake import LARGE, SMALL, Intake
from runtime.api.service import service_of
from runtime.api.strict_json import parse, parse_again
from runtime.errors import EngineError

#: Seconds a client has to send its body.
BODY_SECONDS = 30.0


async def read_json(request: Request, schema_name: str, *, max_bytes: int | None = None) -> dict[str, Any]:
    """The body as JSON that satisfies the schema.

    Errors: ``not_json`` (content type), ``body_too_large``, ``body_timeout``, ``overloaded``,
    ``invalid_json``, ``invalid_request`` and what :func:`check` raises.
    """
    request.state.unread = True  # until the body is here; see :class:`runtime.api.errors.Farewell`
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Also keeps a page in a browser from posting a form without asking first.
        raise EngineError(
            "not_json",
            f"the body is {kind[:100]!r}",
            path="Content-Type",
            allowed="application/json",
            hint="curl -H 'Content-Type: application/json' … (curl -d alone says it is a form)",
        )
    service = service_of(request)
    most = service.settings.max_body_bytes
    most = most if max_bytes is None else min(most, max_bytes)
    body = bytearray()
    try:
        await _receive(request, service.intake, body, most)
        request.state.unread = False
        request.state.body_bytes = len(body)
        if len(body) <= SMALL:
            return check(parse(bytes(body)), schema_name)
        return await service.intake.work(len(body), lambda: _checked(bytes(body), schema_name))
    finally:
        service.intake.hold(-len(body))


def _checked(body: bytes, schema_name: str) -> dict[str, Any]:
    """The value of a body beyond ``SMALL``: what is large is looked at by another process first."""
    if len(body) < LARGE:
        return check(parse(body), schema_name)
    EXAMINER.examine(body, schema_name)
    value: dict[str, Any] = parse_again(body)
    return value


async def _receive(request: Request, intake: Intake, body: bytearray, most: int) -> None:
    """Reads the body into ``body``, which the intake counts as held."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > most):
        raise _too_large(most)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                if len(body) + len(chunk) > most:
                    raise _too_large(most)
                intake.hold(len(chunk))
                body += chunk
    except TimeoutError:
        raise EngineError(
            "body_timeout", f"the body did not arrive within {BODY_SECONDS:g} seconds"
        ) from None
    except ClientDisconnect:
        raise EngineError("invalid_request", "the client left before its request was complete") from None


def _too_large(max_bytes: int) -> EngineError:
    return EngineError("body_too_large", "the body is too large", allowed=f"at most {max_bytes} bytes")
