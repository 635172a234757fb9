"""The OpenAPI 3.1 document, made of the table of endpoints and the schemas that check requests."""

from __future__ import annotations

from functools import lru_cache
from http import HTTPStatus
from typing import Any

from runtime.api.checking import schema
from runtime.api.endpoints import ENDPOINTS, Endpoint
from runtime.version import ENGINE_VERSION

_NULLABLE_TEXT = {"type": ["string", "null"]}

_ERROR_FIELDS: dict[str, Any] = {
    "code": {"type": "string"},
    "message": {"type": "string"},
    "type": {"type": "string"},
    "param": _NULLABLE_TEXT,
    "path": _NULLABLE_TEXT,
    "hint": _NULLABLE_TEXT,
    "allowed": {"type": "string"},
    "causes": {"type": "array", "items": {"type": "object"}},
}

ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "type", "param", "path", "hint"],
            "properties": _ERROR_FIELDS,
        }
    },
}

ANTHROPIC_ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {"type": {"const": "error"}, "error": ERROR_SCHEMA["properties"]["error"]},
}

OLLAMA_ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error", "code", "message", "type", "path", "hint"],
    "properties": {
        "error": {"type": "string"},
        **{name: rule for name, rule in _ERROR_FIELDS.items() if name != "param"},
    },
}

_SHARED_STATUSES = (401, 403, 503)
_BODY_STATUSES = (400, 408, 413, 415)


@lru_cache(maxsize=1)
def document() -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    paths["/openapi.json"] = {
        "get": {"summary": "This document", "operationId": "get_openapi", "responses": _responses((200,))}
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "engine",
            "version": ENGINE_VERSION,
            "description": "Executes declared decisions on language models; measures and records them.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": {
                "Error": ERROR_SCHEMA,
                "AnthropicError": ANTHROPIC_ERROR_SCHEMA,
                "OllamaError": OLLAMA_ERROR_SCHEMA,
                **{_title(e.body): _published(e.body) for e in ENDPOINTS if e.body is not None},
            },
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "api_key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": [{}, {"key": []}, {"api_key": []}],
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    words = endpoint.path.strip("/").replace("{", "").replace("}", "").replace("/", "_").replace("-", "_")
    statuses = endpoint.statuses + (_BODY_STATUSES if endpoint.body else ())
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "operationId": f"{endpoint.method.lower()}_{words}",
        "responses": _responses(statuses, endpoint),
    }
    if endpoint.parameters:
        operation["parameters"] = list(endpoint.parameters)
    if endpoint.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": f"#/components/schemas/{_title(endpoint.body)}"}}
            },
        }
    return operation


def _responses(statuses: tuple[int, ...], endpoint: Endpoint | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    lines = endpoint is not None and endpoint.path.startswith("/api/")
    error = "Error"
    if endpoint is not None and endpoint.path.startswith("/v1/messages"):
        error = "AnthropicError"
    elif lines:
        error = "OllamaError"
    for status in sorted({*statuses, *_SHARED_STATUSES}):
        content: dict[str, Any] = {"application/json": {"schema": {"$ref": f"#/components/schemas/{error}"}}}
        if status < 300:
            content = {"application/json": {}}
            if endpoint is not None and endpoint.text:
                content = {"text/plain": {}}
            if endpoint is not None and endpoint.streams:
                content["application/x-ndjson" if lines else "text/event-stream"] = {}
        found[str(status)] = {"description": HTTPStatus(status).phrase, "content": content}
    return found


def _title(name: str) -> str:
    return str(schema(name)["title"])


def _published(name: str) -> dict[str, Any]:
    return {key: value for key, value in schema(name).items() if key != "$schema"}
