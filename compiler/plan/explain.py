"""A plan made readable: every value and its origin, every tensor's type and the reason."""

from __future__ import annotations

from typing import Any

from compiler.model.description import ModelDescription
from compiler.model.notes import model_notes
from compiler.plan.declared import Plan
from compiler.plan.resolve import invalid_plan, resolve, resolve_values
from compiler.plan.rules import declared_faults
from compiler.quantize.recipes import TensorType, assign_types
from runtime.bundle.machine import Machine
from runtime.bundle.plan import Quantization, TypeOverride
from runtime.bundle.planfields import BY_PATH
from runtime.errors import EngineError


def declared_quantization(plan: Plan) -> Quantization:
    """The plan's ``quantization`` alone, for judging tensors even where other fields are at fault."""
    overrides = plan.values.get("quantization.overrides") or ()
    return Quantization(
        recipe=plan.recipe,
        overrides=tuple(TypeOverride(item["tensors"], item["type"]) for item in overrides),
        requantize=bool(plan.values.get("quantization.requantize", False)),
    )


def explain_plan(plan: Plan, model: ModelDescription | None, machine: Machine) -> dict[str, Any]:
    """``fields`` (value, origin, a ``reason`` where the machine decided), ``tensors``, ``notes``, ``digest``.

    Without a model, what the model decides is ``null`` with origin ``model``, and there
    is no digest. Raises ``invalid_plan`` with all faults, the tensors' included.
    """
    fields: dict[str, Any]
    if model is None:
        faults = declared_faults(plan.values, machine)
        values, origins = resolve_values(plan, None, machine, faults)
        if faults:
            raise invalid_plan(plan.source, faults)
        fields = {
            path: {
                "value": values.get(path),
                "origin": origins[path] if path in values else "model",
            }
            for path in BY_PATH
        }
        _give_reasons(fields, machine)
        return {"digest": None, "fields": fields, "tensors": None, "notes": _notes(plan, None, machine)}
    faults = []
    tensors: tuple[TensorType, ...] = ()
    try:
        resolved = resolve(plan, model, machine)
    except EngineError as error:
        faults += error.causes
    try:
        tensors = assign_types(model, declared_quantization(plan))
    except EngineError as error:
        faults.append(error)
    if faults:
        raise invalid_plan(plan.source, faults)
    body = resolved.to_json()
    _give_reasons(body["fields"], machine)
    return {
        **body,
        "tensors": [
            {"name": item.name, "source_type": item.source_type, "type": item.type, "reason": item.reason}
            for item in tensors
        ],
        "notes": _notes(plan, model, machine),
    }


def _give_reasons(fields: dict[str, Any], machine: Machine) -> None:
    """Says beside the threads that were probed what bounds them."""
    threads = fields["execution.threads"]
    if threads["origin"] == "probe":
        threads["reason"] = machine.threads_because


def _notes(plan: Plan, model: ModelDescription | None, machine: Machine) -> list[str]:
    """What is allowed but worth knowing."""
    notes = []
    threads = plan.values.get("execution.threads")
    if threads is not None and threads > len(machine.cpus):
        notes.append(f"execution.threads is {threads}, but this process may use {len(machine.cpus)} CPUs")
    elif threads is not None and machine.quota is not None and threads > machine.quota:
        notes.append(f"execution.threads is {threads}, but the cgroup grants {machine.quota:g} CPUs of time")
    trained = model.get("context_length") if model is not None else None
    if "execution.context" not in plan.values and isinstance(trained, int) and trained > 4096:
        notes.append(
            f"the model was trained for {trained} tokens of context; ask for more than 4096 to use it"
        )
    if model is not None:
        notes += model_notes(model.metadata)
    else:
        notes.append(f"the model {plan.model!r} is not here, so what it decides is left open")
    return notes
