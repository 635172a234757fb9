"""Which ops of a graph are told apart by their timers and by the place of a fault."""

from __future__ import annotations

import re

from compiler.emit.places import role
from compiler.graph import Graph, Node, Ref
from compiler.ops import OPS

#: Before the label of an op: the timer of waiting for other threads after it.
BARRIER = "barrier"
_MATRICES = {"embed": 1, "matmul": 1, "linear_glu": 2, "expert_matmul": 1, "expert_glu": 2}


def matrices(node: Node) -> tuple[Ref, ...]:
    """The matrices that a node multiplies with or looks up in, biases left out."""
    count = int(node.attrs["segments"]) if node.op == "linear" else _MATRICES.get(node.op, 0)
    return node.weights[:count]


def op_label(node: Node) -> str:
    """The kind of op; after it, for one that multiplies with weights, their places in the model:
    ``linear attn_q+attn_k+attn_v``, ``rms_norm``. The same in every layer."""
    if OPS[node.op].partition != "panels":
        return node.op
    return f"{node.op} {'+'.join(dict.fromkeys(role(ref.name) for ref in matrices(node)))}"


def op_labels(graph: Graph) -> list[str]:
    """All of them, in the order of the graph; slices cost nothing and have none."""
    return list(dict.fromkeys(op_label(node) for node in graph.nodes if node.op != "slice"))


def enumerator(label: str) -> str:
    """The name of a label in C."""
    return "OP_" + re.sub(r"[^A-Za-z0-9]+", "_", label).upper()
