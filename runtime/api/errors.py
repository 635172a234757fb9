"""Errors as the API shows them: one shape, a status that fits, the path in the request.

``{"error": {"code", "message", "type", "param", "path", "hint"}}``; ``allowed`` and ``causes``
are added where there are any.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from runtime.api.statuses import status_of
from runtime.errors import EngineError

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
    503: "unavailable_error",
}

#: How much more of a refused body is taken and thrown away, and for how many seconds.
LINGER_BYTES = 64 << 20
LINGER_SECONDS = 2.0

#: Seconds a client is asked to wait where waiting helps.
RETRY_AFTER = {429: 1, 503: 5}


def error_body(error: EngineError, *, path: str | None = None) -> dict[str, Any]:
    """The JSON of an error; ``path`` replaces the error's own where it differs in the request."""
    status = status_of(error)
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    # A request with a single fault is that fault, for whoever reads only the first line.
    if len(error.causes) == 1 and error.code.startswith("invalid_"):
        error = error.causes[0]
    first = error.causes[0] if error.causes else error
    message = error.message
    if error.causes:
        message += ": " + "; ".join(str(cause) for cause in error.causes[:8])
    where = path if path is not None else first.path
    body: dict[str, Any] = {
        "code": error.code,
        "message": message,
        "type": kind,
        "param": where,  # its name in OpenAI's errors
        "path": where,
        "hint": error.hint,
    }
    if error.allowed is not None:
        body["allowed"] = error.allowed
    if error.causes:
        body["causes"] = [cause.to_json() for cause in error.causes]
    return {"error": body}


def error_response(
    error: EngineError, *, path: str | None = None, headers: dict[str, str] | None = None
) -> Response:
    """The reply to a request that failed."""
    status = status_of(error)
    extra = dict(headers or {})
    if status in RETRY_AFTER:
        extra.setdefault("Retry-After", str(RETRY_AFTER[status]))
    if status == 401:
        extra.setdefault("WWW-Authenticate", "Bearer")
    return JSONResponse(error_body(error, path=path), status, headers=extra)


class Farewell(Response):
    """The reply to a request whose body is not read; the connection is closed after it.

    A connection closed on bytes that were not read is reset, and the client may lose the reply
    with it. So the reply is sent first, and what the client still sends is thrown away for a while.
    """

    def __init__(self, error: EngineError) -> None:
        reply = error_response(error, headers={"Connection": "close"})
        super().__init__(bytes(reply.body), reply.status_code, dict(reply.headers))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        left = LINGER_BYTES
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        break
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})
