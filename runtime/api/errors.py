"""Errors as the API shows them: one shape, a status that fits, the path in the request.

``{"error": {"code", "message", "type", "param", "path", "hint"}}``; ``allowed`` and ``causes``
are added where there are any.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from runtime.errors import EngineError

#: HTTP status by code. A code that is not here is the client's fault if it says ``invalid``
#: or speaks of its prompt, otherwise the server's.
STATUS = {
    "invalid_request": 400,
    "invalid_json": 400,
    "invalid_plan": 400,
    "unsupported_field": 400,
    "unknown_field": 400,
    "prompt_empty": 400,
    "prompt_too_long": 400,
    "token_out_of_range": 400,
    "text_invalid": 400,
    "context_exceeded": 400,
    "ambiguous_model": 400,
    "unknown_scheduler_policy": 400,
    "no_energy_meter": 400,
    "not_overridable": 400,
    "unknown_model": 400,
    "unauthorized": 401,
    "host_not_allowed": 403,
    "origin_not_allowed": 403,
    "compile_not_allowed": 403,
    "not_found": 404,
    "run_not_found": 404,
    "model_not_found": 404,
    "bundle_not_served": 404,
    "method_not_allowed": 405,
    "body_timeout": 408,
    "plan_not_compiled": 409,
    "plan_served_already": 409,
    "too_many_plans": 409,
    "bundle_busy": 409,
    "run_finished": 409,
    "run_not_finished": 409,
    "not_comparable": 409,
    "body_too_large": 413,
    "not_json": 415,
    "queue_full": 429,
    "loading": 503,
    "shutting_down": 503,
    "overloaded": 503,
    "executor_failed": 503,
    "records_unwritable": 503,
}

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
    503: "unavailable_error",
}

#: Seconds a client is asked to wait where waiting helps.
RETRY_AFTER = {429: 1, 503: 5}


def status_of(error: EngineError) -> int:
    """The HTTP status of an error."""
    known = STATUS.get(error.code)
    if known is not None:
        return known
    return 400 if error.code.startswith(("invalid_", "chat_", "template_", "messages_")) else 500


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
