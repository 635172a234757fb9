"""The fields of a resolved plan: path, type, bounds, and the check of one value."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from runtime.bundle.spelling import did_you_mean
from runtime.errors import EXIT_PLAN, EngineError

Kind = Literal["integer", "number", "string", "boolean", "overrides", "texts"]

RECIPES = (
    *("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q4_0", "iq4_nl"),
    *("q3_k_l", "q3_k_m", "q3_k_s", "q2_k", "source"),
)
KV_TYPES = ("f32", "f16", "q8_0")
PREFIX_CACHES = ("off", "memory", "disk")
SPECULATIONS = ("none", "lookup")
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
BACKEND_PATTERN = r"^[a-z][a-z0-9_]{0,47}$"
#: Which policies there are is the scheduler's to say, with those that others register.
POLICY_PATTERN = BACKEND_PATTERN
TENSORS_PATTERN = r"^[A-Za-z0-9_.*?-]{1,128}$"
#: Which formats there are is the compiler's to say.
TYPE_PATTERN = r"^[a-z][a-z0-9_]{0,31}$"
DIGEST_PATTERN = r"^[0-9a-f]{64}$"
MAX_OVERRIDES = 256
MAX_TEXTS = 64

_KIND_WORDS = {
    "integer": "an integer",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "overrides": "a list of {tensors, type}",
    "texts": "a list of texts",
}


@dataclass(frozen=True)
class Field:
    """One value of a plan. ``low`` and ``high`` are inclusive unless ``above`` makes low exclusive.
    ``word`` is a text that is accepted beside what ``kind`` says."""

    path: str
    kind: Kind
    low: float | None = None
    high: float | None = None
    above: bool = False
    choices: tuple[str, ...] = ()
    pattern: str | None = None
    nullable: bool = False
    word: str | None = None

    @property
    def allowed(self) -> str:
        """What is accepted, in words."""
        if self.choices:
            text = ", ".join(self.choices)
        elif self.kind in ("integer", "number"):
            low = f"above {self.low}, up" if self.above else f"from {self.low}"
            text = f"{_KIND_WORDS[self.kind]} {low} to {self.high}"
        else:
            text = _KIND_WORDS[self.kind]
            text += f" that matches {self.pattern}" if self.pattern is not None else ""
        text += f", or {self.word}" if self.word is not None else ""
        return f"{text}, or null" if self.nullable else text


FIELDS: tuple[Field, ...] = (
    Field("version", "integer", 1, 1),
    Field("name", "string", pattern=NAME_PATTERN),
    Field("model", "string", high=255),
    Field("model_digest", "string", pattern=DIGEST_PATTERN),
    Field("backend", "string", pattern=BACKEND_PATTERN),
    Field("quantization.recipe", "string", choices=RECIPES),
    Field("quantization.overrides", "overrides"),
    Field("quantization.requantize", "boolean"),
    Field("quantization.imatrix", "string", pattern=DIGEST_PATTERN, nullable=True),
    Field("scheduler_policy", "string", pattern=POLICY_PATTERN),
    Field("limits.max_tokens", "integer", 1, 16_777_216),
    Field("limits.min_tokens", "integer", 0, 16_777_216),
    Field("limits.max_seconds", "number", 0, 604_800, above=True, nullable=True),
    Field("limits.max_watts", "number", 0, 100_000, above=True, nullable=True),
    Field("limits.max_watts_advisory", "boolean"),
    Field("limits.max_joules", "number", 0, 1_000_000_000, above=True, nullable=True),
    Field("limits.on_limit", "string", choices=("stop", "pace")),
    Field("execution.threads", "integer", 1, 1024),
    Field("execution.context", "integer", 1, 16_777_216),
    Field("execution.slots", "integer", 1, 1024),
    Field("execution.step_tokens", "integer", 1, 65_536),
    Field("execution.kv_cache", "string", choices=KV_TYPES),
    Field("execution.kv_pages", "integer", 1, 16_777_216, nullable=True),
    Field("execution.prefix_cache", "string", choices=PREFIX_CACHES),
    Field("execution.prefix_cache_mb", "integer", 1, 16_777_216),
    Field("speculation.kind", "string", choices=SPECULATIONS),
    Field("speculation.tokens", "integer", 1, 64),
    Field("sampling.temperature", "number", 0, 100),
    Field("sampling.top_k", "integer", 0, 16_777_216),
    Field("sampling.top_p", "number", 0, 1, above=True),
    Field("sampling.min_p", "number", 0, 1),
    Field("sampling.typical_p", "number", 0, 1, above=True),
    Field("sampling.repetition_penalty", "number", 0, 100, above=True),
    Field("sampling.presence_penalty", "number", -100, 100),
    Field("sampling.frequency_penalty", "number", -100, 100),
    Field("sampling.dry_multiplier", "number", 0, 100),
    Field("sampling.dry_base", "number", 1, 100),
    Field("sampling.dry_allowed_length", "integer", 1, 1024),
    Field("sampling.dry_penalty_last_n", "integer", -1, 16_777_216),
    Field("sampling.dry_sequence_breakers", "texts"),
    Field("sampling.xtc_probability", "number", 0, 1),
    Field("sampling.xtc_threshold", "number", 0, 1),
    Field("sampling.seed", "integer", 0, 2**63 - 1, word="random"),
    Field("observability.op_timing", "boolean"),
)

BY_PATH: dict[str, Field] = {field.path: field for field in FIELDS}


def plan_error(
    code: str, path: str | None, message: str, allowed: str | None = None, hint: str | None = None
) -> EngineError:
    """An error of the plan at a path in it."""
    return EngineError(code, message, path=path, allowed=allowed, hint=hint, exit_code=EXIT_PLAN)


def shown(value: object) -> str:
    """A value as an error quotes it: JSON, shortened."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def check_value(path: str, value: Any) -> EngineError | None:
    """The fault of one value of a resolved plan, or None where it is fine."""
    field = BY_PATH[path]
    if (value is None and field.nullable) or (isinstance(value, str) and value == field.word):
        return None
    if not _has_type(field, value):
        return plan_error(
            "wrong_type", path, f"{shown(value)} is not {_KIND_WORDS[field.kind]}", field.allowed
        )
    if field.choices and value not in field.choices:
        hint = did_you_mean(value, field.choices)
        return plan_error("not_allowed", path, f"{shown(value)} is not a choice", field.allowed, hint)
    if field.kind in ("integer", "number"):
        low = -math.inf if field.low is None else field.low
        high = math.inf if field.high is None else field.high
        if not (value > low if field.above else value >= low) or value > high:
            return plan_error("out_of_range", path, f"{shown(value)} is out of range", field.allowed)
    elif field.kind == "string":
        if field.pattern is not None and re.fullmatch(field.pattern.strip("^$"), value) is None:
            return plan_error("not_allowed", path, f"{shown(value)} is not accepted", field.allowed)
        if field.high is not None and not 1 <= len(value) <= field.high:
            allowed = f"1 to {field.high} characters"
            return plan_error("out_of_range", path, f"{shown(value)} is empty or too long", allowed)
    elif field.kind == "overrides":
        return _check_overrides(path, value)
    elif field.kind == "texts":
        return _check_texts(path, value)
    return None


