"""Plan → bundle. The rooms in processing order:

``plan`` → ``model`` → ``families`` + ``decoder`` → ``passes`` → ``emit`` → ``build`` → bundle,
with ``quantize`` and ``weights`` beside them for the tensors. :func:`compile_plan` is the whole way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compiler.lower import Lowered
    from compiler.model.description import ModelDescription
    from compiler.plan import Plan
    from runtime.bundle.plan import ResolvedPlan

__all__ = ["compile_plan", "declare", "lower_plan"]


def compile_plan(
    plan: str | Path | Mapping[str, Any],
    out: Path | None = None,
    emit_only: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Compiles a plan; returns the bundle's folder.

    ``plan``: a file, a bundled plan's name, or the plan as a tree (its relative paths
    start from the working folder). ``out``: the folder of the bundle instead of the
    store's. ``emit_only``: writes plan, graph and C to ``out`` (default ``<name>-c``
    here) without a C compiler. ``progress(stage, done, total)`` is told of long work.
    Raises :class:`runtime.errors.EngineError`.
    """
    from compiler.bundling import ensure_bundle, write_sources
    from compiler.lower import lower
    from compiler.plan import locate_model, resolve
    from runtime.bundle.machine import Machine

    declared = declare(plan)
    model = _described(locate_model(declared))
    resolved = resolve(declared, model, Machine.probe())
    lowered = lower(resolved, model)
    if emit_only:
        return write_sources(out or Path(f"{resolved.name}-c"), resolved, lowered)
    return ensure_bundle(declared, resolved, model, lowered, out, progress)


def declare(plan: str | Path | Mapping[str, Any]) -> Plan:
    """The checked plan of a file, a bundled plan's name, or a tree."""
    from compiler.plan import load_plan, plan_from_mapping

    return plan_from_mapping(plan, Path.cwd()) if isinstance(plan, Mapping) else load_plan(plan)


def lower_plan(plan: str | Path | Mapping[str, Any]) -> tuple[ResolvedPlan, Lowered]:
    """A plan resolved and lowered, nothing written: for predictions and inspection."""
    from compiler.lower import lower
    from compiler.plan import locate_model, resolve
    from runtime.bundle.machine import Machine

    declared = declare(plan)
    model = _described(locate_model(declared))
    resolved = resolve(declared, model, Machine.probe())
    return resolved, lower(resolved, model)


def _described(path: Path) -> ModelDescription:
    """The model, if a family describes it: its content, whose digest takes a while, is read after that."""
    from compiler.decoder.families import find_family
    from compiler.model.reader import peek_model, read_model

    find_family(peek_model(path)[0])
    return read_model(path)
