"""The resolved Execution Plan: every decision, and where each came from.

A bundle's ``plan.json`` is one of these. ``FIELDS`` is the one list of what a plan
decides; ``plans/plan.schema.json`` says the same to editors and agents, and a test
holds the two together.

The digest is the SHA-256 of the canonical JSON (sorted keys, no blanks, UTF-8) of
all values except ``name`` and ``model``, which are labels: the model counts by the
digest of its content, and where a value came from does not count. So two plans that
resolve alike have one digest, whatever their files, models' paths or origins.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Literal, Protocol, get_args

from runtime.bundle.planfields import BY_PATH, FIELDS, check_value, plan_error
from runtime.bundle.spelling import did_you_mean
from runtime.errors import EXIT_BUNDLE, EngineError

Origin = Literal["plan", "default", "model", "probe", "override", "drawn"]
ORIGINS: tuple[Origin, ...] = get_args(Origin)

#: Seeds are drawn below this: every reader of JSON keeps such a number whole.
MAX_DRAWN_SEED = 2**53
#: Contexts longer than this must be asked for: their KV cache costs memory.
DEFAULT_CONTEXT = 4096
#: Positions of a page of the KV cache (``ENGINE_PAGE`` of the C ABI).
PAGE = 256

#: Fields that name things and decide nothing; they stay out of the digest.
LABELS = frozenset({"name", "model"})


@dataclass(frozen=True)
class TypeOverride:
    """Tensors whose name matches the pattern ``tensors`` (``*`` and ``?``) take ``type``."""

    tensors: str
    type: str


@dataclass(frozen=True)
class Quantization:
    """``recipe`` with the overrides that the plan declares, first match wins.

    ``imatrix`` is the SHA-256 of the importance matrix's file, or None.
    """

    recipe: str
    overrides: tuple[TypeOverride, ...] = ()
    requantize: bool = False
    imatrix: str | None = None


@dataclass(frozen=True)
class Limits:
    """Tokens, seconds, watts, joules; None where the plan sets none."""

    max_tokens: int
    min_tokens: int
    max_seconds: float | None
    max_watts: float | None
    max_watts_advisory: bool
    max_joules: float | None
    on_limit: str


@dataclass(frozen=True)
class Execution:
    """``context`` is in tokens a sequence, ``step_tokens`` in tokens a step; ``kv_pages`` in pages of 256
    positions, None for what every slot takes with a full context."""

    threads: int
    context: int
    slots: int
    step_tokens: int
    kv_cache: str
    kv_pages: int | None
    prefix_cache: str
    prefix_cache_mb: int


@dataclass(frozen=True)
class Speculation:
    """``kind``: where drafts come from; ``tokens``: most that a step may verify for one sequence."""

    kind: str
    tokens: int


@dataclass(frozen=True)
class Sampling:
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_penalty_last_n: int
    dry_sequence_breakers: tuple[str, ...]
    xtc_probability: float
    xtc_threshold: float
    #: ``random`` in a plan that is declared so; a number in the plan of a run.
    seed: int | Literal["random"]


@dataclass(frozen=True)
class Observability:
    op_timing: bool


_GROUPS: dict[str, type] = {
    "quantization": Quantization,
    "limits": Limits,
    "execution": Execution,
    "speculation": Speculation,
    "sampling": Sampling,
    "observability": Observability,
}


class TensorDecision(Protocol):
    """Which type one tensor takes, from which, and why."""

    @property
    def name(self) -> str: ...
    @property
    def source_type(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def reason(self) -> str: ...


_DECISION = ("name", "source_type", "type", "reason")


@dataclass(frozen=True)
class ResolvedPlan:
    """A plan with nothing left open. ``origins`` maps each path of ``FIELDS`` to its origin."""

    version: int
    name: str
    model: str
    model_digest: str
    backend: str
    quantization: Quantization
    scheduler_policy: str
    limits: Limits
    execution: Execution
    speculation: Speculation
    sampling: Sampling
    observability: Observability
    origins: Mapping[str, Origin]

    @classmethod
    def from_values(cls, values: Mapping[str, Any], origins: Mapping[str, Origin]) -> ResolvedPlan:
        """Builds a plan from values by path; raises ``invalid_plan`` with every fault found."""
        faults = [plan_error("missing_field", path, "is missing") for path in BY_PATH if path not in values]
        faults += [_unknown(path) for path in values if path not in BY_PATH]
        for path in BY_PATH:
            if path in values and (fault := check_value(path, values[path])) is not None:
                faults.append(fault)
            if origins.get(path) not in ORIGINS:
                faults.append(plan_error("missing_field", path, "has no origin", allowed=", ".join(ORIGINS)))
        if faults:
            raise _report(faults)
        normal = {path: _normal(path, value) for path, value in values.items()}
        groups: dict[str, Any] = {}
        for group, kind in _GROUPS.items():
            groups[group] = kind(**{f.name: normal[f"{group}.{f.name}"] for f in fields(kind)})
        top = {path: value for path, value in normal.items() if "." not in path}
        frozen = MappingProxyType({path: origins[path] for path in BY_PATH})
        return cls(**top, **groups, origins=frozen)

    def values(self) -> dict[str, Any]:
        """Every value by its path in the plan, in the order of ``FIELDS``, as JSON types."""
        result: dict[str, Any] = {}
        for field in FIELDS:
            group, _, leaf = field.path.rpartition(".")
            value = getattr(getattr(self, group) if group else self, leaf)
            if field.path == "quantization.overrides":
                value = [{"tensors": item.tensors, "type": item.type} for item in value]
            result[field.path] = list(value) if field.kind == "texts" else value
        return result

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of what was decided; see the module's text for what counts."""
        decided = {path: value for path, value in self.values().items() if path not in LABELS}
        return hashlib.sha256(canonical_json(decided)).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """``plan.json`` as an object: ``digest`` and, by path, ``value`` and ``origin``."""
        return {
            "digest": self.digest,
            "fields": {
                path: {"value": value, "origin": self.origins[path]} for path, value in self.values().items()
            },
        }

    def to_bytes(self, tensors: Iterable[TensorDecision] = ()) -> bytes:
        """``plan.json`` as bytes: canonical JSON and a newline.

        ``tensors`` are written down beside the fields for whoever reads the file: they
        follow from the quantization and the model, so neither digest nor plan need them.
        """
        body = self.to_json()
        if decided := [{name: getattr(item, name) for name in _DECISION} for item in tensors]:
            body["tensors"] = decided
        return canonical_json(body) + b"\n"

    @classmethod
    def from_json(cls, body: object) -> ResolvedPlan:
        """The inverse of :meth:`to_json`; raises ``bad_bundle_plan`` unless all of it holds."""
        if not isinstance(body, dict) or set(body) - {"tensors"} != {"digest", "fields"}:
            raise _damaged("it is not an object with 'digest' and 'fields'")
        entries = body["fields"]
        if not isinstance(entries, dict) or not all(
            isinstance(entry, dict) and set(entry) == {"value", "origin"} for entry in entries.values()
        ):
            raise _damaged("'fields' does not give a value and an origin for each path")
        try:
            plan = cls.from_values(
                {path: entry["value"] for path, entry in entries.items()},
                {path: entry["origin"] for path, entry in entries.items()},
            )
        except EngineError as error:
            raise _damaged("its values are not a plan's", error.causes) from error
        if plan.digest != body["digest"]:
            raise _damaged(f"its digest is {plan.digest}, not {body['digest']}")
        return plan

    @classmethod
    def from_bytes(cls, data: bytes) -> ResolvedPlan:
        """Reads ``plan.json``; raises ``bad_bundle_plan``."""
        try:
            body = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise _damaged(f"it is not JSON: {error}") from error
        return cls.from_json(body)

    def with_overrides(
        self,
        limits: Mapping[str, Any] | None = None,
        sampling: Mapping[str, Any] | None = None,
        threads: int | None = None,
        *,
        has_energy_meter: bool | None = None,
        **fixed: Any,
    ) -> ResolvedPlan:
        """A new plan in which a run's own wishes replace the plan's, with origin ``override``.

        Anything in ``fixed`` names what needs other code or memory and is refused
        (``not_overridable``). ``has_energy_meter`` says whether ``max_watts`` can be
        measured here; None leaves that unchecked. All faults are reported together.
        A seed that is declared ``random`` is drawn here, with origin ``drawn``.
        """
        wishes: dict[str, Any] = {}
        for group, given in (("limits", limits), ("sampling", sampling)):
            if given is not None and not isinstance(given, Mapping):
                raise _report([plan_error("wrong_type", group, "is not an object", allowed="an object")])
            wishes.update({f"{group}.{key}": value for key, value in (given or {}).items()})
        if threads is not None:
            wishes["execution.threads"] = threads
        faults = [_not_overridable(path) for path in fixed]
        for path, value in wishes.items():
            fault = check_value(path, value) if path in BY_PATH else _unknown(path)
            faults += [fault] if fault is not None else []
        if not faults:
            values = {**self.values(), **wishes}
            origins: dict[str, Origin] = {**self.origins, **dict.fromkeys(wishes, "override")}
            if values["sampling.seed"] == "random":
                values["sampling.seed"] = secrets.randbelow(MAX_DRAWN_SEED)
                origins["sampling.seed"] = "drawn"
            changed = ResolvedPlan.from_values(values, origins)
            faults = check_together(changed.values(), has_energy_meter, origins.get("execution.context"))
        if faults:
            raise _report(faults)
        return changed

    def renamed(self, name: str) -> ResolvedPlan:
        """The same decisions under another name (same digest)."""
        if (fault := check_value("name", name)) is not None:
            raise _report([fault])
        return replace(self, name=name)


