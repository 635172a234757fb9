"""Model and decisions → placed graph and C text: everything of a bundle but its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compiler import backends
from compiler.decoder import Decoder, build_decoder
from compiler.emit import EmitRequest, Emitted, emit
from compiler.emit.cost import StaticCost, static_cost
from compiler.graph import Graph
from compiler.model.description import ModelDescription
from compiler.model.notes import model_notes
from compiler.model.reader import open_rows
from compiler.passes import Decisions, run_passes
from compiler.passes.memory import arena_bytes, unshared_bytes
from compiler.quantize.recipes import TensorType, assign_types
from compiler.quantize.weights import PackedTensor, packed_tensors
from runtime.bundle.plan import ResolvedPlan


@dataclass(frozen=True)
class Lowered:
    """A plan carried down to C text. ``graph`` is placed; ``types`` covers every tensor of the file."""

    backend: backends.Backend
    decoder: Decoder
    types: tuple[TensorType, ...]
    graph: Graph
    emitted: Emitted
    tensors: tuple[PackedTensor, ...]
    cost: StaticCost
    memory: Mapping[str, int]
    notes: tuple[str, ...] = ()

    def details(self) -> dict[str, Any]:
        """What the manifest tells readers of the model and its memory."""
        hyper = self.decoder.hyper
        return {
            "parameters": self.cost.parameters,
            "trained_context": hyper.context,
            "cost": {
                "flops_per_token": self.cost.flops_per_token,
                "weight_bytes": self.cost.weight_bytes,
                "kv_bytes_per_token": self.cost.kv_bytes_per_token,
                "ops": [op.to_json() for op in self.cost.ops],
            },
            "memory": dict(self.memory),
            "unused_tensors": list(self.decoder.unused),
            "notes": list(self.notes),
        }


def lower(plan: ResolvedPlan, model: ModelDescription) -> Lowered:
    """Builds the graph, runs the passes and emits the C.

    Raises :class:`EngineError` for a family, metadata, tensor or type that does not fit.
    """
    backend = backends.get(plan.backend)
    types = assign_types(model, plan.quantization)
    with open_rows(model) as rows:
        decoder = build_decoder(model, lambda name: rows.float32(model.tensors[name]), plan.execution.context)
    decisions = Decisions(
        {t.name: t.type for t in types},
        plan.execution.step_tokens,
        plan.execution.context,
        plan.execution.slots,
        plan.execution.kv_cache,
        plan.execution.kv_pages,
    )
    graph = run_passes(decoder.graph, decisions)
    request = EmitRequest(
        graph=graph,
        decisions=decisions,
        backend=backend,
        constants=decoder.constants,
        op_timing=plan.observability.op_timing,
        plan_digest=plan.digest,
    )
    emitted = emit(request)
    memory = {
        "weights_bytes": emitted.weights_bytes,
        "kv_bytes": emitted.kv_bytes,
        "arena_bytes": arena_bytes(graph, decisions),
        "arena_unshared_bytes": unshared_bytes(decoder.graph, decisions),
    }
    cost = static_cost(graph)
    notes = model_notes(model.metadata)
    return Lowered(backend, decoder, types, graph, emitted, packed_tensors(graph), cost, memory, notes)
