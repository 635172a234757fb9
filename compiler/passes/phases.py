"""phases: nodes of one phase run on all threads without a barrier between them.

A thread may start the next node as soon as it is done with its own share, so a
node can stay in its producer's phase only where it reads nothing but what the
same thread made: both share the same rows out in the same way. Ops that
cross rows read other tokens' and always begin a phase; so does whatever reads
another share. Threads draw the panels or heads of an op from one counter,
which only a barrier rewinds: a phase has at most one such op.
"""

from __future__ import annotations

from dataclasses import replace

from compiler.graph import Graph, Node
from compiler.ops import spec
from compiler.passes import Decisions


def phases(graph: Graph, decisions: Decisions) -> Graph:
    made = graph.producer()
    placed: dict[str, Node] = {}
    current, drawn = 0, False
    for node in graph.nodes:
        draws = spec(node).partition in ("panels", "heads")
        sources = [placed[name] for name in _sources(node, made)]
        if (draws and drawn) or any(s.phase == current and not _same_share(s, node) for s in sources):
            current, drawn = current + 1, False
        drawn = drawn or draws
        placed[node.output] = replace(node, phase=current)
    return replace(graph, nodes=tuple(placed.values()))


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
