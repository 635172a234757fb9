"""The Execution Plan, from YAML to resolved decisions.

    load_plan("plan.yaml")  →  Plan  →  resolve(plan, model, machine)  →  ResolvedPlan

``loader`` reads YAML, ``schema`` checks it, ``rules`` checks what a schema cannot
say, ``resolve`` fills in what was left open. All faults of a plan come together.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from compiler.plan.declared import Plan, is_file, is_model_path
from compiler.plan.loader import parse_yaml, read_yaml
from compiler.plan.resolve import invalid_plan, resolve
from compiler.plan.rules import (
    declared_faults,
    file_faults,
    locate_imatrix,
    locate_model,
    plan_files,
    registered_backends,
)
from compiler.plan.schema import PLANS, plan_schema, schema_faults, whole_numbers
from runtime.bundle.machine import Machine
from runtime.bundle.planfields import plan_error
from runtime.bundle.spelling import nearest
from runtime.errors import EXIT_PLAN, EngineError

__all__ = [
    "Plan",
    "bundled_plans",
    "check_plan",
    "find_plan",
    "load_plan",
    "locate_imatrix",
    "locate_model",
    "parse_yaml",
    "plan_files",
    "plan_from_mapping",
    "plan_schema",
    "registered_backends",
    "resolve",
]


def bundled_plans() -> dict[str, Path]:
    """The plans that come with the engine, by the name they are called without a path."""
    return {path.stem: path for path in sorted(PLANS.glob("*.yaml"))}


def find_plan(name: str | Path) -> Path:
    """The file of a plan: a path as given, or a bundled plan's name; raises ``unknown_plan``."""
    path = Path(name)
    if is_file(path):
        return path
    bundled = bundled_plans()
    if str(name).removesuffix(".yaml") in bundled:
        return bundled[str(name).removesuffix(".yaml")]
    near = nearest(str(name), bundled)
    raise EngineError(
        "unknown_plan",
        f"there is no plan file {str(name)!r} and no bundled plan of that name",
        path=str(name),
        allowed=f"a file, or one of: {', '.join(bundled)}" if bundled else "a file",
        hint=f"did you mean {near!r}?" if near else None,
        exit_code=EXIT_PLAN,
    )


def load_plan(path_or_name: str | Path) -> Plan:
    """Reads and checks a plan file or a bundled plan.

    Raises ``invalid_plan`` with every fault of the plan itself as causes; the model's
    file and the machine are judged by :func:`resolve` and :func:`check_plan`.
    """
    path = find_plan(path_or_name)
    return _checked(read_yaml(path), str(path), path.parent, _name_of(path), None, files=False)


def check_plan(path_or_name: str | Path, machine: Machine) -> Plan:
    """As :func:`load_plan`, judging also the files that the plan names and this machine."""
    path = find_plan(path_or_name)
    return _checked(read_yaml(path), str(path), path.parent, _name_of(path), machine, files=True)


def plan_from_mapping(
    document: Mapping[str, Any],
    base_dir: Path,
    *,
    source: str = "plan",
    model_paths: bool = True,
) -> Plan:
    """A plan from a tree (command-line flags, a request's body).

    ``version`` may be left out. ``model_paths=False`` refuses a model that is named
    by a path, for documents that come from a client.
    """
    tree = {"version": 1, **document}
    model, recipe = tree.get("model"), tree.get("quantization")
    recipe = recipe.get("recipe") if isinstance(recipe, dict) else recipe
    label = Path(str(model)).name.removesuffix(".gguf") if model else "plan"
    plan = _checked(tree, source, base_dir, _as_name(f"{label}-{recipe}"), None, files=False)
    if not model_paths and (is_model_path(plan.model) or plan.values.get("quantization.imatrix")):
        path = "model" if is_model_path(plan.model) else "quantization.imatrix"
        fault = plan_error("not_allowed", path, "a path is not accepted here", "a name in the model store")
        raise invalid_plan(source, [fault])
    return plan


def _checked(
    tree: Any, source: str, base_dir: Path, default_name: str, machine: Machine | None, *, files: bool
) -> Plan:
    faults = schema_faults(tree)
    values = _by_path(tree) if isinstance(tree, dict) else {}
    # What the schema has refused is left out, so that the rest can still be judged.
    refused = tuple(fault.path or "" for fault in faults)
    values = {path: value for path, value in values.items() if not _touched(path, refused)}
    plan = Plan(source, base_dir, default_name, MappingProxyType(values))
    faults += declared_faults(values, machine)
    faults += file_faults(plan) if files else []
    if faults:
        raise invalid_plan(source, faults)
    return Plan(source, base_dir, default_name, MappingProxyType(_by_path(whole_numbers(tree))))


def _touched(path: str, refused: tuple[str, ...]) -> bool:
    return any(
        path == fault or fault.startswith((f"{path}.", f"{path}[")) or path.startswith(f"{fault}.")
        for fault in refused
    )


def _by_path(tree: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if key == "quantization" and isinstance(value, str):
            values["quantization.recipe"] = value
        elif isinstance(value, dict):
            values.update({f"{key}.{name}": leaf for name, leaf in value.items()})
        else:
            values[key] = value
    return values


def _name_of(path: Path) -> str:
    return _as_name(path.stem)


def _as_name(text: str) -> str:
    """The text as a plan's name: what a name cannot hold becomes ``-``."""
    allowed = "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "-" for char in text)
    allowed = allowed.lstrip("._-")[:64] or "plan"
    return allowed
