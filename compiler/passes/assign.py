"""assign: each weight's format becomes the one the plan decided."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from compiler.graph import Graph
from compiler.passes import Decisions


def assign(graph: Graph, decisions: Decisions) -> Graph:
    """Replaces the stored types by the decided ones; constants of the compiler's own keep theirs."""
    weights = {
        name: replace(weight, type=decisions.types.get(name, weight.type))
        for name, weight in graph.weights.items()
    }
    return replace(graph, weights=MappingProxyType(weights))
