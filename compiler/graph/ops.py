"""Every op of the graph: what it takes, what it gives, and the checks ``verify`` makes.

An op is declared once, here. :mod:`compiler.graph.interpret` says what it computes,
``kernels_c`` how. To add one, see HACKING.md.

``partition`` says how threads share an op: by ``rows`` (some of the step's tokens
at a time), by ``panels`` (16 output rows of a
weight), by ``heads`` (sequence x KV head x query tile), or ``none`` (a view).
``in_place`` names the input whose buffer the result may take over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from compiler.graph import Graph, Node, Ref, ValueType, Weight

ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu2", "sigmoid", "tanh")
#: Ops that passes make of nothing but others' results.
SLICE, QUANTIZE = "slice", "quantize"
QUANTIZED = {"q256": 256, "q32": 32}


#: ``infer(node, types of its inputs, shapes of its weights)``
Infer = Callable[[Node, list[ValueType], list[tuple[int, ...]]], ValueType]


@dataclass(frozen=True)
class OpSpec:
    """An op, whole: what it takes and gives, and all that passes, costs, timers and emission ask of it.

    ``inputs``, ``weights``  how many: a number, the numbers allowed, or (least, most).
    ``attrs``        attributes with their types.
    ``infer``        how the result's type follows from the inputs; raises where they do not fit.
    ``partition``    how threads share it, see above.
    ``in_place``     the input whose buffer the result may take over.
    ``matrices``     how many of its first weights are stored as panels; the others are vectors.
    ``segments``     its matrices' rows stand one after the other in the result (else they share columns),
                     and several of one input become one.
    ``cost``         what it reads and multiplies: ``product`` (its matrices), ``lookup`` (a row of one),
                     ``positions`` (what its state holds), or nothing worth counting.
    ``shared_activations``  its first input meets the weights: quantized once for all such readers.
    ``residual``     the input that is added when a panel is stored, where there is one.
    ``epilogue``     what it is to a product that takes it in: its ``bias``, ``gate`` or ``residual``.
    ``epilogues``    epilogue → the op that this product becomes with it.
    ``alone``        what it becomes without any.
    ``crosses_rows`` a thread reads rows that another made, although it is shared by rows.
    ``before``       what is done once, as one unit, before its rows: a template of ``kernels_c/ops``.
    ``routes``       chooses experts (attributes ``experts`` and ``used``).
    ``rotates``      its weight is a table of inverse frequencies.
    ``state``        the content of the state that it uses (``kv``; :mod:`compiler.graph.states`).
    ``reads``, ``writes``  what it does with it.
    """

    name: str
    inputs: int | tuple[int, ...]
    weights: int | tuple[int, int]
    attrs: dict[str, type]
    infer: Infer
    partition: str
    in_place: int | None = None
    matrices: Callable[[Node], int] | int = 0
    segments: bool = False
    cost: str = ""
    shared_activations: bool = False
    residual: int | None = None
    epilogue: str = ""
    epilogues: Mapping[str, str] = field(default_factory=dict)
    alone: str = ""
    crosses_rows: bool = False
    before: str = ""
    routes: bool = False
    rotates: bool = False
    state: str = ""
    reads: bool = False
    writes: bool = False

    @property
    def view(self) -> bool:
        """Whether it computes nothing: its result looks into its input."""
        return self.partition == "none"


def _same(node: Node, ins: list[ValueType], ws: list[tuple[int, ...]]) -> ValueType:
    return ins[0]


def _matmul(node: Node, ins: list[ValueType], ws: list[tuple[int, ...]]) -> ValueType:
    _need(node, ws[0][-1] == ins[0].columns, f"weight rows of {ws[0][-1]}, input of {ins[0].columns}")
    return ValueType("f32", ins[0].rows, ws[0][-2])


def _linear(node: Node, ins: list[ValueType], ws: list[tuple[int, ...]]) -> ValueType:
    matrices = ws[: int(node.attrs["segments"])]
    for shape in matrices:
        _need(node, shape[-1] == ins[0].columns, f"weight rows of {shape[-1]}, input of {ins[0].columns}")
    out = ValueType("f32", ins[0].rows, sum(shape[-2] for shape in matrices))
    biased = [shape for shape, has in zip(matrices, str(node.attrs["biases"]), strict=True) if has == "b"]
    biases = ws[len(matrices) :]
    _need(node, len(biased) == len(biases), f"{len(biased)} biases declared, {len(biases)} given")
    for shape, bias in zip(biased, biases, strict=True):
        _need(node, bias == (shape[-2],), f"bias of {bias} for {shape[-2]} rows")
    if len(ins) == 2:
        _need(node, ins[1] == out, f"residual {ins[1]} is not {out}")
    return out


def _linear_glu(node: Node, ins: list[ValueType], ws: list[tuple[int, ...]]) -> ValueType:
    _need(node, ws[0] == ws[1], f"gate {ws[0]} and up {ws[1]} differ")
    _need(node, ws[0][-1] == ins[0].columns, f"weight rows of {ws[0][-1]}, input of {ins[0].columns}")
    return ValueType("f32", ins[0].rows, ws[0][-2])


def _norm(node: Node, ins: list[ValueType], ws: list[tuple[int, ...]]) -> ValueType:
    columns, groups = ins[0].columns, int(node.attrs["groups"])
    _need(node, columns % groups == 0, f"{columns} columns in {groups} groups")
    for shape in ws:
        size = 1
        for dim in shape:
            size *= dim
        _need(node, size in (columns, columns // groups), f"{size} norm weights for {columns}/{groups}")
    return ins[0]


def _pair(node: Node, ins: list[ValueType], ws: list[tuple[int, ...]]) -> ValueType:
    _need(node, ins[0] == ins[1], f"{ins[0]} and {ins[1]} differ")
    return ins[0]


def _slice(node: Node, ins: list[ValueType], ws: list[tuple[int, ...]]) -> ValueType:
    first, end = int(node.attrs["first"]), int(node.attrs["end"])
    _need(node, 0 <= first < end <= ins[0].columns, f"[{first}:{end}] of {ins[0].columns} columns")
    return ValueType(ins[0].dtype, ins[0].rows, end - first)


def _embed(node: Node, ins: list[ValueType], ws: list[tuple[int, ...]]) -> ValueType:
    return ValueType("f32", "T", ws[0][-1])


def _bias(node: Node, ins: list[ValueType], ws: list[tuple[int, ...]]) -> ValueType:
    _need(node, ws[0] == (ins[0].columns,), f"bias of {ws[0]} for {ins[0].columns} columns")
    return ins[0]


def _kv_store(node: Node, ins: list[ValueType], ws: list[tuple[int, ...]]) -> ValueType:
    return ValueType("kv", "T", 1)


def _attention(node: Node, ins: list[ValueType], ws: list[tuple[int, ...]]) -> ValueType:
    heads, kv_heads = int(node.attrs["heads"]), int(node.attrs["kv_heads"])
    _need(node, heads % kv_heads == 0, f"{heads} heads over {kv_heads} KV heads")
    width = heads * int(node.attrs["head_dim"])
    _need(node, ins[0].columns == width, f"queries of {ins[0].columns}, heads of {width}")
    return ValueType("f32", ins[0].rows, heads * int(node.attrs["head_dim_v"]))


def _expert_matmul(node: Node, ins: list[ValueType], ws: list[tuple[int, ...]]) -> ValueType:
    _need(node, all(len(shape) == 3 for shape in ws), "expert weights have three dimensions")
    return ValueType("f32", "P", ws[0][-2])


def _columns_of(rows: str) -> Infer:
    return lambda node, ins, ws: ValueType("f32", rows, ins[0].columns)


def _views() -> list[OpSpec]:
    return [OpSpec(SLICE, 1, 0, {"first": int, "end": int}, _slice, "none")]


def _row_ops() -> list[OpSpec]:
    """Ops on each row by itself."""
    rope = {"heads": int, "head_dim": int, "pairing": str, "mscale": float}
    return [
        OpSpec("embed", 0, 1, {}, _embed, "rows", matrices=1, cost="lookup"),
        OpSpec(
            "select",
            1,
            0,
            {},
            lambda n, i, w: ValueType(i[0].dtype, "W", i[0].columns),
            "rows",
            crosses_rows=True,
        ),
        OpSpec("rms_norm", 1, (0, 1), {"eps": float, "groups": int}, _norm, "rows", 0),
        OpSpec("layer_norm", 1, (0, 2), {"eps": float, "groups": int}, _norm, "rows", 0),
        OpSpec("bias", 1, 1, {}, _bias, "rows", 0, epilogue="bias"),
        OpSpec("add", 2, 0, {}, _pair, "rows", 0, epilogue="residual"),
        OpSpec("scale", 1, 0, {"by": float}, _same, "rows", 0),
        OpSpec("softcap", 1, 0, {"cap": float}, _same, "rows", 0),
        OpSpec("act", 1, 0, {"kind": str}, _same, "rows", 0),
        OpSpec("glu", 2, 0, {"kind": str}, _pair, "rows", 0, epilogue="gate"),
        OpSpec("mul_row", 2, 0, {}, _same, "rows", 0),
        OpSpec("rope", 1, 1, rope, _same, "rows", 0, rotates=True),
        # Made by the quantize pass.
        OpSpec(
            QUANTIZE,
            1,
            0,
            {"group": int},
            lambda n, i, w: ValueType(f"q{n.attrs['group']}", i[0].rows, i[0].columns),
            "rows",
        ),
    ]


def _attention_ops() -> list[OpSpec]:
    shape: dict[str, type] = {"heads": int, "kv_heads": int, "head_dim": int, "head_dim_v": int}
    attrs = shape | {"scale": float, "softcap": float, "window": int}
    return [
        OpSpec("kv_store", 2, 0, shape, _kv_store, "rows", state="kv", writes=True),
        OpSpec("attention", 2, 0, attrs, _attention, "heads", cost="positions", state="kv", reads=True),
    ]


def _expert_ops() -> list[OpSpec]:
    return [
        OpSpec(
            "route",
            1,
            0,
            {"experts": int, "used": int, "gating": str, "normalize": bool, "scale": float},
            lambda n, i, w: ValueType("route", "T", int(n.attrs["used"])),
            "rows",
            routes=True,
        ),
        OpSpec("gather", 2, 0, {}, _columns_of("P"), "rows", crosses_rows=True, before="sort_pairs"),
        OpSpec("combine", 2, 0, {}, _columns_of("T"), "rows", crosses_rows=True),
    ]


def _products() -> list[OpSpec]:
    """Ops that multiply with matrices; those after the first two are made by the fuse pass."""

    def product(
        name: str, inputs: int | tuple[int, ...], weights: int | tuple[int, int], infer: Infer, **rest: Any
    ) -> OpSpec:
        attrs = rest.pop("attrs", {})
        rest |= {"cost": "product", "shared_activations": True}
        return OpSpec(name, inputs, weights, attrs, infer, "panels", **rest)

    expert_gate = {"gate": "expert_glu"}
    return [
        product("matmul", 1, 1, _matmul, matrices=1, alone="linear", epilogues={"bias": "linear"}),
        product("expert_matmul", 2, 1, _expert_matmul, matrices=1, epilogues=expert_gate),
        product(
            "linear",
            (1, 2),
            (1, 64),
            _linear,
            attrs={"segments": int, "biases": str},
            in_place=1,
            matrices=lambda node: int(node.attrs["segments"]),
            segments=True,
            residual=1,
            epilogues={"residual": "linear", "gate": "linear_glu"},
        ),
        product("linear_glu", 1, (2, 4), _linear_glu, attrs={"kind": str, "biases": str}, matrices=2),
        product("expert_glu", 2, 2, _expert_matmul, attrs={"kind": str}, matrices=2),
    ]


OPS: Mapping[str, OpSpec] = MappingProxyType(
    {spec.name: spec for spec in (*_views(), *_row_ops(), *_attention_ops(), *_expert_ops(), *_products())}
)


def spec(node: Node) -> OpSpec:
    """The declaration of a node's op."""
    return OPS[node.op]


