"""phases: nodes of one phase run on all threads without a barrier between them.

Threads take units of a phase: some rows, which go through all its nodes, or a panel
or head of its only node. So the nodes of a phase share out rows of one kind, and each
reads nothing of the phase but the same rows. Ops that cross rows read other tokens'
and always begin a phase.
"""

from __future__ import annotations

from dataclasses import replace

from compiler.graph import Graph, Node
from compiler.graph.ops import spec
from compiler.passes import Decisions


def phases(graph: Graph, decisions: Decisions) -> Graph:
    made = graph.producer()
    placed: dict[str, Node] = {}
    current, kind = 0, ""  # of the phase's units; empty before its first node
    for node in graph.nodes:
        units = _units(node)
        sources = [placed[name] for name in _sources(node, made)]
        other = bool(units and kind) and (units != kind or units == "drawn")
        if other or any(s.phase == current and not _same_share(s, node) for s in sources):
            current, kind = current + 1, ""
        kind = units or kind
        placed[node.output] = replace(node, phase=current)
    return replace(graph, nodes=tuple(placed.values()))


def _units(node: Node) -> str:
    """What threads take of a node: rows of a kind, ``drawn`` for panels and heads, nothing of a view."""
    partition = spec(node).partition
    return {"rows": node.type.rows, "none": ""}.get(partition, "drawn")


def _sources(node: Node, made: dict[str, Node]) -> list[str]:
    """The values a node reads, views resolved to what they look into."""
    found = []
    for name in node.inputs:
        while spec(made[name]).view:
            name = made[name].inputs[0]
        found.append(name)
    return found


def _same_share(source: Node, node: Node) -> bool:
    if spec(node).view:
        return True
    by_rows = spec(source).partition == spec(node).partition == "rows"
    return by_rows and source.type.rows == node.type.rows and not spec(node).crosses_rows
