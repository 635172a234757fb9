"""The static op graph: what a step computes, one node a line.

Grammar of the text form (``Graph.to_text`` writes it, ``parse`` reads it back)::

    graph    = { weight } { state } { node } "return" value
    weight   = "weight" name ":" type "[" dims "]" [ "at" offset ]
    state    = "state" name ":" ( "paged" | "fixed" ) part { part } [ "window" int ]
               "rewind" ( "positions" | "snapshot" | "no" )
               [ "as" element [ "holds" int ] "at" offset ]
    part     = name "[" rows "," columns "]"         numbers of a position (paged) or of a slot (fixed)
    node     = value ":" type [ "at" place "stride" int ] "="
               op "(" [ value { "," value } ] [ ";" ref { "," ref } ] ")"
               [ "{" key "=" literal { "," key "=" literal } "}" ]
               [ "state" name ] [ "layer" int ] [ "phase" int ]
    type     = dtype "[" rows "," columns "]"        rows: T (tokens of the step), W (tokens whose
                                                     logits are wanted) or P (token x used expert pairs)
    ref      = name [ "[" first ":" end "]" ]        a weight, or a range of its rows
    place    = "arena+" offset | "logits"            byte offset in the arena, or the caller's buffer;
                                                     stride: columns from one row to the next
    dtype    = "f32" | "q256" | "q32" | "i32" | "kv" | "route"

``q256`` and ``q32`` are int8 codes in groups of 256 or 32 with their scales and
sums (``activations`` in ``kernels_c/README.md``). ``kv`` stands for the effect
of writing a layer's keys and values, so that attention is ordered after it. What
states are is in :mod:`compiler.graph.states`. ``route``
holds expert ids and weights. The ops are declared in :mod:`compiler.graph.ops`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from compiler.graph.states import State, parse_state

Literal = int | float | str | bool

#: ``Node.place`` of a value that lives in the caller's logits buffer.
LOGITS = -1


@dataclass(frozen=True)
class ValueType:
    """``dtype[rows, columns]``; rows is the symbol ``T``, ``W`` or ``P``."""

    dtype: str
    rows: str
    columns: int

    def __str__(self) -> str:
        return f"{self.dtype}[{self.rows},{self.columns}]"


@dataclass(frozen=True)
class Weight:
    """A constant of the graph. ``shape`` outermost first; ``type`` is the format the
    kernels read once the assign pass ran, ``offset`` its place in ``weights.bin``."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int | None = None


@dataclass(frozen=True)
class Ref:
    """A use of a weight, or of rows ``[first, end)`` of it."""

    name: str
    first: int | None = None
    end: int | None = None

    def __str__(self) -> str:
        return self.name if self.first is None else f"{self.name}[{self.first}:{self.end}]"


@dataclass(frozen=True)
class Node:
    """One op applied. ``output`` is the SSA name (``%7``).

    The phases pass sets ``phase`` (nodes of one phase run without a barrier between
    them), the memory pass ``place``: an arena offset in bytes, or :data:`LOGITS`, and
    ``stride``, the columns from one row to the next. ``state``: what it reads or writes of its layer.
    """

    output: str
    type: ValueType
    op: str
    inputs: tuple[str, ...] = ()
    weights: tuple[Ref, ...] = ()
    attrs: Mapping[str, Literal] = field(default_factory=lambda: MappingProxyType({}))
    layer: int | None = None
    phase: int | None = None
    place: int | None = None
    stride: int | None = None
    state: str | None = None

    def with_attrs(self, **attrs: Literal) -> Node:
        return replace(self, attrs=MappingProxyType({**self.attrs, **attrs}))

    def __str__(self) -> str:
        place = ""
        if self.place is not None:
            where = "logits" if self.place == LOGITS else f"arena+{self.place:#x}"
            place = f" at {where} stride {self.stride}"
        args = ", ".join(self.inputs)
        if self.weights:
            args += "; " + ", ".join(map(str, self.weights))
        text = f"{self.output}: {self.type}{place} = {self.op}({args})"
        if self.attrs:
            text += " {" + ", ".join(f"{k}={_literal(v)}" for k, v in sorted(self.attrs.items())) + "}"
        if self.state is not None:
            text += f" state {self.state}"
        if self.layer is not None:
            text += f" layer {self.layer}"
        if self.phase is not None:
            text += f" phase {self.phase}"
        return text


@dataclass(frozen=True)
class Graph:
    """Nodes in execution order, the weights they use, the value returned, and the layers' states."""

    nodes: tuple[Node, ...]
    weights: Mapping[str, Weight]
    output: str
    states: Mapping[str, State] = field(default_factory=lambda: MappingProxyType({}))

    def producer(self) -> dict[str, Node]:
        """SSA name → the node that makes it."""
        return {node.output: node for node in self.nodes}

    def uses(self) -> dict[str, list[Node]]:
        """SSA name → the nodes that read it, in order."""
        found: dict[str, list[Node]] = {node.output: [] for node in self.nodes}
        for node in self.nodes:
            for name in node.inputs:
                found[name].append(node)
        return found

    def to_text(self) -> str:
        """The one-line-a-node form; :func:`parse` reads it back to an equal graph."""
        lines = []
        for weight in self.weights.values():
            dims = ",".join(map(str, weight.shape))
            at = f" at {weight.offset:#x}" if weight.offset is not None else ""
            lines.append(f"weight {weight.name}: {weight.type}[{dims}]{at}")
        lines += [str(part) for part in (*self.states.values(), *self.nodes)]
        lines.append(f"return {self.output}")
        return "\n".join(lines) + "\n"


