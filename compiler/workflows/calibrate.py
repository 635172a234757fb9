"""Importance matrices made here: how large the inputs of every matrix are while a text runs through.

The unfused graph of a model runs over windows of tokens, each from an empty context, with the weights
as the file holds them. Its ops mean what :mod:`compiler.graph.interpret` says; those that do the work
(matrices, attention, experts) are written here for whole windows, in float32 through NumPy's BLAS. A
window's values are let go as soon as nothing reads them, a tensor is decoded when it is used: memory
holds the activations of a window and one matrix.

What comes out is a measurement, not part of the arithmetic contract: another BLAS may round otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.decoder import build_decoder
from compiler.graph import Node, Ref
from compiler.graph.interpret import OPERATIONS, Array, Inputs, Interpreter, Operation, Step
from compiler.graph.ops import spec
from compiler.model.description import ModelDescription
from compiler.model.reader import Rows, open_rows
from compiler.quantize import encode
from compiler.quantize.imatrix import Sums
from runtime.errors import EXIT_RUN, EXIT_USAGE, EngineError

#: ``progress(done, total)``, in windows.
Progress = Callable[[int, int], None]

#: The matrix that makes the logits, alone or tied to the embedding.
_OUTPUTS = ("output.weight", "token_embd.weight")


def collect(
    model: ModelDescription,
    windows: Sequence[npt.NDArray[np.int32]],
    *,
    output: bool = False,
    progress: Progress | None = None,
) -> dict[str, Sums]:
    """The squared inputs of every matrix of the layers, summed over all tokens of ``windows``.

    ``windows``: int32 token ids, each of at most the model's trained context. ``output``: the output
    projection as well, whose weights other programs leave without importance. Raises what building the
    graph raises, ``context_too_long``, and ``numeric_error`` where an activation is not finite.
    """
    longest = max(len(window) for window in windows)
    trained = model.get("context_length")
    if isinstance(trained, int) and longest > trained:
        raise EngineError(
            "context_too_long",
            f"a window of {longest} tokens is more than the model was trained for",
            path="--context",
            allowed=f"at most {trained}",
            exit_code=EXIT_USAGE,
        )
    encode.library()
    with open_rows(model) as rows:
        decoder = build_decoder(model, lambda name: rows.float32(model.tensors[name]), longest)
        run = _Run(decoder.graph, decoder.constants, model=model, rows=rows)
        for done, window in enumerate(windows):
            if progress is not None:
                progress(done, len(windows))
            run.window(window)
        if progress is not None:
            progress(len(windows), len(windows))
        rows.check_unchanged()
    return {name: sums for name, sums in run.sums.items() if output or name not in _OUTPUTS}


@dataclass
class _Run(Interpreter):
    """The interpreter over whole windows. ``weights`` holds the graph's constants only."""

    model: ModelDescription = field(kw_only=True)
    rows: Rows = field(kw_only=True)
    sums: dict[str, Sums] = field(default_factory=dict)
    keys: dict[str, tuple[Array, Array]] = field(default_factory=dict)

    def window(self, tokens: npt.NDArray[np.int32]) -> None:
        count = len(tokens)
        step = Step(tokens, np.arange(count), np.zeros(count, int), np.ones(count, bool))
        last_use = {name: node.output for node in self.graph.nodes for name in node.inputs}
        values: dict[str, Any] = {}
        for node in self.graph.nodes:
            ins = [values[name] for name in node.inputs]
            if spec(node).cost == "product" and node.weights[0].name in _OUTPUTS:
                self.observe(node.weights[0].name, ins[0])
                return  # the logits themselves are nobody's input
            value = _WINDOW.get(node.op, OPERATIONS[node.op])(self, node, step, ins)
            if isinstance(value, np.ndarray) and value.dtype == np.float64:
                value = value.astype(np.float32)
            values[node.output] = value
            for name in set(node.inputs):
                if last_use[name] == node.output:
                    del values[name]

    def weight(self, ref: Ref) -> Array:
        if ref.name in self.weights:
            return self.weights[ref.name]
        shape = self.graph.weights[ref.name].shape
        columns = shape[-1]
        rows = int(np.prod(shape[:-1], dtype=np.int64))
        return self.part(ref.name, 0, rows).reshape(*shape[:-1], columns)

    def part(self, name: str, begin: int, end: int) -> Array:
        """Rows of a tensor, flattened to two dimensions, float32."""
        tensor = self.model.tensors[name]
        return encode.widen(self.rows(tensor, begin, end), tensor)

    def observe(self, name: str, x: Array, matrix: int = 0) -> None:
        """Adds the rows that a matrix of a tensor takes as its input."""
        squares = np.square(x, dtype=np.float64).sum(axis=0)
        if not np.isfinite(squares).all():
            raise EngineError(
                "numeric_error",
                f"an input of {name} became NaN or infinite",
                hint="the model is damaged, or its weights are too large for float32",
                exit_code=EXIT_RUN,
            )
        if name not in self.sums:
            tensor = self.model.tensors[name]
            stack = int(np.prod(tensor.shape[:-2], dtype=np.int64))
            self.sums[name] = Sums(np.zeros((stack, tensor.shape[-1])), np.zeros((stack, 1)))
        self.sums[name].squares[matrix] += squares
        self.sums[name].counts[matrix] += len(x)


