"""Plans that agents propose: validated, their needs predicted, compiled only where allowed.

The compiler is imported inside two functions, and only here: a server that takes no
proposals never loads it.
"""

from __future__ import annotations

import re
import shlex
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.bundle.machine import Machine
from runtime.bundle.plan import ResolvedPlan
from runtime.control.plane import ControlPlane
from runtime.control.types import BundleInfo, ServedBundle
from runtime.errors import EXIT_MACHINE, EngineError

#: A model as a request may name it: a name, possibly owner/name; never a path of this machine.
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}(/[A-Za-z0-9][A-Za-z0-9._-]{0,127})?")


@dataclass(frozen=True)
class Proposal:
    """A valid plan and what it would need. ``document`` is what the compiler is given."""

    document: Mapping[str, Any]
    plan: ResolvedPlan
    memory: Mapping[str, int]
    cost: Mapping[str, int]
    parameters: int
    fits: bool
    available_bytes: int

    @property
    def needed_bytes(self) -> int:
        """Resident bytes: weights, KV cache of all slots, activations."""
        return sum(self.memory[key] for key in ("weights_bytes", "kv_bytes", "arena_bytes"))

    @property
    def command(self) -> str:
        """How the operator compiles and serves it."""
        return f"engine serve {self.plan.name}.yaml  # this plan, saved under that name"

    def to_json(self, served: Sequence[BundleInfo]) -> dict[str, Any]:
        """The reply to a proposal."""
        same = [info.name for info in served if info.plan_digest == self.plan.digest]
        return {
            "valid": True,
            "name": self.plan.name,
            "digest": self.plan.digest,
            "plan": self.plan.to_json(),
            "predicted": {
                **self.memory,
                "memory_bytes": self.needed_bytes,
                "memory_available_bytes": self.available_bytes,
                "fits": self.fits,
                "weight_bytes_per_token": self.cost["weight_bytes"],
                "kv_bytes_per_token": self.cost["kv_bytes_per_token"],
                "flops_per_token": self.cost["flops_per_token"],
                "parameters": self.parameters,
            },
            "served_as": same[0] if same else None,
            "command": self.command,
        }


class Proposals:
    """``models`` maps names that requests may use to files the operator serves already;
    ``load`` opens a compiled bundle."""

    def __init__(
        self, plane: ControlPlane, models: Mapping[str, Path], load: Callable[[Path], ServedBundle]
    ) -> None:
        self._plane = plane
        self._models = dict(models)
        self._load = load
        self._served: set[str] = set()
        self._building = threading.Lock()

    @property
    def served(self) -> frozenset[str]:
        """Names of the plans that came by requests."""
        return frozenset(self._served)

    def predict(self, document: Mapping[str, Any]) -> Proposal:
        """Validates a plan and computes its memory and cost; nothing is built or written.

        Raises ``invalid_plan`` with all faults as causes, ``unknown_model``, and what
        reading the model's file raises.
        """
        from compiler.lower import lower
        from compiler.model.reader import read_model
        from compiler.plan import locate_model, plan_from_mapping, resolve

        machine = Machine.probe()
        document, ours = self._located(document)
        declared = plan_from_mapping(document, Path.cwd(), source="plan", model_paths=ours)
        model = read_model(locate_model(declared))
        plan = resolve(declared, model, machine)
        machine.require_features(plan.backend, _features(plan.backend))
        lowered = lower(plan, model)
        memory = dict(lowered.memory)
        needed = sum(memory[key] for key in ("weights_bytes", "kv_bytes", "arena_bytes"))
        details = lowered.details()
        return Proposal(
            document=document,
            plan=plan,
            memory=memory,
            cost=details["cost"],
            parameters=details["parameters"],
            fits=needed < machine.memory_available,
            available_bytes=machine.memory_available,
        )

    def command_for(self, model: str, backend: str | None, quantization: str | None) -> str | None:
        """The command that compiles and serves what a request wanted, on a free port: a plan that comes
        with the engine, or one made for a model that is served already. None where neither fits."""
        from compiler.plan import bundled_plans, load_plan

        for name, path in bundled_plans().items():
            plan = load_plan(path)
            if (
                model in (name, plan.model_label)
                and backend in (None, plan.backend)
                and quantization in (None, plan.recipe)
            ):
                return f"engine serve {name} --port 0"
        if (file := self._models.get(model)) is None:
            return None
        flags = (("--model", str(file)), ("--quant", quantization), ("--backend", backend))
        words = [f"{flag} {shlex.quote(value)}" for flag, value in flags if value is not None]
        return f"engine serve {' '.join(words)} --port 0"

    def compile_and_serve(self, proposal: Proposal, most: int) -> BundleInfo:
        """Compiles a proposal and takes it into service; one at a time.

        Raises ``plan_served_already``, ``too_many_plans``, ``out_of_memory`` and what the
        compiler raises.
        """
        with self._building:
            infos = self._plane.infos()
            for info in infos:
                if info.plan_digest == proposal.plan.digest or info.name == proposal.plan.name:
                    raise EngineError(
                        "plan_served_already",
                        f"{info.name} is served already",
                        path="plan.name" if info.plan_digest != proposal.plan.digest else "plan",
                        hint="use it, or give this plan another name",
                    )
            if len(infos) >= most:
                raise EngineError(
                    "too_many_plans",
                    f"{len(infos)} plans are served",
                    allowed=str(most),
                    hint="retire one: DELETE /v1/plans/NAME",
                )
            if not proposal.fits:
                raise EngineError(
                    "out_of_memory",
                    f"the plan needs {proposal.needed_bytes} bytes, {proposal.available_bytes} are available",
                    hint="a smaller quantization, context or number of slots",
                    exit_code=EXIT_MACHINE,
                )
            from compiler import compile_plan

            bundle = self._load(compile_plan(dict(proposal.document)))
            self._plane.serve(bundle)
            self._served.add(bundle.info.name)
            return bundle.info

    def retire(self, name: str) -> None:
        """Stops serving a plan that came by a request. Raises ``bundle_busy``."""
        self._plane.retire(name)
        self._served.discard(name)

    def _located(self, document: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        """The document with a served model's name replaced by its file, and whether it was."""
        model, quantization = document.get("model"), document.get("quantization")
        if isinstance(model, str) and not MODEL_NAME.fullmatch(model):
            raise EngineError(
                "invalid_plan",
                "a model is named, not given by a path",
                path="plan.model",
                allowed=", ".join(self._models) or "a name in the model store",
            )
        if isinstance(quantization, Mapping) and quantization.get("imatrix") is not None:
            raise EngineError(
                "invalid_plan",
                "an importance matrix is a file of this machine; requests name none",
                path="plan.quantization.imatrix",
            )
        if not isinstance(model, str) or model not in self._models:
            return dict(document), False
        named = {}
        if "name" not in document:  # from the model's name rather than its file's
            recipe = quantization.get("recipe") if isinstance(quantization, Mapping) else quantization
            label = re.sub(r"[^A-Za-z0-9._-]", "-", f"{model}-{recipe}")
            named = {"name": label.lstrip("._-")[:64] or "plan"}
        return {**document, **named, "model": str(self._models[model])}, True


def _features(backend: str) -> Sequence[str]:
    from compiler import backends

    return tuple(backends.get(backend).cpu_features)
