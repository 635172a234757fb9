"""What a request says its answer must look like, in the words of several dialects.

``response_format`` is OpenAI's (with llama-server's ``schema`` beside ``json_object``),
``json_schema`` and ``grammar`` are llama-server's, ``guided_json`` vLLM's. Where a
constraint says what is allowed, its text is llguidance's (docs/service.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.engine.request import Constraint
from runtime.errors import EngineError


def constraint_of(body: Mapping[str, Any]) -> Constraint | None:
    """The constraint of a request, None where it asks for text; raises ``invalid_request``
    where it asks for two."""
    asked: dict[str, Constraint] = {}
    if (wanted := _format(body.get("response_format"))) is not None:
        asked["response_format"] = wanted
    for name in ("json_schema", "guided_json"):
        if body.get(name) is not None:
            asked[name] = Constraint.of_schema(body[name])
    if body.get("regex"):
        asked["regex"] = Constraint("regex", body["regex"])
    if body.get("grammar"):
        asked["grammar"] = Constraint("grammar", body["grammar"])
    if len(asked) > 1:
        names = list(asked)
        raise EngineError(
            "invalid_request",
            f"{' and '.join(names)} both say what the answer must look like",
            path=names[-1],
            allowed="one of response_format, json_schema, guided_json, regex, grammar",
        )
    return next(iter(asked.values()), None)


def _format(given: Mapping[str, Any] | None) -> Constraint | None:
    kind = "text" if given is None else given["type"]
    if given is None or kind == "text":
        return None
    if kind == "json_object":
        schema = given.get("schema")
        return Constraint.of_schema({"type": "object"} if schema is None else schema)
    described = given.get("json_schema")
    if described is None:
        raise EngineError(
            "invalid_request",
            "the schema is missing",
            path="response_format.json_schema",
            allowed='{"name": …, "schema": {…}}',
        )
    return Constraint.of_schema(described["schema"])


def caching_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """How a request wants the prefix cache used: fields of :class:`runtime.engine.request.Wishes`."""
    asked = body.get("cache_prompt")
    return {"cache_prompt": asked is not False, "cache_salt": body.get("cache_salt") or ""}
