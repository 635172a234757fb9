"""``/api/tags``, ``/api/show``, ``/api/ps``, ``/api/version``: the served plans as Ollama lists models."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from runtime.api.body import read_json
from runtime.api.dialects.ollama import OPTIONS, served, stamp
from runtime.api.service import service_of
from runtime.control.types import BundleInfo
from runtime.errors import EngineError
from runtime.version import ENGINE_VERSION

#: When a plan leaves memory by itself: never. The last second that 64 bits of nanoseconds hold.
NEVER = "2262-04-11T23:47:16Z"


async def tags(request: Request) -> Response:
    """``GET /api/tags``."""
    infos = service_of(request).plane.infos()
    return JSONResponse({"models": [{**_model(info), "size": info.weights_bytes} for info in infos]})


async def running(request: Request) -> Response:
    """``GET /api/ps``: all served plans, for they stay in memory."""
    return JSONResponse(
        {
            "models": [
                {
                    **_model(info),
                    "size": info.weights_bytes + info.kv_bytes + info.arena_bytes,
                    "size_vram": 0,
                    "expires_at": NEVER,
                    "context_length": info.plan.execution.context,
                }
                for info in service_of(request).plane.infos()
            ]
        }
    )


async def show(request: Request) -> Response:
    """``POST /api/show``."""
    body = await read_json(request, "ollama_show_request")
    names = {body[key] for key in ("model", "name") if body.get(key)}
    if len(names) != 1:
        raise EngineError(
            "invalid_request",
            "model and name say different things" if names else "model is missing",
            path="model",
            hint="name is the older name of model; give one of them",
        )
    bundle = served(service_of(request), names.pop())
    info = bundle.info
    return JSONResponse(
        {
            "modified_at": stamp(info.created_unix * 1_000_000_000),
            "template": bundle.template.source,
            "parameters": _parameters(info),
            "details": _details(info),
            "model_info": {
                "general.architecture": info.architecture,
                "general.name": info.model_name,
                "general.parameter_count": info.parameters,
                f"{info.architecture}.context_length": info.plan.execution.context,
            },
            "capabilities": ["completion"],
        }
    )


async def version(request: Request) -> Response:
    """``GET /api/version``: the engine's."""
    return JSONResponse({"version": ENGINE_VERSION})


def _model(info: BundleInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "model": info.name,
        "modified_at": stamp(info.created_unix * 1_000_000_000),
        "digest": info.digest,
        "details": _details(info),
    }


def _details(info: BundleInfo) -> dict[str, Any]:
    return {
        "parent_model": info.model_name,
        "format": "bundle",
        "family": info.architecture,
        "families": [info.architecture],
        "parameter_size": "" if info.parameters is None else size_label(info.parameters),
        "quantization_level": info.quantization.upper(),
    }


def _parameters(info: BundleInfo) -> str:
    """What a request that says nothing gets, a line each as in a Modelfile."""
    values = {"max_tokens": info.plan.limits.max_tokens, **vars(info.plan.sampling)}
    return "\n".join(
        f"{option:<20} {json.dumps(values[field])}" for option, field in OPTIONS.items() if field in values
    )


def size_label(parameters: int) -> str:
    """A count of parameters as Ollama shows it: 1.2B, 135.00M, 260.00K."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if parameters >= size:
            return f"{parameters / size:.1f}B" if unit == "B" else f"{parameters / size:.2f}{unit}"
    return str(parameters)
