"""Where things are, as C expressions: values, weights, rows, constants."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator

from compiler.formats import PANEL_ROWS, panel_bytes
from compiler.graph import LOGITS, Graph, Node, Ref
from compiler.graph.ops import QUANTIZED
from compiler.passes import Decisions
from compiler.passes.layout import round_up
from compiler.passes.memory import ALIGNMENT, quantized_parts, used_experts

#: Rows symbol → (C variable of the thread's span, C expression of the count).
ROWS = {"T": ("tokens", "e->n"), "W": ("wanted", "e->n_want"), "P": ("pairs", "e->n * USED_EXPERTS")}
#: Parts of a routing: experts, weights, token of a pair, pair of a token's rank.
ROUTE_PARTS = ("_EXPERTS", "_WEIGHTS", "_TOKENS", "_PAIRS")
_ROLE = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")


def c_name(value: str) -> str:
    """An SSA name in C: ``%3`` → ``X3``."""
    return f"X{value.removeprefix('%')}"


def float_literal(value: float) -> str:
    """A C float constant: the hexadecimal form of the value rounded to float32."""
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return f"{rounded.hex()}f" if rounded != int(rounded) or abs(rounded) > 1e6 else f"{rounded:.1f}f"


def role(name: str) -> str:
    """The C name of a weight's place in the table of layers: its name without the layer's number.

    Weight names are composed by :mod:`compiler.decoder`; the pattern is a second lock.
    """
    bare = re.sub(r"^blk\.\d+\.", "", name)
    if not _ROLE.fullmatch(bare):
        raise ValueError(f"not a weight name of ours: {name!r}")
    return bare.removesuffix(".weight").replace(".", "_")


class Places:
    """C expressions for a placed graph."""

    def __init__(self, graph: Graph, decisions: Decisions) -> None:
        self.graph, self.decisions = graph, decisions
        self.made = graph.producer()
        self.used = used_experts(graph)

    def value(self, name: str) -> str:
        """Pointer to a value's first float: %3 is X3 (see :meth:`names`)."""
        node = self.made[name]
        if node.place is None:
            raise ValueError(f"{name} has no place")
        return "e->logits" if node.place == LOGITS else c_name(name)

    def names(self, names: Iterable[str]) -> Iterator[tuple[str, str]]:
        """C name and place of each value, or of each of its parts, that lies in the arena."""
        for name in names:
            node = self.made[name]
            if node.place is None or node.place == LOGITS:
                continue
            parts = self._parts(node)
            for suffix, at in parts:
                yield f"{c_name(name)}{suffix}", f"AT({at:#x})"

    def _parts(self, node: Node) -> list[tuple[str, int]]:
        """Suffix and offset in the arena of what a value consists of."""
        base = node.place or 0
        if node.type.dtype in QUANTIZED:
            codes, scales, _ = quantized_parts(node.type, self.rows_capacity(node))
            return [("_CODES", base), ("_SCALES", base + codes), ("_SUMS", base + codes + scales)]
        if node.type.dtype == "route":
            size = round_up(self.decisions.step_tokens * node.type.columns * 4, ALIGNMENT)
            return [(suffix, base + i * size) for i, suffix in enumerate(ROUTE_PARTS)]
        return [("", base)]

    def row(self, name: str, index: str = "t") -> str:
        """Pointer to row ``index`` of a value."""
        return f"{self.value(name)} + (int64_t){index} * {self.made[name].stride}"

    def quantized(self, node: Node) -> tuple[str, str, str]:
        """Pointers to the codes, scales and sums of a quantized value."""
        name = c_name(node.output)
        return f"(int8_t *){name}_CODES", f"{name}_SCALES", f"(int16_t *){name}_SUMS"

    def rows_capacity(self, node: Node) -> int:
        return self.decisions.step_tokens * (self.used if node.type.rows == "P" else 1)

    def activations(self, name: str) -> str:
        """An ``activations`` initialiser for a projection's first input."""
        node = self.made[name]
        count = ROWS[node.type.rows][1]
        if node.type.dtype == "f32":
            if node.stride != node.type.columns:
                raise ValueError(f"{name}: float panels need rows without gaps")
            return f"{{{count}, {self.value(name)}, NULL, NULL, NULL}}"
        codes, scales, sums = self.quantized(node)
        return f"{{{count}, NULL, {codes}, {scales}, {sums}}}"

    def offset(self, ref: Ref) -> str:
        """Offset of a weight in weights.bin: a field of the layer's row, or a constant outside layers."""
        weight = self.graph.weights[ref.name]
        extra = 0
        if ref.first:
            extra = ref.first // PANEL_ROWS * panel_bytes(weight.type, weight.shape[-1])
        if ref.name.startswith("blk."):
            return f"L->{role(ref.name)}" + (f" + {extra}" if extra else "")
        return f"{(weight.offset or 0) + extra:#x}"

    def vector(self, ref: Ref) -> str:
        return f"VECTOR({self.offset(ref)})"

    def matrix(self, ref: Ref) -> str:
        return f"MATRIX({self.offset(ref)})"