def matrices(node: Node) -> tuple[Ref, ...]:
    """The matrices that a node multiplies with or looks up in, biases left out."""
    count = spec(node).matrices
    return node.weights[: count if isinstance(count, int) else count(node)]


class InvalidGraph(ValueError):
    """A graph that breaks the grammar of its ops; a defect of the pass that made it."""


def _need(node: Node, condition: bool, message: str) -> None:
    if not condition:
        raise InvalidGraph(f"{node.output} = {node.op}: {message}")


def weight_shape(weights: Mapping[str, Weight], ref: Ref) -> tuple[int, ...]:
    """The shape a reference sees: a row range replaces the last dimension but one."""
    weight = weights[ref.name]
    if ref.first is None or ref.end is None:
        return weight.shape
    return (*weight.shape[:-2], ref.end - ref.first, weight.shape[-1])


def verify(graph: Graph) -> Graph:
    """Checks SSA order, arity, attributes, references and types; returns the graph.

    Raises :class:`InvalidGraph` naming the node.
    """
    types: dict[str, ValueType] = {}
    for node in graph.nodes:
        declared = OPS.get(node.op)
        if declared is None:
            raise InvalidGraph(f"{node.output}: unknown op {node.op!r}; known: {', '.join(OPS)}")
        _need(node, node.output not in types, "defined twice")
        for name in node.inputs:
            _need(node, name in types, f"{name} is used before it is defined")
        _verify_arity(node, declared)
        _verify_state(graph, node, declared)
        for ref in node.weights:
            _need(node, ref.name in graph.weights, f"weight {ref.name} is not declared")
            _verify_range(node, ref, graph.weights[ref.name])
        shapes = [weight_shape(graph.weights, ref) for ref in node.weights]
        inferred = declared.infer(node, [types[name] for name in node.inputs], shapes)
        _need(node, node.type == inferred, f"declared {node.type}, its inputs give {inferred}")
        types[node.output] = node.type
    used = {node.state for node in graph.nodes}
    if unused := [name for name in graph.states if name not in used]:
        raise InvalidGraph(f"no node uses the state {unused[0]}")
    if graph.output not in types:
        raise InvalidGraph(f"the graph returns {graph.output}, which no node makes")
    return graph


