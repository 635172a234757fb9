"""``/v1/runs``: Run Requests, live executions and records."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from runtime.api.body import read_json
from runtime.api.constraints import caching_of, constraint_of
from runtime.api.errors import error_body, error_response
from runtime.api.follow import EventStream, Following, failure, outcomes_or_gone, submit
from runtime.api.service import Service, service_of
from runtime.bundle.planfields import BY_PATH
from runtime.control.execution import Execution
from runtime.control.requests import Prompt, make_spec, request_path
from runtime.control.types import EXECUTION_ID, BundleInfo, Outcome, RunSpec, TokenOut
from runtime.engine.request import Wishes
from runtime.errors import EngineError
from runtime.version import ENGINE_VERSION

_ID = re.compile(EXECUTION_ID)
MAX_LISTED = 1000


async def create(request: Request) -> Response:
    """``POST /v1/runs``: runs a Run Request; ``stream`` gives its tokens as they come."""
    service = service_of(request)
    body = await read_json(request, "run_request")
    try:
        following = await submit(
            request, service, lambda: [spec_of(service, body)], stream=bool(body.get("stream"))
        )
    except EngineError as fault:
        raise relocated(fault) from None
    if body.get("stream"):
        return EventStream(
            _events(service, following),
            service=service,
            following=following,
        )
    (outcome,) = await outcomes_or_gone(request, service, following)
    headers = {"X-Execution-Id": following.ids}
    if (error := failure(outcome)) is not None:
        return error_response(error, headers=headers)
    return JSONResponse(result_json(following.executions[0], outcome), headers=headers)


def spec_of(service: Service, body: Mapping[str, Any]) -> RunSpec:
    """The execution that a Run Request asks for."""
    wanted = body.get("execution") or {}
    bundle = service.bundle(
        body["model"], backend=wanted.get("backend"), quantization=wanted.get("quantization")
    )
    limits, sampling = _said("limits", wanted.get("limits")), _said("sampling", body.get("sampling"))
    plan, notes = service.override(
        bundle, limits=limits, sampling=sampling, policy=wanted.get("scheduler_policy")
    )
    return make_spec(
        bundle,
        plan,
        Prompt(body["prompt"]),
        Wishes(stop=texts(body.get("stop")), constraint=constraint_of(body), **caching_of(body)),
        explicit_max_tokens="max_tokens" in limits,
        notes=notes,
    )


def _said(group: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """What of a group of a plan's fields is said: null says nothing, but where the field may be null."""
    return {
        name: value
        for name, value in (given or {}).items()
        if value is not None or BY_PATH[f"{group}.{name}"].nullable
    }


def texts(stop: str | list[str] | None) -> tuple[str, ...]:
    """Stop texts as a tuple."""
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def relocated(error: EngineError) -> EngineError:
    """The same error with its path as the Run Request spells it."""
    error.path = request_path(error.path)
    error.causes = tuple(relocated(cause) for cause in error.causes)
    return error


def result_json(execution: Execution, outcome: Outcome) -> dict[str, Any]:
    """The reply to a Run Request."""
    return {
        "execution_id": outcome.id,
        **_identity(execution.info),
        "scheduler_policy": execution.spec.policy,
        "result": outcome.text,
        "stop_reason": str(outcome.stop_reason),
        "metrics": dict(outcome.metrics),
        "diagnostics": dict(outcome.diagnostics),
        "record": {"hash": outcome.record_hash},
    }


def _identity(info: BundleInfo) -> dict[str, Any]:
    return {
        "engine_version": ENGINE_VERSION,
        "model": info.plan.model,
        "backend": info.backend,
        "quantization": info.quantization,
        "plan": info.name,
        "bundle": info.digest,
    }


#: Made once: ``json.dumps`` with options makes an encoder a call, and there is a call a token.
compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def sse(data: object, event: str | None = None) -> bytes:
    """One server-sent event with JSON data."""
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {compact(data)}\n\n".encode()


async def _events(service: Service, following: Following) -> AsyncIterator[bytes]:
    (execution,) = following.executions
    yield sse({"execution_id": execution.id, "status": "queued"}, "queued")
    outcome: Outcome | None = None
    async for news in following.news(service):
        if news is None:
            yield b": waiting\n\n"
        elif isinstance(news[1], Outcome):
            outcome = news[1]
        elif isinstance(news[1], str):  # held back until an end from outside
            yield sse({"index": None, "token": None, "text": news[1], "ms": None}, "token")
        else:
            yield b"".join(sse(_token_json(token, execution), "token") for token in news[1])
    assert outcome is not None
    if (error := failure(outcome)) is not None:
        yield sse({**error_body(error), "execution_id": execution.id}, "error")
    else:
        yield sse(result_json(execution, outcome), "result")


