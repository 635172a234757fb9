"""Request bodies: bounded in bytes, time and depth, strict JSON, checked by a schema."""

from __future__ import annotations

import asyncio
import json
import math
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import jsonschema
from jsonschema.exceptions import ValidationError
from starlette.requests import ClientDisconnect, Request

from runtime.bundle.spelling import did_you_mean
from runtime.errors import EngineError

SCHEMAS = Path(__file__).parent / "schemas"
MAX_DEPTH = 32
#: Seconds a client has to send its body.
BODY_SECONDS = 30.0

#: A string (to skip it; an unfinished one ends the text), or a bracket.
_BRACKETS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|$)|[\[\]{}]', re.DOTALL)


@lru_cache(maxsize=32)
def schema(name: str) -> dict[str, Any]:
    """The JSON Schema ``schemas/<name>.json``."""
    found: dict[str, Any] = json.loads((SCHEMAS / f"{name}.json").read_text())
    return found


@lru_cache(maxsize=32)
def _validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema(name))


async def read_json(request: Request, schema_name: str, *, max_bytes: int) -> dict[str, Any]:
    """The body as JSON that satisfies the schema.

    Errors: ``not_json`` (content type), ``body_too_large``, ``body_timeout``,
    ``invalid_json``, ``invalid_request`` and what :func:`check` raises.
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Also keeps a page in a browser from posting a form without asking first.
        raise EngineError(
            "not_json",
            f"the body is {kind[:100]!r}",
            path="Content-Type",
            allowed="application/json",
            hint="curl -H 'Content-Type: application/json' … (curl -d alone says it is a form)",
        )
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise _too_large(max_bytes)
    except TimeoutError:
        raise EngineError(
            "body_timeout", f"the body did not arrive within {BODY_SECONDS:g} seconds"
        ) from None
    except ClientDisconnect:
        raise EngineError("invalid_request", "the client left before its request was complete") from None
    return check(parse(bytes(body)), schema_name)


def parse(data: bytes) -> Any:
    """Strict JSON: UTF-8, no NaN, no duplicate keys, no overlong numbers, at most MAX_DEPTH levels."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise EngineError("invalid_json", f"the body is not UTF-8 at byte {error.start}") from None
    depth = _depth(text)
    if depth > MAX_DEPTH:
        raise EngineError(
            "invalid_json", "the body is nested too deeply", allowed=f"at most {MAX_DEPTH} levels"
        )
    try:
        value = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_int, parse_float=_float
        )
    except json.JSONDecodeError as error:
        raise EngineError(
            "invalid_json",
            f"the body is not JSON: {error.msg}",
            path=f"line {error.lineno} column {error.colno}",
        ) from None
    except RecursionError:
        raise EngineError("invalid_json", "the body is nested too deeply") from None
    if "\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise EngineError("invalid_json", "a text holds half of a surrogate pair") from None
    return value


def check(body: Any, schema_name: str) -> dict[str, Any]:
    """The body if the schema accepts it; otherwise an error with the path of the first fault
    and all faults as causes."""
    faults = sorted(_validator(schema_name).iter_errors(body), key=lambda e: list(map(str, e.absolute_path)))
    if not faults:
        assert isinstance(body, dict)
        return body
    errors = [_explain(fault) for fault in faults[:16]]
    if len(errors) == 1:
        raise errors[0]
    raise EngineError(
        "invalid_request", f"the request has {len(faults)} errors", errors[0].path, causes=tuple(errors)
    )


def _explain(fault: ValidationError) -> EngineError:
    path = _path(fault)
    wanted: Any = fault.validator_value
    rule = fault.schema if isinstance(fault.schema, dict) else {}
    if fault.validator == "additionalProperties" and isinstance(fault.instance, dict):
        known = list(rule.get("properties", {}))
        strangers = [key for key in fault.instance if key not in rule.get("properties", {})]
        name = strangers[0] if strangers else "?"
        where = f"{path}.{name[:64]}" if path else name[:64]
        reason = rule.get("x-unsupported", {}).get(name)
        if reason is not None:
            return EngineError("unsupported_field", f"{name} is not supported: {reason}", path=where)
        return EngineError(
            "unknown_field",
            f"{name[:64]!r} is not a field of this request",
            path=where,
            allowed=", ".join(known) or None,
            hint=did_you_mean(name, known),
        )
    if fault.validator == "required":
        instance: Any = fault.instance
        missing = next(key for key in wanted if key not in instance)
        where = f"{path}.{missing}" if path else missing
        return EngineError("invalid_request", f"{missing} is missing", path=where)
    allowed = rule.get("x-allowed")
    if allowed is None and fault.validator == "enum":
        allowed = ", ".join(json.dumps(choice) for choice in wanted)
    elif allowed is None and fault.validator not in ("anyOf", "oneOf", "not"):
        allowed = f"{fault.validator} {json.dumps(wanted)}"[:200]
    shown = json.dumps(fault.instance, ensure_ascii=False, default=str)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    hint = did_you_mean(fault.instance, map(str, wanted)) if fault.validator == "enum" else None
    return EngineError(
        "unsupported_field" if "x-unsupported-value" in rule else "invalid_request",
        f"{path or 'the body'}: {shown} is not accepted"
        + (f": {rule['x-unsupported-value']}" if "x-unsupported-value" in rule else ""),
        path=path or None,
        allowed=allowed,
        hint=hint,
    )


def _path(fault: ValidationError) -> str:
    text = ""
    for part in fault.absolute_path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def _depth(text: str) -> int:
    """Deepest nesting of brackets outside strings; cheap, so that the parser never recurses far."""
    deepest = level = 0
    for found in _BRACKETS.finditer(text):
        char = found[0]
        if char in "[{":
            level += 1
            deepest = max(deepest, level)
            if deepest > MAX_DEPTH:
                break
        elif char in "]}":
            level -= 1
    return deepest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise EngineError("invalid_json", f"the key {twice[:64]!r} occurs twice", path=twice[:64])
    return found


def _no_constant(name: str) -> NoReturn:
    raise EngineError("invalid_json", f"{name} is not a JSON number")


def _int(text: str) -> int:
    if len(text) > 32:
        raise EngineError("invalid_json", "a number has more than 32 digits")
    return int(text)


def _float(text: str) -> float:
    """A number; 2.0 is the integer 2, as JSON Schema has it. Plans make floats of what must be one."""
    value = float(text)
    if not math.isfinite(value):
        raise EngineError("invalid_json", f"{text[:32]} is too large for a number")
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _too_large(max_bytes: int) -> EngineError:
    return EngineError("body_too_large", "the body is too large", allowed=f"at most {max_bytes} bytes")