def _verify_arity(node: Node, declared: OpSpec) -> None:
    counts = declared.inputs if isinstance(declared.inputs, tuple) else (declared.inputs,)
    _need(node, len(node.inputs) in counts, f"{len(node.inputs)} inputs, {declared.inputs} expected")
    weights = declared.weights
    low, high = weights if isinstance(weights, tuple) else (weights, weights)
    _need(node, low <= len(node.weights) <= high, f"{len(node.weights)} weights, {declared.weights} expected")
    _need(
        node,
        set(node.attrs) == set(declared.attrs),
        f"attributes {sorted(node.attrs)}, {sorted(declared.attrs)} expected",
    )
    for key, kind in declared.attrs.items():
        _need(
            node,
            type(node.attrs[key]) is kind,
            f"attribute {key}={node.attrs[key]!r} is not a {kind.__name__}",
        )
    if "kind" in declared.attrs:
        _need(node, node.attrs["kind"] in ACTIVATIONS, f"unknown activation {node.attrs['kind']!r}")


def _verify_state(graph: Graph, node: Node, declared: OpSpec) -> None:
    if node.state is None:
        _need(node, not declared.state, f"no state, one of {declared.state} expected")
        return
    _need(node, node.state in graph.states, f"state {node.state} is not declared")
    state = graph.states[node.state]
    _need(node, state.content == declared.state, f"state {node.state}, one of {declared.state!r} expected")
    window = node.attrs.get("window", state.window)
    _need(node, window == state.window, f"looks back {window} positions, its state {state.window}")
    if "kv_heads" in node.attrs:
        shapes = [(node.attrs["kv_heads"], node.attrs[key]) for key in ("head_dim", "head_dim_v")]
        _need(node, [(p.rows, p.columns) for p in state.parts] == shapes, f"{state} is of other heads")


def _verify_range(node: Node, ref: Ref, weight: Weight) -> None:
    if ref.first is not None and ref.end is not None:
        _need(node, 0 <= ref.first < ref.end <= weight.shape[-2], f"{ref} lies outside {weight.shape}")
