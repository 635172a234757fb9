"""states: what each layer's state is stored as, how many positions a slot holds, and where it lies.

A state that is read within a window is held for the window, and a step's tokens, which are
written before the oldest of them is read. Paged states stand in each page of their group in the
order of the layers; fixed ones likewise, each with all its slots.
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
    offsets: dict[object, int] = {}  # by window of paged states, by kind of others
    for name, state in graph.states.items():
        positions, type = 0, state.type
        if state.kind == "paged":
            ring = state.window + decisions.step_tokens if state.window else decisions.context
            positions, type = round_up(min(decisions.context, ring), PAGE), decisions.kv_cache
        group = state.window if state.kind == "paged" else state.kind
        offset = offsets.get(group, 0)
        placed[name] = replace(state, type=type, positions=positions, offset=offset)
        offsets[group] = offset + placed[name].page_bytes + placed[name].slot_stride * decisions.slots
    return replace(graph, states=MappingProxyType(placed))
