"""Comparing executions by the requirements' rules (section 4.7).

Two executions are comparable if model, plan, backend, hardware and engine version
are the same; otherwise :func:`compare_runs` refuses and names what differs. Of
several repetitions a side the medians are compared, and a difference counts only
if it is beyond the tolerance *and* beyond the spread of the repetitions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from runtime.errors import EXIT_USAGE, EngineError
from runtime.metrics.tolerances import OP_TIME, TOLERANCES, Tolerance

#: What makes the unit of execution, and where a record says it.
IDENTITY = {
    "model": ("model.digest",),
    "plan": ("plan_digest",),
    "backend": ("backend",),
    "hardware": (
        "hardware.cpu_model",
        "hardware.cpus",
        "hardware.physical_cores",
        "hardware.cpu_quota",
        "hardware.features_digest",
        "hardware.memory_gib",
    ),
    "engine_version": ("engine_version", "bundle.builder"),
}

#: Not part of the unit of execution, but a reason to look twice.
CONDITIONS = {
    "the prompts differ": "prompt_ids_sha256",
    "the bundles were built by different compilers": "compiler",
    "the CPU governors differ": "hardware.governor",
    "the kernel's power limits differ": "hardware.power_limits",
    "the energy sources differ": "diagnostics.energy.source",
    "the results differ": "logits_digest",
}


@dataclass(frozen=True)
class MetricComparison:
    """One metric of both sides, as medians.

    ``spread_*``: (largest - least) / median of a side's repetitions, None of a single one.
    ``change``: (b - a) / a, None where a is 0. ``tolerance``: the accepted share of a.
    ``verdict``: ``same`` (within the tolerance), ``better``, ``worse``, ``unclear`` (beyond the
    tolerance, within the spread), ``different`` (beyond it, and neither direction is better),
    ``unknown`` (a value is missing).
    """

    a: float | None
    b: float | None
    spread_a: float | None
    spread_b: float | None
    change: float | None
    tolerance: float
    verdict: str

    def to_json(self) -> dict[str, object]:
        return dict(self.__dict__)


@dataclass(frozen=True)
class RunComparison:
    """Two comparable sides, metric by metric; ``notes`` are conditions that differ."""

    a: tuple[str, ...]
    b: tuple[str, ...]
    metrics: Mapping[str, MetricComparison]
    notes: tuple[str, ...]

    @property
    def within_tolerance(self) -> bool | None:
        """Whether every metric that the requirements give a tolerance keeps it; None if one is unknown."""
        judged = [self.metrics[name].verdict for name, given in TOLERANCES.items() if given.required]
        if any(verdict in ("better", "worse") for verdict in judged):
            return False
        return None if "unknown" in judged else True

    def to_json(self) -> dict[str, object]:
        return {
            "comparable": True,
            "a": list(self.a),
            "b": list(self.b),
            "within_tolerance": self.within_tolerance,
            "metrics": {name: metric.to_json() for name, metric in self.metrics.items()},
            "notes": list(self.notes),
        }


def lookup(record: Mapping[str, Any], path: str) -> Any:
    """A value of a record by its dotted path, None where it is missing."""
    value: Any = record
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[EngineError]:
    """What keeps two records from being comparable, one ``differs`` a field; empty if nothing does."""
    found = []
    for part, paths in IDENTITY.items():
        for path in paths:
            left, right = lookup(a, path), lookup(b, path)
            if left != right or (left is None and part != "hardware"):
                found.append(
                    EngineError("differs", f"{left!r} and {right!r}", path=path, allowed=f"the same {part}")
                )
    return found


def compare_runs(
    a: Mapping[str, Any] | Sequence[Mapping[str, Any]], b: Mapping[str, Any] | Sequence[Mapping[str, Any]]
) -> RunComparison:
    """Compares a record, or the repetitions of one, with others.

    Raises ``not_comparable`` with a cause for each field that differs, between the
    sides or among the repetitions of one, and for an execution that failed.
    """
    sides = [[side] if isinstance(side, Mapping) else list(side) for side in (a, b)]
    if not all(sides):
        raise EngineError("not_comparable", "there is nothing on one side", exit_code=EXIT_USAGE)
    records = [*sides[0], *sides[1]]
    causes = [cause for record in records[1:] for cause in differences(records[0], record)]
    causes += _failures(records)
    if causes:
        raise EngineError(
            "not_comparable",
            "the executions are not comparable",
            path=", ".join(dict.fromkeys(cause.path or "" for cause in causes)),
            allowed="same model, plan, backend, hardware and engine version",
            exit_code=EXIT_USAGE,
            causes=tuple({(cause.path, cause.message): cause for cause in causes}.values()),
        )
    notes = [
        note
        for note, path in CONDITIONS.items()
        if any(lookup(r, path) != lookup(records[0], path) for r in records)
    ]
    return RunComparison(
        a=tuple(str(r["execution_id"]) for r in sides[0]),
        b=tuple(str(r["execution_id"]) for r in sides[1]),
        metrics={
            name: _compare(tolerance, *(_values(side, name) for side in sides))
            for name, tolerance in {**TOLERANCES, **_op_times(records)}.items()
        },
        notes=tuple(notes),
    )


def _failures(records: Sequence[Mapping[str, Any]]) -> Iterator[EngineError]:
    for record in records:
        if record.get("stop_reason") in ("error", "cancelled"):
            yield EngineError(
                "not_finished",
                f"{record.get('execution_id')} ended with {record.get('stop_reason')}",
                path="stop_reason",
                allowed="executions that ran to an end of their own",
            )


def _values(side: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """The metric of every repetition; empty if one of them does not know it."""
    values = [lookup(record, f"metrics.{name}") for record in side]
    return [] if any(not isinstance(value, (int, float)) for value in values) else [float(v) for v in values]


def _spread(values: Sequence[float]) -> float | None:
    middle = median(values)
    return (max(values) - min(values)) / abs(middle) if len(values) > 1 and middle else None


def _op_times(records: Sequence[Mapping[str, Any]]) -> dict[str, Tolerance]:
    """Each entry of ``op_time_ms`` that any of the records has, by its path among the metrics."""
    ops = {op for record in records for op in lookup(record, "metrics.op_time_ms") or ()}
    return {f"op_time_ms.{op}": OP_TIME for op in sorted(ops)}


def _compare(tolerance: Tolerance, a: Sequence[float], b: Sequence[float]) -> MetricComparison:
    middle_a, middle_b = (median(values) if values else None for values in (a, b))
    spread_a, spread_b = (_spread(values) if values else None for values in (a, b))
    change = None
    if middle_a is None or middle_b is None:
        verdict = "unknown"
    else:
        change = (middle_b - middle_a) / middle_a if middle_a else None
        if tolerance.accepts(middle_a, middle_b):
            verdict = "same"
        elif change is not None and abs(change) <= max(spread_a or 0.0, spread_b or 0.0):
            verdict = "unclear"
        elif tolerance.more_is_better is None:
            verdict = "different"
        else:
            verdict = "better" if (middle_b > middle_a) == tolerance.more_is_better else "worse"
    return MetricComparison(middle_a, middle_b, spread_a, spread_b, change, tolerance.relative, verdict)