def canonical_json(value: object) -> bytes:
    """Sorted keys, no blanks, UTF-8, no NaN: one value, one sequence of bytes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def check_together(
    values: Mapping[str, Any], has_energy_meter: bool | None, context_origin: Origin | None = None
) -> list[EngineError]:
    """Rules between the values of one plan; paths that are absent are not judged.

    ``has_energy_meter`` is the machine's, or None where no machine is in question; ``context_origin``
    says who decided ``execution.context``: what the model decides, the plan is not blamed for.
    """
    faults = []
    watts = values.get("limits.max_watts")
    if values.get("limits.on_limit") == "pace" and watts is None:
        faults.append(
            plan_error(
                "conflicting_fields",
                "limits.on_limit",
                "'pace' needs something to pace by, and there is no limits.max_watts",
                hint="set limits.max_watts, or on_limit: stop",
            )
        )
    if watts is not None and has_energy_meter is False and not values.get("limits.max_watts_advisory"):
        faults.append(
            plan_error(
                "no_energy_meter",
                "limits.max_watts",
                f"{watts:g} W cannot be kept: this machine offers no energy meter",
                allowed="null",
                hint="remove it, or set limits.max_watts_advisory: true to record it without keeping it; "
                "`engine doctor` says what the meter lacks",
            )
        )
    return faults + _token_faults(values, context_origin) + _page_faults(values)


def _page_faults(values: Mapping[str, Any]) -> list[EngineError]:
    """Too few pages for a single sequence of a full context."""
    pages, context = values.get("execution.kv_pages"), values.get("execution.context")
    if pages is None or context is None or pages * PAGE >= context:
        return []
    return [
        plan_error(
            "conflicting_fields",
            "execution.kv_pages",
            f"{pages} pages of {PAGE} positions hold less than one context of {context}",
            allowed=f"{-(-context // PAGE)} or more",
            hint="more pages, or a shorter execution.context",
        )
    ]


def _token_faults(values: Mapping[str, Any], context_origin: Origin | None) -> list[EngineError]:
    """Rules between the numbers of tokens of one plan."""
    faults = []
    tokens, context = values.get("limits.max_tokens"), values.get("execution.context")
    if tokens is not None and context is not None and tokens > context:
        models = context_origin == "model" and context < DEFAULT_CONTEXT
        faults.append(
            plan_error(
                "conflicting_fields",
                "limits.max_tokens",
                f"{tokens} is more than the {context} tokens "
                + ("that the model was trained for" if models else "of execution.context"),
                allowed=f"1 to {context}",
                hint=f"{'' if models else 'raise execution.context or '}lower limits.max_tokens",
            )
        )
    least = values.get("limits.min_tokens")
    if least is not None and tokens is not None and least > tokens:
        faults.append(
            plan_error(
                "conflicting_fields",
                "limits.min_tokens",
                f"{least} is more than the {tokens} of limits.max_tokens",
                allowed=f"0 to {tokens}",
            )
        )
    return faults


def _normal(path: str, value: Any) -> Any:
    if path == "quantization.overrides":
        return tuple(TypeOverride(item["tensors"], item["type"]) for item in value)
    if BY_PATH[path].kind == "texts":
        return tuple(value)
    if BY_PATH[path].kind == "number" and value is not None:
        return float(value)  # 1 and 1.0 are one decision and must have one digest
    return value


def _unknown(path: str) -> EngineError:
    group = path.rpartition(".")[0]
    siblings = [known for known in BY_PATH if known.rpartition(".")[0] == group]
    names = [known.rpartition(".")[2] for known in siblings]
    return plan_error(
        "unknown_field",
        path,
        "is not a field of a plan",
        allowed=", ".join(names) or None,
        hint=did_you_mean(path.rpartition(".")[2], names),
    )


def _not_overridable(path: str) -> EngineError:
    return plan_error(
        "not_overridable",
        path,
        "cannot be changed for one run: it needs other code or memory",
        allowed="limits, sampling, threads",
        hint="make a plan that says so and compile it",
    )


def _report(faults: list[EngineError]) -> EngineError:
    """One ``invalid_plan`` error that carries all the faults."""
    error = plan_error("invalid_plan", None, f"the plan has {len(faults)} error{'s' * (len(faults) != 1)}")
    error.causes = tuple(faults)
    return error


def _damaged(reason: str, causes: tuple[EngineError, ...] = ()) -> EngineError:
    return EngineError(
        "bad_bundle_plan",
        f"the bundle's plan.json cannot be used: {reason}",
        path="plan.json",
        hint="compile the plan again",
        exit_code=EXIT_BUNDLE,
        causes=causes,
    )
