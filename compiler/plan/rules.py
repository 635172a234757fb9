"""What a schema cannot say: backends that exist, fields that need each other, files, the machine."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from compiler.model.description import ModelDescription
from compiler.model.parts import model_parts
from compiler.plan.declared import Plan, is_file, plan_path
from runtime.bundle.machine import Machine
from runtime.bundle.modelindex import entry_path, stored_model, stored_names
from runtime.bundle.plan import check_together
from runtime.bundle.planfields import plan_error, shown
from runtime.bundle.policynames import known_policies
from runtime.bundle.spelling import did_you_mean, nearest
from runtime.errors import EXIT_PLAN, EngineError

#: The backends of this project, known even where it runs from a checkout.
BUILT_IN_BACKENDS = ("reference", "cpu_avx2", "cpu_avxvnni", "cpu_avx512vnni", "cpu_amx")


_BRINGS = "`engine models add FILE` brings one, or `engine models pull hf:OWNER/REPO`"


def registered_backends() -> tuple[str, ...]:
    """Names a plan may give: our own and those of installed packages (entry points)."""
    added = {point.name for point in entry_points(group="engine.backends")}
    return (*BUILT_IN_BACKENDS, *sorted(added - set(BUILT_IN_BACKENDS)))


def _is_emulation(name: str) -> bool:
    """Whether ``name`` is a backend with its instruction set emulated."""
    from compiler import backends

    try:
        return name.endswith(backends.EMULATED) and backends.get(name).name == name
    except EngineError:
        return False


def declared_faults(values: Mapping[str, Any], machine: Machine | None) -> list[EngineError]:
    """Faults between declared values, by path; ``machine`` None leaves the machine out of it."""
    faults = check_together(values, machine.has_energy_meter if machine is not None else None)
    backend, known = values.get("backend"), registered_backends()
    if backend is not None and backend not in known and not _is_emulation(backend):
        faults.append(
            plan_error(
                "unknown_backend",
                "backend",
                f"there is no backend {shown(backend)}",
                ", ".join(known),
                did_you_mean(backend, known) or "a package adds one by an entry point in engine.backends",
            )
        )
    policy, policies = values.get("scheduler_policy"), known_policies()
    if policy is not None and policy not in policies:
        faults.append(
            plan_error(
                "unknown_scheduler_policy",
                "scheduler_policy",
                f"there is no scheduler policy {shown(policy)}",
                ", ".join(policies),
                did_you_mean(policy, policies) or "a package adds one by an entry point in engine.policies",
            )
        )
    seen: dict[str, int] = {}
    for index, override in enumerate(values.get("quantization.overrides", ())):
        pattern = override["tensors"]
        if pattern in seen:
            faults.append(
                plan_error(
                    "conflicting_fields",
                    f"quantization.overrides[{index}].tensors",
                    f"{shown(pattern)} is already decided by overrides[{seen[pattern]}]",
                    hint="keep one of the two",
                )
            )
        seen.setdefault(pattern, index)
    return faults


def file_faults(plan: Plan) -> list[EngineError]:
    """Faults of the files a plan names: the model and the importance matrix."""
    faults = []
    if "model" in plan.values:
        try:
            locate_model(plan)
        except EngineError as error:
            faults.append(error)
    imatrix = locate_imatrix(plan)
    if imatrix is not None and not is_file(imatrix):
        faults.append(
            plan_error("unknown_file", "quantization.imatrix", f"there is no file {imatrix}", "a file")
        )
    return faults


def locate_model(plan: Plan) -> Path:
    """The model's file (the first part of a split one); raises ``unknown_model``.

    A name that is spelled like a path is a path from the plan's folder; any other is
    looked up in the model store first, then as a file.
    """
    beside = plan_path(plan.base_dir, plan.model)
    if not plan.model_is_path and (entry := stored_model(plan.model)) is not None:
        if is_file(entry.path):
            return entry.path
        raise EngineError(
            "unknown_model",
            f"the model store knows {plan.model!r}, but its file {entry.path} is gone",
            path="model",
            hint=f"bring the file back, or `engine models remove {plan.model}`",
            exit_code=EXIT_PLAN,
        )
    if is_file(beside):
        return beside
    if plan.model_is_path:
        what = f"there is no file {beside}"
        near = nearest(beside.name, _gguf_files(beside.parent))
    else:
        what = f"the model store has no {plan.model!r}, and there is no file {beside}"
        near = nearest(plan.model, stored_names())
    raise EngineError(
        "unknown_model",
        what,
        path="model",
        allowed="a GGUF file, by a path from the plan's folder, or a name that `engine models list` shows",
        hint=f"did you mean {near!r}?" if near else _BRINGS,
        exit_code=EXIT_PLAN,
    )


def locate_imatrix(plan: Plan) -> Path | None:
    """The importance matrix's file, which may not exist, or None where none is declared."""
    imatrix = plan.values.get("quantization.imatrix")
    return None if imatrix is None else plan_path(plan.base_dir, imatrix)


def plan_files(plan: Plan) -> list[Path]:
    """Every file, besides the plan's own, that decides what the plan resolves to.

    The parts of the model, the model store's entry if it is named by one, and the
    importance matrix. Raises what :func:`locate_model` raises.
    """
    files = list(model_parts(locate_model(plan)))
    if not plan.model_is_path:
        files += [path for path in (entry_path(plan.model),) if is_file(path)]
    imatrix = locate_imatrix(plan)
    return [*files, *([imatrix] if imatrix is not None else [])]


def model_faults(plan: Plan, model: ModelDescription) -> list[EngineError]:
    """Faults between a plan and the model it names."""
    faults = []
    trained, context = model.get("context_length"), plan.values.get("execution.context")
    if isinstance(trained, int) and context is not None and context > trained > 0:
        faults.append(
            plan_error(
                "out_of_range",
                "execution.context",
                f"{context} is more than the {trained} tokens that the model was trained for",
                f"1 to {trained}",
            )
        )
    if (
        not plan.model_is_path
        and (entry := stored_model(plan.model)) is not None
        and entry.digest != model.digest
    ):
        faults.append(
            plan_error(
                "model_changed",
                "model",
                f"the content of {model.path} is no longer what {plan.model!r} names in the model store",
                f"content with digest {entry.digest}",
                f"`engine models add {model.path} --name {plan.model} --replace`, if the change is meant",
            )
        )
    return faults


def _gguf_files(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir() if path.suffix == ".gguf"][:1000]
    except OSError:
        return []