def _token_json(token: TokenOut, execution: Execution) -> dict[str, Any]:
    return {
        "index": token.index,
        "token": token.token,
        "text": token.text,
        "ms": (token.time_ns - execution.created_ns) / 1e6,
    }


# ---- what has run ---------------------------------------------------------------------


async def listing(request: Request) -> Response:
    """``GET /v1/runs``: live executions first, then records, newest first."""
    service = service_of(request)
    limit = _number(request, "limit", 50, 1, MAX_LISTED)
    before = request.query_params.get("before")
    if before is not None:
        before = _checked_id(before, "before")
    records = await asyncio.to_thread(lambda: service.plane.records.list(limit=limit + 1, before=before))
    recorded = {record["execution_id"] for record in records}
    live = [] if before else [e.summary() for e in reversed(service.plane.live()) if e.id not in recorded]
    return JSONResponse(
        {
            "object": "list",
            "live": live,
            "data": [_summary(record) for record in records[:limit]],
            "has_more": len(records) > limit,
        }
    )


async def show(request: Request) -> Response:
    """``GET /v1/runs/{id}``: a live execution's state, or the record of one that ended."""
    service, id = service_of(request), _checked_id(request.path_params["id"])
    live = service.plane.find(id)
    if live is not None and live.outcome is None:
        return JSONResponse(live.summary())
    return JSONResponse({**await _record(service, id), "status": "finished"})


async def metrics(request: Request) -> Response:
    """``GET /v1/runs/{id}/metrics``: the official metrics, with what identifies them."""
    service, id = service_of(request), _checked_id(request.path_params["id"])
    live = service.plane.find(id)
    if live is not None and live.outcome is None:
        raise EngineError(
            "run_not_finished", f"{id} is {live.phase}", path="id", hint="its metrics exist once it has ended"
        )
    record = await _record(service, id)
    return JSONResponse(
        {
            "execution_id": id,
            "engine_version": record["engine_version"],
            "model": record["plan"]["fields"]["model"]["value"],
            "backend": record["backend"],
            "quantization": record["quantization"],
            "metrics": record["metrics"],
            "diagnostics": record["diagnostics"],
        }
    )


async def cancel(request: Request) -> Response:
    """``DELETE /v1/runs/{id}``: cancels a live execution; records are not removed."""
    service, id = service_of(request), _checked_id(request.path_params["id"])
    if service.plane.cancel(id):
        return JSONResponse({"execution_id": id, "status": "cancelling"}, 202)
    await _record(service, id)
    raise EngineError("run_finished", f"{id} has ended; its record is immutable", path="id")


async def head(request: Request) -> Response:
    """``GET /v1/runs/head``: the end of the chain of records, to be kept elsewhere."""
    service = service_of(request)
    return JSONResponse(dict(await asyncio.to_thread(service.plane.records.head)))


async def _record(service: Service, id: str) -> dict[str, Any]:
    record = await asyncio.to_thread(service.plane.records.get, id)
    if record is None:
        raise EngineError("run_not_found", f"there is no execution {id}", path="id")
    return dict(record)


def _summary(record: Mapping[str, Any]) -> dict[str, Any]:
    keys = (
        "execution_id", "created", "kind", "engine_version", "backend", "quantization",
        "policy", "stop_reason", "prompt_tokens", "metrics",
    )  # fmt: skip
    return {
        **{key: record.get(key) for key in keys},
        "model": record["plan"]["fields"]["model"]["value"],
        "plan": record["bundle"]["name"],
        "plan_digest": record["plan_digest"],
        "status": "finished",
    }


def _checked_id(id: str, path: str = "id") -> str:
    if not _ID.fullmatch(id):
        raise EngineError("run_not_found", "there is no such execution", path=path, allowed=EXECUTION_ID)
    return id


def _number(request: Request, name: str, default: int, low: int, high: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()) or not low <= int(text[:9]) <= high or len(text) > 9:
        raise EngineError("invalid_request", f"{name} is out of range", path=name, allowed=f"{low} to {high}")
    return int(text)
