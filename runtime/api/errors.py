"""Errors as the API shows them: a status that fits, the path in the request, the dialect's shape.

``{"error": {"code", "message", "type", "param", "path", "hint"}}``; ``allowed`` and ``causes``
are added where there are any. Below ``/v1/messages`` the shape is Anthropic's, below ``/api/``
Ollama's, with the same fields beside theirs.
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

#: Anthropic's words where they differ.
_ANTHROPIC_TYPES = {409: "invalid_request_error", 413: "request_too_large", 503: "overloaded_error"}

#: How much more of a refused body is taken and thrown away, and for how many seconds.
LINGER_BYTES = 64 << 20
LINGER_SECONDS = 2.0

#: Seconds a client is asked to wait where waiting helps.
RETRY_AFTER = {429: 1, 503: 5}


def error_body(error: EngineError, at: str = "") -> dict[str, Any]:
    """The JSON of an error for a request to the URL path ``at``."""
    if at.startswith("/v1/messages"):
        return _as_anthropic(error)
    if at.startswith("/api/"):
        return _as_ollama(error)
    return {"error": _fields(error)}


def _as_anthropic(error: EngineError) -> dict[str, Any]:
    fields = _fields(error)
    kind = _ANTHROPIC_TYPES.get(status_of(error), fields["type"])
    kind = "api_error" if kind == "server_error" else kind
    message = fields["message"]
    if fields["path"] is not None and fields["path"] not in message:
        message = f"{fields['path']}: {message}"
    return {"type": "error", "error": {**fields, "type": kind, "message": message}}


def _as_ollama(error: EngineError) -> dict[str, Any]:
    """Its clients show nothing but the text of ``error``, so that says it all."""
    fields = _fields(error)
    text = fields["message"]
    if fields["path"] is not None and fields["path"] not in text:
        text = f"{fields['path']}: {text}"
    text += f"; allowed: {fields['allowed']}" if "allowed" in fields else ""
    text += f"; hint: {fields['hint']}" if fields["hint"] else ""
    return {"error": text, **{name: value for name, value in fields.items() if name != "param"}}


def _fields(error: EngineError) -> dict[str, Any]:
    status = status_of(error)
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    # A request with a single fault is that fault, for whoever reads only the first line.
    if len(error.causes) == 1 and error.code.startswith("invalid_"):
        error = error.causes[0]
    first = error.causes[0] if error.causes else error
    message = error.message
    if error.causes:
        message += ": " + "; ".join(map(_line, error.causes[:8]))
    where = first.path
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
    return body


def _line(cause: EngineError) -> str:
    """A cause among others: where it is, once, and what it is."""
    return cause.message if cause.message.startswith(cause.path or " ") else str(cause)


def error_response(error: EngineError, at: str = "", *, headers: dict[str, str] | None = None) -> Response:
    """The reply to a request to the URL path ``at`` that failed."""
    status = status_of(error)
    extra = dict(headers or {})
    if status in RETRY_AFTER:
        extra.setdefault("Retry-After", str(RETRY_AFTER[status]))
    if status == 401:
        extra.setdefault("WWW-Authenticate", "Bearer")
    return JSONResponse(error_body(error, at), status, headers=extra)


class Farewell(Response):
    """The reply to a request whose body is not read; the connection is closed after it.

    A connection closed on bytes that were not read is reset, and the client may lose the reply
    with it. So the reply is sent first, and what the client still sends is thrown away for a while.
    """

    def __init__(self, error: EngineError, at: str = "") -> None:
        reply = error_response(error, at, headers={"Connection": "close"})
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
