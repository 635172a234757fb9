"""The functions of forward.c that multiply with packed weights, each distinct one once."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.emit.timers import op_label
from compiler.formats import PANEL_ROWS, panel_bytes
from compiler.graph import Graph, Node, Ref
from compiler.graph.ops import matrices, spec, weight_shape


@dataclass(frozen=True)
class Segment:
    """One weight of a projection: ``units`` panels of 16 rows, computed by ``kernel``."""

    index: int
    format: str
    rows: int
    k: int
    column: int
    first_unit: int
    bias: int | None

    @property
    def units(self) -> int:
        return -(-self.rows // PANEL_ROWS)

    @property
    def end_unit(self) -> int:
        return self.first_unit + self.units

    @property
    def panel_bytes(self) -> int:
        return panel_bytes(self.format, self.k)

    @property
    def matrix_bytes(self) -> int:
        return self.units * self.panel_bytes

    @property
    def kernel(self) -> str:
        return f"panel_{self.format}_k{self.k}"

    @property
    def title(self) -> str:
        return f"{self.format} [{self.rows} x {self.k}]" + (" + bias" if self.bias is not None else "")

    @property
    def panel(self) -> str:
        """The panel of this weight that a unit of the projection is, in C."""
        return f"unit - {self.first_unit}" if self.first_unit else "unit"

    @property
    def bias_at(self) -> str:
        """Its bias from the panel's first column on, in C."""
        return f"b[{self.bias}] + column" if self.bias is not None else "NULL"

    def row_at(self, array: str, stride: int) -> str:
        """Row t of an array with the projection's columns, from the panel's first one on, in C."""
        before = f" + {self.column}" if self.column else ""
        return f"{array} + (int64_t)t * {stride}{before} + column"


@dataclass(frozen=True)
class Projection:
    """What makes two projections the same C function. ``label``: the op and its place in the model."""

    label: str
    op: str
    segments: tuple[Segment, ...]
    activation: str
    residual: int | None
    stride: int

    @property
    def units(self) -> int:
        return self.segments[-1].end_unit

    @property
    def title(self) -> str:
        return ", ".join(s.title for s in self.segments)

    def branches(self) -> list[tuple[str, Segment]]:
        """The segments, each with the C that opens its branch over ``unit``; one alone has none."""
        if len(self.segments) == 1:
            return [("", self.segments[0])]
        opened = [f"}} else if (unit < {segment.end_unit}) {{" for segment in self.segments]
        opened[0] = opened[0].removeprefix("} else ")
        opened[-1] = "} else {"
        return [(f"{text} /* {s.title} */", s) for text, s in zip(opened, self.segments, strict=True)]

    def out_at(self, segment: Segment) -> str:
        """Where a segment's panel of row t goes, in C."""
        return segment.row_at("out", self.stride)

    def residual_at(self, segment: Segment) -> str:
        """What is added to it and its stride, in C."""
        if self.residual is None:
            return "NULL, 0"
        return f"{segment.row_at('residual', self.residual)}, {self.residual}"


def projection(graph: Graph, node: Node) -> Projection:
    """The function a projection node calls."""
    declared, refs = spec(node), matrices(node)
    flags = str(node.attrs.get("biases", "-" * len(refs)))
    segments: list[Segment] = []
    column, unit, bias = 0, 0, 0
    for index, (ref, flag) in enumerate(zip(refs, flags, strict=True)):
        *_, rows, k = weight_shape(graph.weights, ref)
        has_bias = flag == "b"
        segment = Segment(
            index, graph.weights[ref.name].type, rows, k, column, unit, bias if has_bias else None
        )
        segments.append(segment)
        if declared.segments:  # gate and up share their units and columns
            column, unit = column + rows, segment.end_unit
        bias += has_bias
    added = declared.residual is not None and len(node.inputs) > declared.residual
    residual = graph.producer()[node.inputs[declared.residual or 0]].stride if added else None
    return Projection(
        op_label(node), node.op, tuple(segments), str(node.attrs.get("kind", "")), residual, node.stride or 0
    )


def split_refs(node: Node, function: Projection) -> tuple[tuple[Ref, ...], tuple[Ref, ...]]:
    """A projection node's matrices and biases."""
    count = len(function.segments)
    return node.weights[:count], node.weights[count:]