class GraphBuilder:
    """Appends nodes with fresh SSA names; the only place where names are made."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.layer: int | None = None

    def add(
        self,
        op: str,
        type: ValueType,
        inputs: Iterable[str] = (),
        weights: Iterable[Ref | str] = (),
        state: str | None = None,
        **attrs: Literal,
    ) -> str:
        refs = tuple(w if isinstance(w, Ref) else Ref(w) for w in weights)
        name = f"%{len(self.nodes)}"
        node = Node(name, type, op, tuple(inputs), refs, MappingProxyType(attrs), self.layer, state=state)
        self.nodes.append(node)
        return name

    def type(self, value: str) -> ValueType:
        return self.nodes[int(value[1:])].type


def renumber(nodes: Iterable[Node], output: str) -> tuple[tuple[Node, ...], str]:
    """The same nodes with SSA names %0, %1 … in order: names are stable under any pass."""
    names: dict[str, str] = {}
    result = []
    for node in nodes:
        names[node.output] = f"%{len(names)}"
        result.append(replace(node, output=names[node.output], inputs=tuple(names[i] for i in node.inputs)))
    return tuple(result), names[output]


def _literal(value: Literal) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if not isinstance(value, str) else value


_NODE = re.compile(
    r"(?P<out>%\d+): (?P<dtype>\w+)\[(?P<rows>[TWP]),(?P<cols>\d+)\]"
    r"(?: at (?:arena\+(?P<place>0x[0-9a-f]+)|(?P<logits>logits)) stride (?P<stride>\d+))?"
    r" = (?P<op>\w+)\((?P<args>[^)]*)\)(?: \{(?P<attrs>[^}]*)\})?"
    r"(?: state (?P<state>\S+))?(?: layer (?P<layer>\d+))?(?: phase (?P<phase>\d+))?"
)
_WEIGHT = re.compile(r"weight (?P<name>\S+): (?P<type>\w+)\[(?P<dims>[\d,]+)\](?: at (?P<at>0x[0-9a-f]+))?")
_REF = re.compile(r"(?P<name>[^\[\]]+)(?:\[(?P<first>\d+):(?P<end>\d+)\])?")


def parse(text: str) -> Graph:
    """Reads the text form.

    Raises ValueError naming the line that does not follow the grammar.
    """
    nodes: list[Node] = []
    weights: dict[str, Weight] = {}
    states: dict[str, State] = {}
    output = ""
    for number, line in _lines(text):
        if line.startswith("return "):
            output = line.removeprefix("return ").strip()
        elif match := _WEIGHT.fullmatch(line):
            dims = tuple(int(d) for d in match["dims"].split(","))
            at = int(match["at"], 16) if match["at"] else None
            weights[match["name"]] = Weight(match["name"], match["type"], dims, at)
        elif state := parse_state(line):
            states[state.name] = state
        elif match := _NODE.fullmatch(line):
            nodes.append(_parse_node(match))
        else:
            raise ValueError(f"line {number}: not a weight, a state, a node or a return: {line!r}")
    if not output:
        raise ValueError("no return line")
    return Graph(tuple(nodes), MappingProxyType(weights), output, MappingProxyType(states))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if stripped := line.strip():
            yield number, stripped


def _parse_node(match: re.Match[str]) -> Node:
    values, _, refs = match["args"].partition(";")
    attrs = dict(_parse_attr(item) for item in (match["attrs"] or "").split(", ") if item)
    return Node(
        output=match["out"],
        type=ValueType(match["dtype"], match["rows"], int(match["cols"])),
        op=match["op"],
        inputs=tuple(v.strip() for v in values.split(",") if v.strip()),
        weights=tuple(_parse_ref(r.strip()) for r in refs.split(",") if r.strip()),
        attrs=MappingProxyType(attrs),
        layer=int(match["layer"]) if match["layer"] else None,
        phase=int(match["phase"]) if match["phase"] else None,
        place=LOGITS if match["logits"] else int(match["place"], 16) if match["place"] else None,
        stride=int(match["stride"]) if match["stride"] else None,
        state=match["state"],
    )


def _parse_ref(text: str) -> Ref:
    match = _REF.fullmatch(text)
    if match is None:
        raise ValueError(f"not a weight reference: {text!r}")
    if match["first"] is None:
        return Ref(match["name"])
    return Ref(match["name"], int(match["first"]), int(match["end"]))


def _parse_attr(item: str) -> tuple[str, Literal]:
    key, _, text = item.partition("=")
    if text in ("true", "false"):
        return key, text == "true"
    for convert in (int, float):
        try:
            return key, convert(text)
        except ValueError:
            continue
    return key, text
