"""JSON Schema as requests are checked by it: the first faults only, in work linear in the request.

``jsonschema`` looks at every item of a list that is too long already, collects all faults of
all branches of an ``anyOf``, and walks a million integers one descent each. The keywords below
say the same and stop where nothing further can be learned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import jsonschema
from jsonschema.exceptions import ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend

#: Faults of a request that are told; looking for more would only serve who means harm.
MAX_FAULTS = 16

Faults = Iterator[ValidationError]


def faults(validator: Any, value: Any) -> list[ValidationError]:
    """The first faults of ``value``, at most ``MAX_FAULTS`` and one (which says that there are more)."""
    return list(islice(validator.iter_errors(value), MAX_FAULTS + 1))


def _items(validator: Any, rule: Mapping[str, Any], value: Any, schema: Mapping[str, Any]) -> Faults:
    if not isinstance(value, list) or len(value) > schema.get("maxItems", len(value)):
        return
    for index in _unfit(rule, value):
        yield from validator.descend(value[index], rule, path=index)


def _unfit(rule: Mapping[str, Any], value: list[Any]) -> Iterator[int]:
    """The places that need a closer look: of plain integers within bounds, none."""
    if rule.get("type") != "integer" or not rule.keys() <= {"type", "minimum", "maximum", "description"}:
        yield from range(len(value))
        return
    low, high = rule.get("minimum", float("-inf")), rule.get("maximum", float("inf"))
    if set(map(type, value)) == {int} and low <= min(value) and max(value) <= high:
        return
    for index, item in enumerate(value):
        if type(item) is not int or not low <= item <= high:
            yield index


def _any_of(validator: Any, rules: list[Any], value: Any, schema: Mapping[str, Any]) -> Faults:
    if not any(validator.evolve(schema=rule).is_valid(value) for rule in rules):
        yield ValidationError("fits none of what is allowed")


def _too_many(value: dict[str, Any], schema: Mapping[str, Any]) -> bool:
    most: int = schema.get("maxProperties", len(value))
    return len(value) > most


def _property_names(validator: Any, rule: Any, value: Any, schema: Mapping[str, Any]) -> Faults:
    if isinstance(value, dict) and not _too_many(value, schema):
        for name in value:
            yield from validator.descend(name, rule)


def _additional(validator: Any, rule: Any, value: Any, schema: Mapping[str, Any]) -> Faults:
    if not isinstance(value, dict) or _too_many(value, schema):
        return
    known = schema.get("properties", {})
    for name in value:
        if name in known:
            continue
        if rule is False:
            yield ValidationError("is not a field", instance=name)  # of the object at its path
        else:
            yield from validator.descend(value[name], rule, path=name)


def _required(validator: Any, names: list[str], value: Any, schema: Mapping[str, Any]) -> Faults:
    if isinstance(value, dict):
        for name in names:
            if name not in value:
                yield ValidationError("is missing", instance=name)


def _type(validator: Any, types: Any, value: Any, schema: Mapping[str, Any]) -> Faults:
    wanted = [types] if isinstance(types, str) else types
    if not any(validator.is_type(value, kind) for kind in wanted):
        yield ValidationError("has another type")


def _enum(validator: Any, choices: list[Any], value: Any, schema: Mapping[str, Any]) -> Faults:
    # True == 1 in Python, and not in JSON.
    if not any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in choices):
        yield ValidationError("is no choice")


def _at_most(kind: type[str | list[Any] | dict[str, Any]]) -> Any:
    def check(validator: Any, most: int, value: Any, schema: Mapping[str, Any]) -> Faults:
        if isinstance(value, kind) and len(value) > most:
            yield ValidationError("is too long")

    return check


#: Draft 2020-12 without messages that quote the whole value.
RULES: type[Validator] = extend(  # type: ignore[no-untyped-call]
    jsonschema.Draft202012Validator,
    {
        "items": _items,
        "anyOf": _any_of,
        "propertyNames": _property_names,
        "additionalProperties": _additional,
        "required": _required,
        "type": _type,
        "enum": _enum,
        "maxLength": _at_most(str),
        "maxItems": _at_most(list),
        "maxProperties": _at_most(dict),
    },
)
