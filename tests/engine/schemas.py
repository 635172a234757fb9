"""JSON Schemas made at random from the keywords that constraints know."""

from __future__ import annotations

import random
from typing import Any


def random_schema(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """A schema that at least one value satisfies."""
    kinds = [_string, _number, _integer, _enum, _boolean, _const]
    if depth < 3:
        kinds += [_object, _object, _array, _any_of, _tuple]
    return rng.choice(kinds)(rng, depth)


def _string(rng: random.Random, depth: int) -> dict[str, Any]:
    return {
        "type": "string",
        **rng.choice(
            [
                {"maxLength": rng.randint(1, 6)},
                {"minLength": 1, "maxLength": 4},
                {"pattern": "^[a-c]{2,4}$"},
                {"format": rng.choice(["date", "uuid", "ipv4", "time"])},
            ]
        ),
    }


def _number(rng: random.Random, depth: int) -> dict[str, Any]:
    low = rng.randint(-50, 50)
    bounds = rng.choice([{"minimum": low, "maximum": low + 9}, {"exclusiveMinimum": low, "maximum": low + 3}])
    return {"type": "number", **bounds}


def _integer(rng: random.Random, depth: int) -> dict[str, Any]:
    low = rng.randint(-500, 500)
    extra = rng.choice([{}, {"multipleOf": rng.choice([2, 5])}])
    return {"type": "integer", "minimum": low, "maximum": low + 40, **extra}


def _enum(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"enum": rng.sample(["red", "green", 7, None, True, 'a"b', "ção", [1, 2]], rng.randint(1, 4))}


def _boolean(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"type": rng.choice(["boolean", "null", ["boolean", "null"]])}


def _const(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"const": rng.choice(["x", 3, {"k": [1]}])}


def _object(rng: random.Random, depth: int) -> dict[str, Any]:
    names = rng.sample(["a", "b", "long name", "ü", "n"], rng.randint(1, 3))
    schema = {
        "type": "object",
        "properties": {name: random_schema(rng, depth + 1) for name in names},
        "required": rng.sample(names, rng.randint(0, len(names))),
        "additionalProperties": False,
    }
    if rng.random() < 0.2:
        schema["$defs"] = {"part": random_schema(rng, 3)}
        schema["properties"][names[0]] = {"$ref": "#/$defs/part"} if depth == 0 else {"type": "null"}
        if depth:
            del schema["$defs"]
    return schema


def _array(rng: random.Random, depth: int) -> dict[str, Any]:
    return {
        "type": "array",
        "items": random_schema(rng, depth + 1),
        "minItems": rng.randint(0, 1),
        "maxItems": 2,
    }


def _tuple(rng: random.Random, depth: int) -> dict[str, Any]:
    parts = [random_schema(rng, depth + 1) for _ in range(2)]
    return {"type": "array", "prefixItems": parts, "items": False, "minItems": 2}


def _any_of(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [random_schema(rng, depth + 1) for _ in range(2)]}
