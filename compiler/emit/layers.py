"""The layers' table, and which layers share their C: distinct shapes are emitted once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from compiler.emit.places import role
from compiler.graph import Graph, Node


@dataclass(frozen=True)
class KvGeometry:
    """The cache of one layer of one slot: capacity in tokens and the bytes of its parts."""

    kv_heads: int
    head_dim: int
    head_dim_v: int
    capacity: int
    element: int
    scaled: bool

    @property
    def k_bytes(self) -> int:
        return self.kv_heads * self.capacity * self.head_dim * self.element

    @property
    def v_bytes(self) -> int:
        return self.kv_heads * self.capacity * self.head_dim_v * self.element

    @property
    def scale_bytes(self) -> int:
        return self.kv_heads * self.capacity * 4 if self.scaled else 0

    @property
    def slot_bytes(self) -> int:
        return self.k_bytes + self.v_bytes + 2 * self.scale_bytes


@dataclass(frozen=True)
class LayerShape:
    """Nodes of the first layer of this shape, the KV geometry, and the numbers of all such layers."""

    index: int
    nodes: tuple[Node, ...]
    kv: KvGeometry
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


def layer_shapes(
    graph: Graph, layers: Iterable[list[Node]], geometry: dict[int, KvGeometry]
) -> list[LayerShape]:
    """Layers whose emitted C would be the same text, grouped."""
    found: dict[tuple[object, ...], tuple[list[Node], KvGeometry, list[int]]] = {}
    for number, nodes in enumerate(layers):
        key = (geometry[number], *(_key(graph, nodes, node) for node in nodes))
        found.setdefault(key, (nodes, geometry[number], []))[2].append(number)
    return [
        LayerShape(index, tuple(nodes), kv, tuple(numbers))
        for index, (nodes, kv, numbers) in enumerate(found.values())
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
