"""What a step costs, known from the graph before anything runs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from compiler.emit.timers import op_label
from compiler.formats import FORMATS, PANEL_ROWS, packed_bytes
from compiler.graph import Graph, Node
from compiler.graph.ops import matrices, spec, weight_shape
from compiler.passes.memory import used_experts


@dataclass(frozen=True)
class OpCost:
    """What all ops of one label do together, of one kind of operand: several entries may share a label.

    ``op``      as the timers name it (:func:`compiler.emit.timers.op_label`).
    ``type``    format of the weights, element type of the KV cache, or None.
    ``rows``    what ``macs`` counts for: a ``token`` of the step, one whose logits are ``wanted``, or
                a ``position`` that a token attends to.
    ``macs``    multiplications, each with an addition.
    ``bytes``   read from memory: for each token, yet never more than ``most_bytes`` a step; for each
                position that the cache holds.
    ``bits``    width of the weights' codes; 0: floats are multiplied.
    ``window``  positions that a token attends to at most; 0: all.
    """

    op: str
    type: str | None
    rows: str
    macs: int = 0
    bytes: int = 0
    most_bytes: int = 0
    bits: int = 0
    window: int = 0

    def to_json(self) -> dict[str, Any]:
        """For the manifest; zeros are left out."""
        return {key: value for key, value in asdict(self).items() if value not in (0, None)}


@dataclass(frozen=True)
class StaticCost:
    """Costs of decode.

    ``flops_per_token``: multiplications and additions with weights for a token whose
    logits are wanted, attention left out. ``weight_bytes``: bytes of packed weights that
    a step of one token reads. ``kv_bytes_per_token``: bytes of cache one resident token
    adds to each later step. ``parameters``: weights of the model that the graph uses.
    ``ops``: the same by op, in the order of the graph.
    """

    flops_per_token: int
    weight_bytes: int
    kv_bytes_per_token: int
    parameters: int
    ops: tuple[OpCost, ...]


def static_cost(graph: Graph) -> StaticCost:
    """The cost of a placed graph."""
    ops = tuple(_added(cost for node in graph.nodes for cost in _node_costs(graph, node)))
    products = [op for op in ops if op.rows != "position"]
    return StaticCost(
        flops_per_token=2 * sum(op.macs for op in products),
        weight_bytes=sum(op.bytes for op in products),
        kv_bytes_per_token=sum(op.bytes for op in ops if op.rows == "position"),
        parameters=sum(math.prod(w.shape) for w in graph.weights.values() if w.offset is not None),
        ops=ops,
    )


def _added(costs: Iterator[OpCost]) -> Iterator[OpCost]:
    """Entries that differ in their amounts only, added up, in order of first appearance."""
    sums: dict[OpCost, OpCost] = {}
    for cost in costs:
        key = replace(cost, macs=0, bytes=0, most_bytes=0)
        old = sums.get(key, key)
        sums[key] = replace(
            old,
            macs=old.macs + cost.macs,
            bytes=old.bytes + cost.bytes,
            most_bytes=old.most_bytes + cost.most_bytes,
        )
    yield from sums.values()


def _node_costs(graph: Graph, node: Node) -> Iterator[OpCost]:
    label = op_label(node)
    if spec(node).cost == "positions":
        state = graph.states[str(node.state)]
        heads, width = int(node.attrs["heads"]), sum(part.columns for part in state.parts)
        yield OpCost(label, state.type, "position", heads * width, state.token_bytes, window=state.window)
        return
    rows = "wanted" if node.type.rows == "W" else "token"
    for ref in matrices(node):
        shape, format = weight_shape(graph.weights, ref), graph.weights[ref.name].type
        *_, height, k = shape
        bits = FORMATS[format].code_bits
        if spec(node).cost == "lookup":
            row = packed_bytes(format, PANEL_ROWS, k) // PANEL_ROWS
            yield OpCost(label, format, rows, 0, row, packed_bytes(format, height, k), bits)
            continue
        used, there = (used_experts(graph), shape[0]) if len(shape) == 3 else (1, 1)
        panel = packed_bytes(format, height, k)
        yield OpCost(label, format, rows, used * height * k, used * panel, there * panel, bits)
