"""The HTTP application: the table of endpoints behind the gate. It only translates."""

from __future__ import annotations

import logging

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from runtime.api.endpoints import ENDPOINTS
from runtime.api.errors import Farewell, error_response
from runtime.api.openapi import document
from runtime.api.security import Gate
from runtime.api.service import Service
from runtime.errors import EngineError

log = logging.getLogger("engine.api")


def create_app(service: Service) -> Starlette:
    """The application over a service; the service's life is the caller's."""
    routes = [
        Route(endpoint.path, endpoint.handler, methods=[endpoint.method], name=endpoint.summary)
        for endpoint in ENDPOINTS
    ]
    routes.append(Route("/openapi.json", _openapi, methods=["GET"]))
    app = Starlette(
        routes=_merged(routes),
        middleware=[Middleware(Gate, settings=service.settings)],
        exception_handlers={
            EngineError: _engine_error,
            HTTPException: _http_error,
            ClientDisconnect: _client_left,
            Exception: _defect,
        },
    )
    app.state.service = service
    return app


def _merged(routes: list[Route]) -> list[Route]:
    """One route a path, so that a method nobody offers is answered with those that are."""
    paths: dict[str, list[Route]] = {}
    for route in routes:
        paths.setdefault(route.path, []).append(route)
    return [same[0] if len(same) == 1 else _dispatch(path, same) for path, same in paths.items()]


def _dispatch(path: str, routes: list[Route]) -> Route:
    handlers = {method: route.endpoint for route in routes for method in route.methods or ()}

    async def handle(request: Request) -> Response:
        response: Response = await handlers[request.method](request)
        return response

    return Route(path, handle, methods=list(handlers))


async def _openapi(request: Request) -> Response:
    """``GET /openapi.json``."""
    return JSONResponse(document())


async def _engine_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, EngineError)
    if getattr(request.state, "unread", False):
        return Farewell(error, request.url.path)
    return error_response(error, request.url.path)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    at = request.url.path
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        cause = EngineError(
            "method_not_allowed", f"{request.method} is not offered here", path="method", allowed=allowed
        )
        return error_response(cause, at, headers={"Allow": allowed})
    return error_response(EngineError("not_found", "there is nothing here", hint="see /openapi.json"), at)


async def _client_left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)


async def _defect(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path[:200], exc_info=error)
    return error_response(
        EngineError("internal_error", "the server failed on this request", hint="its log says how"),
        request.url.path,
    )