def _embed(run: Interpreter, node: Node, step: Step, ins: Inputs) -> Array:
    assert isinstance(run, _Run)
    name = node.weights[0].name
    used, where = np.unique(step.token, return_inverse=True)
    return np.concatenate([run.part(name, int(i), int(i) + 1) for i in used])[where]


def _matmul(run: Interpreter, node: Node, step: Step, ins: Inputs) -> Array:
    assert isinstance(run, _Run)
    run.observe(node.weights[0].name, ins[0])
    return ins[0] @ run.weight(node.weights[0]).T


def _kv_store(run: Interpreter, node: Node, step: Step, ins: Inputs) -> str:
    assert isinstance(run, _Run)
    state, heads = str(node.state), int(node.attrs["kv_heads"])
    keys, values = (x.reshape(len(x), heads, -1).swapaxes(0, 1) for x in ins)
    run.keys[state] = keys, values
    return state


def _attention(run: Interpreter, node: Node, step: Step, ins: Inputs) -> Array:
    assert isinstance(run, _Run)
    q, state = ins
    heads, kv_heads, window = (int(node.attrs[k]) for k in ("heads", "kv_heads", "window"))
    keys, values = run.keys.pop(state)
    count, group = len(q), heads // kv_heads
    back = step.position[:, None] - step.position[None, :]
    seen = (back >= 0) & (back < window) if window else back >= 0
    mask = np.where(seen, np.float32(0), np.float32(-np.inf))
    out = np.empty((count, kv_heads, group, values.shape[-1]), np.float32)
    queries = q.reshape(count, kv_heads, group, -1)
    for h in range(kv_heads):
        for g in range(group):
            scores = (queries[:, h, g] @ keys[h].T) * np.float32(node.attrs["scale"])
            if cap := float(node.attrs["softcap"]):
                scores = cap * np.tanh(scores / cap)
            scores += mask
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            scores /= scores.sum(axis=1, keepdims=True)
            out[:, h, g] = scores @ values[h]
    return out.reshape(count, -1)


def _expert_matmul(run: Interpreter, node: Node, step: Step, ins: Inputs) -> Array:
    assert isinstance(run, _Run)
    x, route = ins
    name = node.weights[0].name
    rows = run.graph.weights[name].shape[1]
    experts = route.ids[route.pairs[:, 0], route.pairs[:, 1]]  # ascending
    out = np.empty((len(x), rows), np.float32)
    for expert in np.unique(experts):
        mine = slice(*np.searchsorted(experts, (expert, expert + 1)))
        run.observe(name, x[mine], int(expert))
        out[mine] = x[mine] @ run.part(name, int(expert) * rows, (int(expert) + 1) * rows).T
    return out


#: What is written for whole windows; everything else is the interpreter's.
_WINDOW: Mapping[str, Operation] = {
    "embed": _embed,
    "matmul": _matmul,
    "kv_store": _kv_store,
    "attention": _attention,
    "expert_matmul": _expert_matmul,
}
