"""states: what each layer's state is stored as, how many positions a slot holds, and where it lies.

A state that is read within a window is a ring: the window, and a step's tokens, which are
written before the oldest of them is read. States stand in the order of the layers, each with
all its slots.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from compiler.graph import Graph
from compiler.graph.states import PAGE, State
from compiler.passes import Decisions
from compiler.passes.layout import round_up


def states(graph: Graph, decisions: Decisions) -> Graph:
    placed: dict[str, State] = {}
    offset = 0
    for name, state in graph.states.items():
        positions, type = 0, state.type
        if state.kind == "paged":
            ring = state.window + decisions.step_tokens if state.window else decisions.context
            positions, type = round_up(min(decisions.context, ring), PAGE), decisions.kv_cache
        placed[name] = replace(state, type=type, positions=positions, offset=offset)
        offset += placed[name].slot_stride * decisions.slots
    return replace(graph, states=MappingProxyType(placed))
