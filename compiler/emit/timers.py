"""Which ops of a graph are told apart by their timers and by the place of a fault."""

from __future__ import annotations

import re

from compiler.emit.places import role
from compiler.graph import Graph, Node
from compiler.graph.ops import matrices, spec

#: Before the label of an op: the timer of waiting for other threads after it.
BARRIER = "barrier"


def op_label(node: Node) -> str:
    """The kind of op; after it, for one that multiplies with weights, their places in the model:
    ``linear attn_q+attn_k+attn_v``, ``rms_norm``. The same in every layer."""
    if spec(node).partition != "panels":
        return node.op
    return f"{node.op} {'+'.join(dict.fromkeys(role(ref.name) for ref in matrices(node)))}"


def op_labels(graph: Graph) -> list[str]:
    """All of them, in the order of the graph; slices cost nothing and have none."""
    return list(dict.fromkeys(op_label(node) for node in graph.nodes if not spec(node).view))


def enumerator(label: str) -> str:
    """The name of a label in C."""
    return "OP_" + re.sub(r"[^A-Za-z0-9]+", "_", label).upper()
