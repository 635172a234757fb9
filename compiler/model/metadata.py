"""Typed, bounded reads of a model's metadata, for the rooms that use it.

A key is looked up as given where the metadata has it (``tokenizer.ggml.bos_token_id``),
otherwise below the architecture (``attention.head_count`` → ``llama.attention.head_count``).
Each function raises ``bad_model_metadata`` naming key, value and what is allowed.
"""

from __future__ import annotations

import math

from compiler.model.description import MetadataValue, ModelDescription
from compiler.model.reader import metadata_error
from runtime.errors import EngineError


def full_key(model: ModelDescription, key: str) -> str:
    """The key under which the metadata holds ``key``, or would."""
    return key if key in model.metadata else f"{model.architecture}.{key}"


def require_int(model: ModelDescription, key: str, low: int, high: int, default: int | None = None) -> int:
    """An integer from ``low`` to ``high`` inclusive; ``default`` where the key is absent."""
    value = model.metadata.get(full_key(model, key))
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _refused(model, key, value, f"an integer from {low} to {high}")
    return value


def require_ints(
    model: ModelDescription, key: str, count: int, low: int, high: int, default: int | None = None
) -> tuple[int, ...]:
    """``count`` integers, one a layer; a single one stands for all."""
    value = model.metadata.get(full_key(model, key), default)
    values = value if isinstance(value, tuple) else (value,) * count
    fine = len(values) == count and all(
        isinstance(item, int) and not isinstance(item, bool) and low <= item <= high for item in values
    )
    if not fine:
        raise _refused(model, key, value, f"{count} integers from {low} to {high}, or one for all")
    return tuple(item for item in values if isinstance(item, int))


def require_float(
    model: ModelDescription, key: str, low: float, high: float, default: float | None = None
) -> float:
    """A finite number from ``low`` to ``high`` inclusive; integers count."""
    value = model.metadata.get(full_key(model, key))
    if value is None and default is not None:
        return default
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or not low <= value <= high
    ):
        raise _refused(model, key, value, f"a number from {low} to {high}")
    return float(value)


def require_bool(model: ModelDescription, key: str, default: bool | None = None) -> bool:
    value = model.metadata.get(full_key(model, key), default)
    if not isinstance(value, bool):
        raise _refused(model, key, value, "true or false")
    return value


def require_str(model: ModelDescription, key: str, default: str | None = None) -> str:
    value = model.metadata.get(full_key(model, key), default)
    if not isinstance(value, str):
        raise _refused(model, key, value, "text")
    return value


def require_strs(model: ModelDescription, key: str) -> tuple[str, ...]:
    """An array of strings."""
    value = model.metadata.get(full_key(model, key))
    if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
        raise _refused(model, key, value, "an array of texts")
    return tuple(item for item in value if isinstance(item, str))


def _refused(model: ModelDescription, key: str, value: MetadataValue | None, allowed: str) -> EngineError:
    return metadata_error(model.path, full_key(model, key), value, allowed)