def _check_texts(path: str, value: list[Any] | tuple[Any, ...]) -> EngineError | None:
    allowed = f"at most {MAX_TEXTS} texts of 1 to {MAX_TEXTS} characters"
    if len(value) > MAX_TEXTS:
        return plan_error("out_of_range", path, f"{len(value)} texts are too many", allowed)
    for index, item in enumerate(value):
        if not isinstance(item, str) or not 1 <= len(item) <= MAX_TEXTS:
            return plan_error("not_allowed", f"{path}[{index}]", f"{shown(item)} is not accepted", allowed)
    return None


def _check_overrides(path: str, value: list[Any]) -> EngineError | None:
    if len(value) > MAX_OVERRIDES:
        return plan_error(
            "out_of_range", path, f"{len(value)} overrides are too many", f"at most {MAX_OVERRIDES}"
        )
    for index, item in enumerate(value):
        fine = (
            isinstance(item, dict)
            and set(item) == {"tensors", "type"}
            and isinstance(item["tensors"], str)
            and re.fullmatch(TENSORS_PATTERN.strip("^$"), item["tensors"]) is not None
            and isinstance(item["type"], str)
            and re.fullmatch(TYPE_PATTERN.strip("^$"), item["type"]) is not None
        )
        if not fine:
            allowed = "{tensors: pattern, type: a format}"
            return plan_error("not_allowed", f"{path}[{index}]", f"{shown(item)} is not an override", allowed)
    return None


def _has_type(field: Field, value: Any) -> bool:
    if field.kind == "boolean":
        return isinstance(value, bool)
    if field.kind == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    if field.kind == "number":
        return (isinstance(value, int) and not isinstance(value, bool)) or (
            isinstance(value, float) and math.isfinite(value)
        )
    if field.kind == "texts":
        return isinstance(value, list | tuple)
    return isinstance(value, list if field.kind == "overrides" else str)
