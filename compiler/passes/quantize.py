"""quantize: integer kernels read quantized activations, made once for all their readers."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from compiler.formats import FORMATS
from compiler.graph import Graph, Node, ValueType, renumber
from compiler.graph.ops import QUANTIZE, spec
from compiler.passes import Decisions


def quantize(graph: Graph, decisions: Decisions) -> Graph:
    made: dict[tuple[str, int], str] = {}
    result: list[Node] = []
    for node in graph.nodes:
        shared = spec(node).shared_activations
        group = FORMATS[graph.weights[node.weights[0].name].type].group if shared else 0
        if group:
            source = node.inputs[0]
            if (source, group) not in made:
                type = next(n.type for n in result if n.output == source)
                codes = Node(
                    output=f"{source}/{group}",
                    type=ValueType(f"q{group}", type.rows, type.columns),
                    op=QUANTIZE,
                    inputs=(source,),
                    attrs=MappingProxyType({"group": group}),
                    layer=node.layer,
                )
                result.append(codes)
                made[source, group] = codes.output
            node = replace(node, inputs=(made[source, group], *node.inputs[1:]))
        result.append(node)
    nodes, output = renumber(result, graph.output)
    return replace(graph, nodes=nodes, output=output)
