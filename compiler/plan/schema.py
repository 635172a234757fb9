"""Tree → checked tree: the JSON Schema, and its faults in a reader's words."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
from jsonschema.exceptions import ValidationError

import compiler
from compiler.formats import FORMATS
from runtime.bundle.planfields import plan_error, shown
from runtime.bundle.spelling import did_you_mean
from runtime.errors import EngineError

#: Where the bundled plans and the schema lie, in a checkout as in an installation.
PLANS = Path(compiler.__file__).resolve().parent.parent / "plans"


@cache
def plan_schema() -> dict[str, Any]:
    """``plans/plan.schema.json`` (JSON Schema 2020-12), with the formats that there are."""
    schema: dict[str, Any] = json.loads((PLANS / "plan.schema.json").read_text())
    override = schema["$defs"]["quantization"]["properties"]["overrides"]["items"]
    override["properties"]["type"]["enum"] = [
        name for name, format in FORMATS.items() if format.encode is not None
    ]
    return schema


@cache
def _validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(plan_schema())


def schema_faults(document: Any) -> list[EngineError]:
    """Every fault of a plan's tree, in the order of the tree; empty where it is valid."""
    faults = list(_not_finite(document, ""))  # bounds say nothing about NaN
    judged = {fault.path for fault in faults}
    for error in _validator().iter_errors(document):
        faults += [fault for fault in _explain(error) if fault.path not in judged]
    return sorted(faults, key=lambda fault: fault.path or "")


def whole_numbers(document: Any) -> Any:
    """The tree with floats that stand for an integer field (``4.0``) as integers.

    JSON Schema counts ``4.0`` as an integer; later rooms do not.
    """
    integers = {
        (group, name)
        for group, holder in plan_schema()["$defs"].items()
        for name, rule in holder.get("properties", {}).items()
        if "integer" in rule.get("type", ())
    }
    result = dict(document)
    if isinstance(result["version"], float):
        result["version"] = int(result["version"])
    for group, value in document.items():
        if isinstance(value, dict):
            result[group] = {
                name: int(leaf) if isinstance(leaf, float) and (group, name) in integers else leaf
                for name, leaf in value.items()
            }
    return result


def _not_finite(node: Any, path: str) -> Iterator[EngineError]:
    if isinstance(node, float) and not math.isfinite(node):
        yield plan_error("out_of_range", path, f"{node} is not a finite number", "a finite number")
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _not_finite(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _not_finite(value, f"{path}[{index}]")


def _explain(error: ValidationError) -> Iterator[EngineError]:
    path, rule = _path(error), error.schema
    value: Any = error.instance
    kind = error.validator
    assert isinstance(rule, dict)
    if kind == "anyOf":
        # A choice of forms: judge the value by the form it has, not by both.
        branch = 1 if isinstance(value, dict) else 0
        for cause in error.context or ():
            if cause.schema_path[0] == branch:
                yield from _explain(cause)
    elif kind == "additionalProperties":
        known = list(rule["properties"])
        for name in sorted(set(value) - set(known)):
            yield plan_error(
                "unknown_field",
                f"{path}.{name}" if path else name,
                f"{name!r} is not a field of {path or 'a plan'}",
                allowed=", ".join(known),
                hint=did_you_mean(name, known) or _elsewhere(name, path),
            )
    elif kind == "required":
        for name in rule["required"]:
            # One error comes for each missing field; report the one it is about.
            if name not in value and error.message.startswith(repr(name)):
                missing = f"{path}.{name}" if path else name
                field = _field(rule["properties"][name])
                yield plan_error("missing_field", missing, "is missing", _allowed(field), _meaning(field))
    elif kind in ("enum", "const"):
        choices = [choice for choice in rule.get("enum", [rule.get("const")]) if isinstance(choice, str)]
        yield plan_error(
            "not_allowed",
            path,
            f"{shown(value)} is not a choice",
            _allowed(rule),
            did_you_mean(value, choices),
        )
    elif kind == "type":
        yield plan_error(
            "wrong_type", path, f"{shown(value)} is not {_types(rule)}", _allowed(rule), _meaning(rule)
        )
    elif kind == "pattern":
        yield plan_error(
            "not_allowed", path, f"{shown(value)} is not accepted", _allowed(rule), _meaning(rule)
        )
    else:
        yield plan_error(
            "out_of_range", path, f"{shown(value)} is out of range", _allowed(rule), _meaning(rule)
        )


def _path(error: ValidationError) -> str:
    text = ""
    for part in error.absolute_path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".")


def _field(rule: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in rule:
        target: dict[str, Any] = plan_schema()["$defs"][rule["$ref"].rpartition("/")[2]]
        return target
    if "anyOf" in rule:
        return {**_field(rule["anyOf"][0]), "description": rule.get("description")}
    return rule


def _meaning(rule: dict[str, Any]) -> str | None:
    description = rule.get("description")
    return description if isinstance(description, str) else None


_TYPE_WORDS = {
    "integer": "an integer",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "object": "a mapping of fields",
    "array": "a list",
    "null": "null",
}


def _types(rule: dict[str, Any]) -> str:
    types = rule.get("type", [])
    return " or ".join(_TYPE_WORDS[name] for name in ([types] if isinstance(types, str) else types))


def _allowed(rule: dict[str, Any]) -> str | None:
    """What a schema's rule accepts, in words."""
    if "enum" in rule:
        return ", ".join(rule["enum"])
    if "const" in rule:
        return str(rule["const"])
    text = _types(rule)
    types = rule.get("type", [])
    if "number" in types or "integer" in types:
        low = (
            f"above {rule['exclusiveMinimum']}, up"
            if "exclusiveMinimum" in rule
            else f"from {rule['minimum']}"
        )
        numbers, _, rest = text.partition(" or ")
        rest = rule["pattern"].strip("^$") if "pattern" in rule else rest  # a word beside the numbers
        return f"{numbers} {low} to {rule['maximum']}" + (f", or {rest}" if rest else "")
    if "properties" in rule:
        return f"{text}: {', '.join(rule['properties'])}"
    if "maxItems" in rule:
        return f"{text} of at most {rule['maxItems']}"
    if "maxLength" in rule:
        return f"{text} of {rule['minLength']} to {rule['maxLength']} characters"
    return f"{text} that matches {rule['pattern']}" if "pattern" in rule else text


def _elsewhere(name: str, path: str) -> str | None:
    """Where a field that stands in the wrong place belongs."""
    places = [
        f"{group}.{name}"
        for group, rule in plan_schema()["$defs"].items()
        if name in rule.get("properties", {}) and group != path
    ]
    if path and name in plan_schema()["properties"]:
        places.append(name)
    return f"it belongs at {places[0]}" if places else None
