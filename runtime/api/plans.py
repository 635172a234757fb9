"""``/v1/plans`` and ``/v1/compare``: what is served, what is proposed, how two executions compare."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from runtime.api.body import read_json
from runtime.api.service import service_of
from runtime.bundle.planfields import NAME_PATTERN
from runtime.control.compare import compare_runs
from runtime.control.types import EXECUTION_ID, BundleInfo
from runtime.errors import EngineError

_NAME = re.compile(NAME_PATTERN)
_ID = re.compile(EXECUTION_ID)
#: Executions on one side of a comparison.
MAX_REPETITIONS = 32


async def listing(request: Request) -> Response:
    """``GET /v1/plans``."""
    service = service_of(request)
    proposed = service.proposals.served if service.proposals is not None else frozenset()
    return JSONResponse(
        {
            "object": "list",
            "data": [
                {**plan_json(info), "proposed": info.name in proposed} for info in service.plane.infos()
            ],
        }
    )


def plan_json(info: BundleInfo) -> dict[str, Any]:
    """A served plan: every value with its origin, and what it needs."""
    return {
        "name": info.name,
        "digest": info.plan_digest,
        "bundle": info.digest,
        "model": info.plan.model,
        "model_name": info.model_name,
        "model_digest": info.model_digest,
        "architecture": info.architecture,
        "backend": info.backend,
        "quantization": info.quantization,
        "scheduler_policy": info.plan.scheduler_policy,
        "status": "loaded",
        "plan": info.plan.to_json(),
        "memory": {
            "weights_bytes": info.weights_bytes,
            "kv_bytes": info.kv_bytes,
            "arena_bytes": info.arena_bytes,
        },
        "cost": {
            "flops_per_token": info.cost.flops_per_token,
            "weight_bytes_per_step": info.cost.weight_bytes,
            "kv_bytes_per_token": info.cost.kv_bytes_per_token,
        },
    }


async def propose(request: Request) -> Response:
    """``POST /v1/plans``: validates a plan and predicts what it needs before anything is built.

    With ``compile`` it is compiled and served, where the operator allowed it.
    """
    service = service_of(request)
    body = await read_json(request, "plan_request", max_bytes=65536)
    if service.proposals is None:
        raise EngineError("not_found", "this server takes no proposals")
    service.check_ready()
    try:
        proposal = await asyncio.to_thread(service.proposals.predict, body["plan"])
    except EngineError as fault:
        raise _relocated(fault) from None
    if not body.get("compile"):
        return JSONResponse(proposal.to_json(service.plane.infos()))
    if not service.settings.allow_compile:
        raise EngineError(
            "compile_not_allowed",
            "requests may not compile on this server",
            path="compile",
            hint=f"compile it yourself ({proposal.command}), or start the server with --allow-compile",
        )
    info = await asyncio.to_thread(service.proposals.compile_and_serve, proposal, service.settings.max_plans)
    return JSONResponse({**proposal.to_json(service.plane.infos()), "served": plan_json(info)}, 201)


def _relocated(error: EngineError) -> EngineError:
    """The same error with its path as the request spells it: fields of the plan lie below ``plan``."""
    if error.path in (None, "plan") or not str(error.path).startswith("plan."):
        error.path = "plan" if error.path in (None, "plan") else f"plan.{error.path}"
    error.causes = tuple(_relocated(cause) for cause in error.causes)
    return error


async def retire(request: Request) -> Response:
    """``DELETE /v1/plans/{name}``: stops serving a plan that came by a request."""
    service, name = service_of(request), request.path_params["name"]
    if not _NAME.fullmatch(name) or all(info.name != name for info in service.plane.infos()):
        raise EngineError("bundle_not_served", "no such plan is served", path="name")
    if service.proposals is None or name not in service.proposals.served:
        raise EngineError(
            "compile_not_allowed",
            f"{name} is served by the operator's decision",
            path="name",
            hint="only plans that came by a request can be taken out by one",
        )
    await asyncio.to_thread(service.proposals.retire, name)
    return JSONResponse({"name": name, "status": "retired"})


async def compare(request: Request) -> Response:
    """``GET /v1/compare?a=&b=``: metric by metric, each with its tolerance."""
    service = service_of(request)
    sides = []
    for side in ("a", "b"):
        ids = (request.query_params.get(side) or "").split(",")
        if not 1 <= len(ids) <= MAX_REPETITIONS or not all(_ID.fullmatch(id) for id in ids):
            raise EngineError(
                "invalid_request",
                f"{side} names no execution",
                path=side,
                allowed=f"1 to {MAX_REPETITIONS} execution ids, separated by commas",
            )
        records = [await asyncio.to_thread(service.plane.records.get, id) for id in ids]
        for id, record in zip(ids, records, strict=True):
            if record is None:
                raise EngineError("run_not_found", f"there is no execution {id}", path=side)
        sides.append([record for record in records if record is not None])
    return JSONResponse(compare_runs(*sides).to_json())
