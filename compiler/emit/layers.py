"""The layers' table, and which layers share their C: distinct shapes are emitted once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

from compiler.emit.places import role
from compiler.graph import Graph, Node
from compiler.graph.states import State


@dataclass(frozen=True)
class LayerShape:
    """Nodes and states (by content) of the first layer of this shape, and the numbers of all such layers."""

    index: int
    nodes: tuple[Node, ...]
    states: Mapping[str, State]
    layers: tuple[int, ...]


def split_layers(graph: Graph) -> tuple[list[Node], list[list[Node]], list[Node]]:
    """Nodes before the layers, of each layer, and after."""
    before: list[Node] = []
    layers: list[list[Node]] = []
    after: list[Node] = []
    for layer, group in groupby(graph.nodes, key=lambda node: node.layer):
        if layer is not None:
            layers.append(list(group))
        else:
            (after if layers else before).extend(group)
    return before, layers, after


def states_of(graph: Graph, nodes: Iterable[Node]) -> dict[str, State]:
    """The states that a run of nodes uses, by content."""
    found = (graph.states[node.state] for node in nodes if node.state is not None)
    return {state.content: state for state in found}


def layer_shapes(graph: Graph, layers: Iterable[list[Node]]) -> list[LayerShape]:
    """Layers whose emitted C would be the same text, grouped."""
    found: dict[tuple[object, ...], tuple[list[Node], list[int]]] = {}
    for number, nodes in enumerate(layers):
        states = tuple(state.geometry() for state in states_of(graph, nodes).values())
        key = (states, *(_key(graph, nodes, node) for node in nodes))
        found.setdefault(key, (nodes, []))[1].append(number)
    return [
        LayerShape(index, tuple(nodes), states_of(graph, nodes), tuple(numbers))
        for index, (nodes, numbers) in enumerate(found.values())
    ]


def _key(graph: Graph, nodes: list[Node], node: Node) -> tuple[object, ...]:
    made = graph.producer()
    inputs = tuple((made[n].type, made[n].place, made[n].stride) for n in node.inputs)
    weights = tuple(
        (role(ref.name), ref.first, ref.end, graph.weights[ref.name].type, graph.weights[ref.name].shape)
        for ref in node.weights
    )
    attrs = tuple(sorted(node.attrs.items()))
    phase = (node.phase or 0) - (nodes[0].phase or 0)
    return (node.op, node.type, node.place, node.stride, attrs, inputs, weights, phase)


def roles(graph: Graph, layers: Iterable[list[Node]]) -> list[str]:
    """Fields of the layers' table, in order of first use."""
    names: dict[str, None] = {}
    for nodes in layers:
        for node in nodes:
            for ref in node.weights:
                if ref.name.startswith("blk."):
                    names.setdefault(role(ref.name))
    return list(names)
