"""Plan + model + machine → resolved plan: every value, and where it came from.

============================  =========================================================
not declared                  resolves to (origin)
============================  =========================================================
name                          the file's name (default)
limits.max_tokens             512, or the context where that is smaller (default)
execution.context             the model's context length, at most 4096 (model)
execution.threads             physical cores that affinity and cgroup allow (probe, with a reason)
anything else                 the schema's default (default)
============================  =========================================================

``model`` becomes a label without folders or suffix, and ``model_digest`` the SHA-256
of the model's content; an importance matrix is replaced by its SHA-256. So a resolved
plan holds no path and is the same wherever its files lie.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from compiler.model.description import ModelDescription
from compiler.plan.declared import Plan
from compiler.plan.rules import declared_faults, locate_imatrix, model_faults
from compiler.plan.schema import plan_schema
from runtime.bundle.files import MOST_IMATRIX, open_regular
from runtime.bundle.machine import Machine
from runtime.bundle.plan import DEFAULT_CONTEXT, Origin, ResolvedPlan, check_together
from runtime.bundle.planfields import BY_PATH, plan_error
from runtime.errors import EXIT_PLAN, EngineError


def resolve(plan: Plan, model: ModelDescription, machine: Machine) -> ResolvedPlan:
    """Resolves every field; raises ``invalid_plan`` with all faults as causes."""
    faults = declared_faults(plan.values, machine) + model_faults(plan, model)
    values, origins = resolve_values(plan, model, machine, faults)
    # The same faults may show once more between resolved values; report each path once.
    known = {(fault.code, fault.path) for fault in faults}
    late = check_together(values, machine.has_energy_meter, origins["execution.context"])
    faults += [fault for fault in late if (fault.code, fault.path) not in known]
    if faults:
        raise invalid_plan(plan.source, faults)
    return ResolvedPlan.from_values(values, origins)


def resolve_values(
    plan: Plan, model: ModelDescription | None, machine: Machine, faults: list[EngineError]
) -> tuple[dict[str, Any], dict[str, Origin]]:
    """Values and origins by path, before they are checked; what cannot be had goes to ``faults``.

    Without a model, what the model decides is absent.
    """
    values: dict[str, Any] = {**schema_defaults(), **plan.values}
    origins: dict[str, Origin] = {path: "plan" if path in plan.values else "default" for path in BY_PATH}
    values["name"] = plan.name
    values["model"] = plan.model_label
    if "execution.threads" not in plan.values:
        values["execution.threads"], origins["execution.threads"] = machine.threads, "probe"
    if model is not None:
        values["model_digest"], origins["model_digest"] = model.digest, "model"
        if "execution.context" not in plan.values:
            values["execution.context"], origins["execution.context"] = _model_context(model, faults), "model"
    if "limits.max_tokens" not in plan.values and "execution.context" in values:
        values["limits.max_tokens"] = min(values["limits.max_tokens"], values["execution.context"])
    values["quantization.imatrix"] = _imatrix_digest(plan, faults)
    return values, origins


def _model_context(model: ModelDescription, faults: list[EngineError]) -> int:
    trained = model.get("context_length")
    if isinstance(trained, int) and not isinstance(trained, bool) and trained >= 1:
        return min(trained, DEFAULT_CONTEXT)
    faults.append(
        plan_error(
            "missing_field",
            "execution.context",
            "is missing, and the model does not say its context length",
            BY_PATH["execution.context"].allowed,
        )
    )
    return DEFAULT_CONTEXT


def schema_defaults() -> dict[str, Any]:
    """The defaults that the schema declares, by path."""
    schema = plan_schema()
    defaults = {name: rule["default"] for name, rule in schema["properties"].items() if "default" in rule}
    for group, holder in schema["$defs"].items():
        for name, rule in holder.get("properties", {}).items():
            if "default" in rule:
                defaults[f"{group}.{name}"] = rule["default"]
    return defaults


def invalid_plan(source: str, faults: list[EngineError]) -> EngineError:
    """One error that carries all the faults of a plan."""
    count = f"{len(faults)} error{'s' * (len(faults) != 1)}"
    return EngineError(
        "invalid_plan",
        f"the plan has {count}",
        path=source,
        hint="`engine plan schema` prints what a plan may say",
        exit_code=EXIT_PLAN,
        causes=tuple(faults),
    )


def _imatrix_digest(plan: Plan, faults: list[EngineError]) -> str | None:
    path: Path | None = locate_imatrix(plan)
    if path is None:
        return None
    try:
        with open(open_regular(path, MOST_IMATRIX), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        reason = error.strerror or str(error)
        faults.append(
            plan_error("unknown_file", "quantization.imatrix", f"{path} cannot be read: {reason}", "a file")
        )
        return None
