"""Values checked by the schemas of requests: faults with their places, what is allowed, a hint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from jsonschema.exceptions import ValidationError

from runtime.api.rules import MAX_FAULTS, RULES, faults
from runtime.bundle.spelling import did_you_mean
from runtime.errors import EngineError

SCHEMAS = Path(__file__).parent / "schemas"


@lru_cache(maxsize=32)
def schema(name: str) -> dict[str, Any]:
    """The JSON Schema ``schemas/<name>.json``."""
    found: dict[str, Any] = json.loads((SCHEMAS / f"{name}.json").read_text())
    return found


@lru_cache(maxsize=32)
def _validator(name: str) -> Any:
    return RULES(schema(name))


def check(body: Any, schema_name: str) -> dict[str, Any]:
    """The body if the schema accepts it; otherwise an error with the path of the first fault
    and the first ``MAX_FAULTS`` faults as causes."""
    found = faults(_validator(schema_name), body)
    if not found:
        assert isinstance(body, dict)
        return body
    shown = sorted(found[:MAX_FAULTS], key=lambda fault: list(map(str, fault.absolute_path)))
    errors = [_explain(fault) for fault in shown]
    if len(errors) == 1:
        raise errors[0]
    count = f"{len(errors)}" if len(found) <= MAX_FAULTS else f"more than {MAX_FAULTS}"
    raise EngineError(
        "invalid_request", f"the request has {count} errors", errors[0].path, causes=tuple(errors)
    )


def _explain(fault: ValidationError) -> EngineError:
    path = _path(fault)
    wanted: Any = fault.validator_value
    rule = fault.schema if isinstance(fault.schema, dict) else {}
    if fault.validator == "additionalProperties" and fault.validator_value is False:
        return _stranger(str(fault.instance), path, rule)
    if fault.validator == "required":
        return EngineError(
            "invalid_request", f"{fault.instance} is missing", path=_below(path, str(fault.instance))
        )
    allowed = rule.get("x-allowed")
    if allowed is None and fault.validator == "enum":
        allowed = ", ".join(json.dumps(choice) for choice in wanted)
    elif allowed is None and fault.validator not in ("anyOf", "oneOf", "not"):
        allowed = f"{fault.validator} {json.dumps(wanted)}"[:200]
    shown = _shown(fault.instance)
    hint = did_you_mean(fault.instance, map(str, wanted)) if fault.validator == "enum" else None
    return EngineError(
        "unsupported_field" if "x-unsupported-value" in rule else "invalid_request",
        f"{path or 'the body'}: {shown} is not accepted"
        + (f": {rule['x-unsupported-value']}" if "x-unsupported-value" in rule else ""),
        path=path or None,
        allowed=allowed,
        hint=hint,
    )


def _stranger(name: str, path: str, rule: Mapping[str, Any]) -> EngineError:
    """A field that the object at ``path`` has not."""
    properties = rule.get("properties", {})
    known = [name for name, what in properties.items() if "x-unsupported-value" not in what]
    where = _below(path, name[:64])
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


def _path(fault: ValidationError) -> str:
    text = ""
    for part in fault.absolute_path:
        text += f"[{part}]" if isinstance(part, int) else f".{part[:64]}"
    return text.removeprefix(".")


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _shown(value: object) -> str:
    """A value as an error quotes it: short, whatever its size."""
    if isinstance(value, (list, dict)) and len(value) > 16:
        return f"a list of {len(value)}" if isinstance(value, list) else f"an object of {len(value)} members"
    if isinstance(value, str):
        value = value[:61]
    text = "".join(islice(json.JSONEncoder(ensure_ascii=False, default=str).iterencode(value), 64))
    return text if len(text) <= 60 else text[:57] + "..."
