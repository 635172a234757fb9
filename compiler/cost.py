"""What a step costs, known from the graph before anything runs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from compiler.graph import Graph, Node
from compiler.kernels import packed_bytes
from compiler.ops import weight_shape
from compiler.passes.memory import used_experts

#: Bytes of one element of the KV cache, its share of the scales left out.
KV_ELEMENT = {"f32": 4, "f16": 2, "q8_0": 1}


@dataclass(frozen=True)
class StaticCost:
    """Costs of decode.

    ``flops_per_token``: multiplications and additions with weights for a token whose
    logits are wanted, attention left out. ``weight_bytes``: bytes of packed weights that
    a step of one token reads. ``kv_bytes_per_token``: bytes of cache one resident token
    adds to each later step. ``parameters``: weights of the model that the graph uses.
    """

    flops_per_token: int
    weight_bytes: int
    kv_bytes_per_token: int
    parameters: int


def static_cost(graph: Graph, kv_cache: str) -> StaticCost:
    """The cost of a placed graph."""
    flops = read = kv = 0
    for node in graph.nodes:
        if node.op == "kv_store":
            width = int(node.attrs["head_dim"]) + int(node.attrs["head_dim_v"])
            kv += int(node.attrs["kv_heads"]) * width * KV_ELEMENT[kv_cache]
            kv += int(node.attrs["kv_heads"]) * 8 if kv_cache == "q8_0" else 0
            continue
        for shape, format in _matrices(graph, node):
            rows, k = shape[-2:]
            matrices = used_experts(graph) if len(shape) == 3 else 1
            if node.op == "embed":
                read += packed_bytes(format, 16, k) // 16
                continue
            flops += 2 * matrices * rows * k
            read += matrices * packed_bytes(format, rows, k)
    parameters = sum(math.prod(w.shape) for w in graph.weights.values() if w.offset is not None)
    return StaticCost(flops, read, kv, parameters)


def _matrices(graph: Graph, node: Node) -> list[tuple[tuple[int, ...], str]]:
    """(shape, format) of the matrices that a node multiplies with or looks up in."""
    count = {"linear": int(node.attrs.get("segments", 0)), "linear_glu": 2, "expert_glu": 2}
    refs = node.weights[: count.get(node.op, 1 if node.op in ("embed", "expert_matmul") else 0)]
    return [(weight_shape(graph.weights, ref), graph.weights[ref.name].type) for ref in refs]
