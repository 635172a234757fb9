"""Endpoints as llama-server users know them: tokens, templates, properties, slots, health, metrics."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from runtime.api.body import read_json
from runtime.api.errors import error_response
from runtime.api.openai_requests import rendered
from runtime.api.service import service_of
from runtime.api.telemetry import CONTENT_TYPE
from runtime.control.requests import check_ids, check_text
from runtime.control.types import TokenizerLike
from runtime.errors import EngineError
from runtime.scheduler import names as policy_names
from runtime.version import ENGINE_VERSION


async def tokenize(request: Request) -> Response:
    """``POST /tokenize``: ids, or ids with their pieces (bytes where they are not UTF-8)."""
    service = service_of(request)
    body = await read_json(request, "tokenize_request")
    bundle = service.bundle(body.get("model"))

    def reply() -> Response:
        check_text(body["content"], bundle.engine.limits.context, path="content")
        parse_special = body.get("parse_special") is not False
        ids = bundle.tokenizer.encode(body["content"], bool(body.get("add_special")), parse_special)
        if body.get("with_pieces"):
            return JSONResponse({"tokens": [_with_piece(bundle.tokenizer, id) for id in ids]})
        return JSONResponse({"tokens": list(ids)})

    return await service.intake.work(request.state.body_bytes, reply)


def _with_piece(tokenizer: TokenizerLike, id: int) -> dict[str, Any]:
    piece = tokenizer.piece(id)
    try:
        return {"id": id, "piece": piece.decode()}
    except UnicodeDecodeError:
        return {"id": id, "piece": list(piece)}


async def detokenize(request: Request) -> Response:
    """``POST /detokenize``."""
    service = service_of(request)
    body = await read_json(request, "detokenize_request")
    bundle = service.bundle(body.get("model"))

    def reply() -> Response:
        ids = body["tokens"]
        check_ids(ids, n_vocab=bundle.tokenizer.n_vocab, context=bundle.engine.limits.context, path="tokens")
        return JSONResponse({"content": bundle.tokenizer.decode(ids)})

    return await service.intake.work(request.state.body_bytes, reply)


async def apply_template(request: Request) -> Response:
    """``POST /apply-template``."""
    service = service_of(request)
    body = await read_json(request, "apply_template_request")
    bundle = service.bundle(body.get("model"))
    return await service.intake.work(
        request.state.body_bytes, lambda: JSONResponse({"prompt": rendered(bundle, body).text})
    )


async def props(request: Request) -> Response:
    """``GET /props``: what is served, and what a request that leaves a field out gets."""
    service = service_of(request)
    bundle = service.bundle(request.query_params.get("model") or _first(request))
    plan = bundle.info.plan
    return JSONResponse(
        {
            "default_generation_settings": {
                "n_ctx": plan.execution.context,
                "n_predict": plan.limits.max_tokens,
                "params": {**vars(plan.sampling)},
                "scheduler_policy": plan.scheduler_policy,
            },
            "total_slots": plan.execution.slots,
            "model_alias": bundle.info.name,
            "model_name": bundle.info.model_name,
            "chat_template": bundle.template.source,
            "modalities": {"vision": False, "audio": False},
            "scheduler_policies": list(policy_names()),
            "build_info": ENGINE_VERSION,
            "bundle": bundle.info.digest,
        }
    )


async def slots(request: Request) -> Response:
    """``GET /slots``: every slot of every served plan, and what is in it."""
    service = service_of(request)
    service.check_ready()
    found = []
    for lane, residents in service.plane.executor.slots():
        limits = lane.bundle.engine.limits
        held = {slot: (id, phase, tokens) for slot, id, phase, tokens in residents}
        for slot in range(limits.slots):
            id, phase, tokens = held.get(slot, (None, None, 0))
            execution = None if id is None else lane.executions.get(id)
            drafted, kept = (0, 0) if execution is None else execution.drafted
            found.append(
                {
                    "id": slot,
                    "plan": lane.name,
                    "n_ctx": limits.context,
                    "is_processing": id is not None,
                    "id_task": id,
                    "phase": phase and str(phase),
                    "n_past": tokens,
                    **lane.bundle.engine.memory.shown(slot),
                    "speculative": lane.bundle.engine.draft_tokens > 0,
                    "draft_n": drafted,
                    "draft_n_accepted": kept,
                }
            )
    return JSONResponse(found)


async def health(request: Request) -> Response:
    """``GET /health``: 200 when requests are taken; 503 while loading, stopping or after a failure."""
    try:
        service_of(request).check_ready()
    except EngineError as error:
        return error_response(error)
    return JSONResponse({"status": "ok"})


async def metrics(request: Request) -> Response:
    """``GET /metrics``: Prometheus text."""
    service = service_of(request)
    if service.telemetry is None:
        raise EngineError("not_found", "this server keeps no metrics")
    return Response(service.telemetry.render(service.plane), headers={"Content-Type": CONTENT_TYPE})


def _first(request: Request) -> str | None:
    infos = service_of(request).plane.infos()
    return infos[0].name if infos else None
