"""fuse: one node for a projection with what surrounds it.

In order: matmul and its bias become ``linear``; a gate, its up and their ``glu``
become ``linear_glu`` (``expert_glu`` for experts); the residual addition after a
projection moves into it; projections of one input that read the same kind of
activations become one ``linear`` of several segments, whose parts are slices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from compiler.formats import FORMATS, PANEL_ROWS
from compiler.graph import Graph, Literal, Node, Ref, ValueType, Weight, renumber
from compiler.graph.ops import OPS, SLICE, spec, weight_shape
from compiler.passes import Decisions


def fuse(graph: Graph, decisions: Decisions) -> Graph:
    for rewrite in (_linear, _glu, _residual, _segments):
        nodes, output = renumber(rewrite(graph), graph.output)
        graph = replace(graph, nodes=nodes, output=output)
    return graph


def _sole_user(graph: Graph, value: str) -> Node | None:
    users = graph.uses()[value]
    return users[0] if len(users) == 1 and graph.output != value else None


def _linear(graph: Graph) -> list[Node]:
    """matmul [+ bias] → linear of one segment."""
    uses = graph.uses()
    absorbed: dict[str, Node] = {}
    for node in graph.nodes:
        if "bias" in spec(node).epilogues and node.output != graph.output and len(uses[node.output]) == 1:
            user = uses[node.output][0]
            if spec(user).epilogue == "bias":
                absorbed[user.output] = node
    gone = {node.output for node in absorbed.values()}
    result = []
    for node in graph.nodes:
        if node.output in gone:
            continue
        source = absorbed.get(node.output)
        if source is not None:
            attrs: Mapping[str, Literal] = MappingProxyType({"segments": 1, "biases": "b"})
            op, weights = spec(source).epilogues["bias"], (*source.weights, *node.weights)
            node = replace(node, op=op, inputs=source.inputs, weights=weights, attrs=attrs)
        elif spec(node).alone:
            attrs = MappingProxyType({"segments": 1, "biases": "-"})
            node = replace(node, op=spec(node).alone, attrs=attrs)
        result.append(node)
    return result


def _glu(graph: Graph) -> list[Node]:
    """glu of two projections of one input, or of the two halves of one → one node."""
    made, uses = graph.producer(), graph.uses()
    replaced: dict[str, Node] = {}
    gone: set[str] = set()
    for node in graph.nodes:
        if spec(node).epilogue != "gate":
            continue
        gate, up = (made[name] for name in node.inputs)
        if any(len(uses[part.output]) != 1 for part in (gate, up)):
            continue
        fused = None
        if gate.op == up.op and gate.inputs == up.inputs:
            if "gate" in spec(gate).epilogues:
                fused = _glu_of_two(graph.weights, node, gate, up)
            elif spec(gate).view and "gate" in spec(made[gate.inputs[0]]).epilogues:
                whole = made[gate.inputs[0]]
                fused = _glu_of_halves(graph.weights, node, whole, gate, up)
                if fused is not None:
                    gone.add(whole.output)
        if fused is not None:
            replaced[node.output] = fused
            gone |= {gate.output, up.output}
    return [replaced.get(node.output, node) for node in graph.nodes if node.output not in gone]


def _glu_of_two(weights: Mapping[str, Weight], node: Node, gate: Node, up: Node) -> Node | None:
    """None where the two differ in format and one kernel reads both."""
    op = spec(gate).epilogues["gate"]
    if not spec(gate).segments:
        return replace(node, op=op, inputs=gate.inputs, weights=gate.weights + up.weights)
    if weights[gate.weights[0].name].type != weights[up.weights[0].name].type:
        return None
    attrs = {"kind": node.attrs["kind"], "biases": f"{gate.attrs['biases']}{up.attrs['biases']}"}
    refs = (gate.weights[0], up.weights[0], *gate.weights[1:], *up.weights[1:])
    return replace(node, op=op, inputs=gate.inputs, weights=refs, attrs=MappingProxyType(attrs))


def _glu_of_halves(
    weights: Mapping[str, Weight], node: Node, whole: Node, gate: Node, up: Node
) -> Node | None:
    """None unless both halves begin at a panel of 16 rows and the projection has no bias."""
    half, op = node.type.columns, spec(whole).epilogues["gate"]
    spans = [(int(part.attrs["first"]), int(part.attrs["end"])) for part in (gate, up)]
    if spans != [(0, half), (half, 2 * half)] or half % PANEL_ROWS or whole.attrs.get("biases") != "-":
        return None
    name = whole.weights[0].name
    refs = tuple(Ref(name, first, end) for first, end in spans)
    attrs = MappingProxyType({"kind": node.attrs["kind"], "biases": "--"})
    return replace(node, op=op, inputs=whole.inputs, weights=refs, attrs=attrs)


def _residual(graph: Graph) -> list[Node]:
    """add(linear, x) → linear with x as its second input, added when a panel is stored."""
    made = graph.producer()
    replaced: dict[str, Node] = {}
    gone: set[str] = set()
    for node in graph.nodes:
        if spec(node).epilogue != "residual":
            continue
        source = made[node.inputs[0]]
        op = spec(source).epilogues.get("residual")
        if op and len(source.inputs) == OPS[op].residual and _sole_user(graph, source.output) is node:
            inputs = (*source.inputs, node.inputs[1])
            replaced[node.output] = replace(source, output=node.output, op=op, inputs=inputs)
            gone.add(source.output)
    return [replaced.get(node.output, node) for node in graph.nodes if node.output not in gone]


def _segments(graph: Graph) -> list[Node]:
    """Projections of one input, reading the same kind of activations → one, with slices."""
    groups: dict[tuple[str, int], list[Node]] = {}
    for node in graph.nodes:
        if spec(node).segments and len(node.inputs) == 1 and node.output != graph.output:
            kind = FORMATS[graph.weights[node.weights[0].name].type].group
            groups.setdefault((node.inputs[0], kind), []).append(node)
    result: list[Node] = []
    first_of = {group[0].output: group for group in groups.values() if len(group) > 1}
    members = {node.output for group in first_of.values() for node in group}
    for node in graph.nodes:
        if node.output in first_of:
            result += _merge(graph, first_of[node.output])
        elif node.output not in members:
            result.append(node)
    return result


def _merge(graph: Graph, group: list[Node]) -> list[Node]:
    matrices = tuple(node.weights[0] for node in group)
    biases = tuple(ref for node in group for ref in node.weights[1:])
    columns = sum(weight_shape(graph.weights, ref)[-2] for ref in matrices)
    first = group[0]
    merged_attrs: dict[str, Literal] = {
        "segments": len(group),
        "biases": "".join(str(node.attrs["biases"]) for node in group),
    }
    merged = Node(
        output=f"{first.output}+",
        type=ValueType("f32", first.type.rows, columns),
        op=first.op,
        inputs=first.inputs,
        weights=matrices + biases,
        attrs=MappingProxyType(merged_attrs),
        layer=first.layer,
    )
    nodes, begin = [merged], 0
    for node in group:
        end = begin + node.type.columns
        span = MappingProxyType({"first": begin, "end": end})
        nodes.append(replace(node, op=SLICE, inputs=(merged.output,), weights=(), attrs=span))
        begin = end
    return nodes
