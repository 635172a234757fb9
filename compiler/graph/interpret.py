"""A NumPy executor of any graph: the living definition of what each op means.

Float64 inside, slow and plain. Kernels are compared with it within a tolerance;
bits are the business of the reference kernels. Quantized weights are given
dequantized; ``quantize`` is the identity here, so the interpreter of a quantized
graph shows the model that the activations' rounding departs from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from compiler.graph import Graph, Node, Ref

#: A float64 array. (``Any``: values of a graph are arrays, routings and effects; NumPy's own stubs
#: type what is computed from them as Any.)
Array = Any
Inputs = list[Any]


@dataclass
class Step:
    """One step: ``token``, ``position``, ``slot`` int ``[T]`` and ``want`` bool ``[T]``."""

    token: Array
    position: Array
    slot: Array
    want: Array


@dataclass
class Interpreter:
    """Holds the states between steps, by name and slot.

    ``weights`` maps a weight's name to its values (``float``, in the graph's shape;
    inverse frequencies for rotation tables).
    """

    graph: Graph
    weights: Mapping[str, Array]
    cache: dict[tuple[str, int], tuple[list[Array], list[Array]]] = field(default_factory=dict)

    def run(self, step: Step) -> Array:
        """Logits ``float64 [count(want), vocab]`` of one step."""
        values: dict[str, object] = {}
        for node in self.graph.nodes:
            values[node.output] = OPERATIONS[node.op](self, node, step, [values[i] for i in node.inputs])
        return values[self.graph.output]

    def weight(self, ref: Ref) -> Array:
        value = np.asarray(self.weights[ref.name], dtype=np.float64)
        value = value.reshape(self.graph.weights[ref.name].shape)
        return value if ref.first is None else value[..., ref.first : ref.end, :]


Operation = Callable[[Interpreter, Node, Step, Inputs], object]
OPERATIONS: dict[str, Operation] = {}


def _op(function: Operation) -> Operation:
    OPERATIONS[function.__name__.removeprefix("op_")] = function
    return function


@_op
def op_embed(run: Interpreter, node: Node, step: Step, ins: Inputs) -> Array:
    return run.weight(node.weights[0])[step.token]


@_op
def op_select(run: Interpreter, node: Node, step: Step, ins: Inputs) -> Array:
    return ins[0][step.want.astype(bool)]


@_op
def op_slice(run: Interpreter, node: Node, step: Step, ins: Inputs) -> Array:
    return ins[0][:, node.attrs["first"] : node.attrs["end"]]


@_op
def op_rms_norm(run: Interpreter, node: Node, step: Step, ins: Inputs) -> Array:
    x = _grouped(ins[0], node)
    x = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + node.attrs["eps"])
    return _affine(run, node, x, ins[0].shape)


@_op
def op_layer_norm(run: Interpreter, node: Node, step: Step, ins: Inputs) -> Array:
    x = _grouped(ins[0], node)
    x = x - np.mean(x, axis=-1, keepdims=True)
    x = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + node.attrs["eps"])
    return _affine(run, node, x, ins[0].shape)


def _grouped(x: Array, node: Node) -> Array:
    return x.reshape(x.shape[0], int(node.attrs["groups"]), -1)


def _affine(run: Interpreter, node: Node, x: Array, shape: tuple[int, ...]) -> Array:
    """Weight, then bias; of a group's length shared by the groups, or of the row's."""
    for index, ref in enumerate(node.weights):
        w = run.weight(ref).reshape(-1)
        w = w.reshape(x.shape[1:]) if w.size == x.shape[1] * x.shape[2] else w
        x = x * w if index == 0 else x + w
    return x.reshape(shape)


@_op
def op_matmul(run: Interpreter, node: Node, step: Step, ins: Inputs) -> Array:
    return ins[0] @ run.weight(node.weights[0]).T


@_op
def op_bias(run: Interpreter, node: Node, step: Step, ins: Inputs) -> Array:
    return ins[0] + run.weight(node.weights[0])


@_op
def op_linear(run: Interpreter, node: Node, step: Step, ins: Inputs) -> Array:
    segments = int(node.attrs["segments"])
    biases = iter(node.weights[segments:])
    parts = []
    for ref, has_bias in zip(node.weights[:segments], str(node.attrs["biases"]), strict=True):
        part = ins[0] @ run.weight(ref).T
        parts.append(part + run.weight(next(biases)) if has_bias == "b" else part)
    out = np.concatenate(parts, axis=1)
    return out + ins[1] if len(ins) == 2 else out


@_op
def op_linear_glu(run: Interpreter, node: Node, step: Step, ins: Inputs) -> Array:
    biases = iter(node.weights[2:])
    gate, up = (
        ins[0] @ run.weight(ref).T + (run.weight(next(biases)) if has == "b" else 0.0)
        for ref, has in zip(node.weights[:2], str(node.attrs["biases"]), strict=True)
    )
    return activate(str(node.attrs["kind"]), gate) * up


@_op
def op_quantize(run: Interpreter, node: Node, step: Step, ins: Inputs) -> Array:
    return ins[0]


@_op
def op_add(run: Interpreter, node: Node, step: Step, ins: Inputs) -> Array:
    return ins[0] + ins[1]


@_op
def op_mul_row(run: Interpreter, node: Node, step: Step, ins: Inputs) -> Array:
    return ins[0] * ins[1]


@_op
def op_scale(run: Interpreter, node: Node, step: Step, ins: Inputs) -> Array:
    return ins[0] * node.attrs["by"]


@_op
def op_softcap(run: Interpreter, node: Node, step: Step, ins: Inputs) -> Array:
    cap = node.attrs["cap"]
    return cap * np.tanh(ins[0] / cap)


@_op
def op_act(run: Interpreter, node: Node, step: Step, ins: Inputs) -> Array:
    return activate(str(node.attrs["kind"]), ins[0])


@_op
def op_glu(run: Interpreter, node: Node, step: Step, ins: Inputs) -> Array:
    return activate(str(node.attrs["kind"]), ins[0]) * ins[1]


_erf = np.vectorize(math.erf, otypes=[np.float64])


def activate(kind: str, x: Array) -> Array:
    """The activations of the grammar, elementwise."""
    if kind == "silu":
        return x / (1.0 + np.exp(-x))
    if kind == "gelu":
        return 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0)))
    if kind == "gelu_tanh":
        return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    if kind == "sigmoid":
        return 1.0 / (1.0 + np.exp(-x))
    if kind == "tanh":
        return np.tanh(x)
    if kind == "relu2":
        return np.square(np.maximum(x, 0.0))
    raise ValueError(f"unknown activation {kind!r}")


@_op
def op_rope(run: Interpreter, node: Node, step: Step, ins: Inputs) -> Array:
    inverse = run.weight(node.weights[0])
    heads, pairs = int(node.attrs["heads"]), inverse.shape[0]
    x = ins[0].reshape(ins[0].shape[0], heads, -1).copy()
    angle = step.position[:, None, None] * inverse
    cos, sin = np.cos(angle) * node.attrs["mscale"], np.sin(angle) * node.attrs["mscale"]
    if node.attrs["pairing"] == "norm":
        first, second = slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)
    else:
        first, second = slice(0, pairs), slice(pairs, 2 * pairs)
    a, b = x[..., first].copy(), x[..., second].copy()
    x[..., first], x[..., second] = a * cos - b * sin, a * sin + b * cos
    return x.reshape(ins[0].shape)


@_op
def op_kv_store(run: Interpreter, node: Node, step: Step, ins: Inputs) -> str:
    heads, state = int(node.attrs["kv_heads"]), str(node.state)
    for t, (slot, position) in enumerate(zip(step.slot, step.position, strict=True)):
        keys, values = run.cache.setdefault((state, int(slot)), ([], []))
        del keys[int(position) :], values[int(position) :]
        keys.append(ins[0][t].reshape(heads, -1))
        values.append(ins[1][t].reshape(heads, -1))
    return state


@_op
def op_attention(run: Interpreter, node: Node, step: Step, ins: Inputs) -> Array:
    q, state = ins
    heads, kv_heads, window = (int(node.attrs[k]) for k in ("heads", "kv_heads", "window"))
    out = np.empty((q.shape[0], node.type.columns))
    for t, (slot, position) in enumerate(zip(step.slot, step.position, strict=True)):
        first = max(0, int(position) + 1 - window) if window else 0
        keys, values = (np.stack(c[first : int(position) + 1], axis=1) for c in run.cache[state, int(slot)])
        group = q[t].reshape(kv_heads, heads // kv_heads, -1)
        scores = np.einsum("hgd,htd->hgt", group, keys) * node.attrs["scale"]
        if cap := float(node.attrs["softcap"]):
            scores = cap * np.tanh(scores / cap)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        out[t] = np.einsum("hgt,htd->hgd", scores, values).reshape(-1)
    return out


@dataclass
class Routing:
    """``ids`` int and ``weights`` float, both ``[T, used]``; ``pairs``: (token, rank) sorted by expert."""

    ids: Array
    weights: Array
    pairs: Array


@_op
def op_route(run: Interpreter, node: Node, step: Step, ins: Inputs) -> Routing:
    logits, used = ins[0], int(node.attrs["used"])
    if node.attrs["gating"] == "softmax":
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
    else:
        scores = 1.0 / (1.0 + np.exp(-logits))
    # Descending, ties to the lowest expert.
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :used]
    weights = np.take_along_axis(scores, ids, axis=1)
    if node.attrs["normalize"]:
        weights = weights / np.maximum(weights.sum(axis=1, keepdims=True), 2.0**-14)
    token, rank = np.divmod(np.arange(ids.size), used)
    order = np.argsort(ids.reshape(-1), kind="stable")
    return Routing(ids, weights * node.attrs["scale"], np.stack([token[order], rank[order]], axis=1))


@_op
def op_gather(run: Interpreter, node: Node, step: Step, ins: Inputs) -> Array:
    x, route = ins
    return x[route.pairs[:, 0]]


@_op
def op_expert_matmul(run: Interpreter, node: Node, step: Step, ins: Inputs) -> Array:
    x, route = ins
    weight = run.weight(node.weights[0])
    experts = route.ids[route.pairs[:, 0], route.pairs[:, 1]]
    return np.stack([weight[e] @ row for e, row in zip(experts, x, strict=True)]) if len(x) else x[:, :0]


@_op
def op_expert_glu(run: Interpreter, node: Node, step: Step, ins: Inputs) -> Array:
    x, route = ins
    gate, up = (run.weight(ref) for ref in node.weights)
    experts = route.ids[route.pairs[:, 0], route.pairs[:, 1]]
    kind = str(node.attrs["kind"])
    return np.stack(
        [activate(kind, gate[e] @ row) * (up[e] @ row) for e, row in zip(experts, x, strict=True)]
    )


@_op
def op_combine(run: Interpreter, node: Node, step: Step, ins: Inputs) -> Array:
    y, route = ins
    out = np.zeros((route.ids.shape[0], y.shape[1]))
    for row, (token, rank) in zip(y, route.pairs, strict=True):
        out[token] += route.weights[token, rank] * row
    return out
