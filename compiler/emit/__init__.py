"""Graph → C text. Pure: no files are written and no compiler is started here.

``emit`` returns the bundle's ``kernels/`` folder as texts: ``engine.c``, the one
translation unit, and everything it includes. Templates are strict: a name that is
not given is an error. Only enums, bounded integers and floats reach C; names come
from the graph's numbering and the decoder's own roles.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain, count, groupby
from types import MappingProxyType

import jinja2
import numpy as np

from compiler.backends import Backend
from compiler.build import KERNELS
from compiler.emit.layers import layer_shapes, roles, split_layers, states_of
from compiler.emit.places import ROUTE_PARTS, ROWS, Places, c_name, float_literal
from compiler.emit.projections import Projection, projection, split_refs
from compiler.emit.timers import enumerator, op_label, op_labels
from compiler.graph import Graph, Node
from compiler.graph.ops import OpSpec, spec
from compiler.graph.states import PAGE, PageGroup, State, fixed_bytes, page_groups, rewindable
from compiler.kernels import Kernel
from compiler.passes import Decisions
from compiler.passes.layout import ROTATION, round_up, weights_bytes
from compiler.passes.memory import arena_bytes

#: ATTENTION_ROWS of kernels_c/include/activations.h.
ATTENTION_ROWS = 64
#: Most tokens whose panel sums a thread holds at a time.
TOKEN_TILE = 256


@dataclass(frozen=True)
class EmitRequest:
    """All that the C depends on. ``constants``: inverse rotation frequencies by weight name."""

    graph: Graph
    decisions: Decisions
    backend: Backend
    constants: Mapping[str, np.ndarray]
    op_timing: bool
    plan_digest: str

    @property
    def context(self) -> int:
        return self.decisions.context

    @property
    def slots(self) -> int:
        return self.decisions.slots

    @property
    def kv_cache(self) -> str:
        return self.decisions.kv_cache


@dataclass(frozen=True)
class Emitted:
    """``sources``: relative name → text; ``units``: those to compile. Sizes in bytes."""

    sources: Mapping[str, str]
    units: tuple[str, ...]
    weights_bytes: int
    arena_bytes: int
    kv_bytes: int


@dataclass(frozen=True)
class Group:
    """The nodes of one phase, whether a barrier stands before it, and, where they share out rows,
    the C variable of such a share and how many rows there are."""

    nodes: tuple[Node, ...]
    barrier: bool
    rows: tuple[str, str] | None


def emit(request: EmitRequest) -> Emitted:
    """The C of a placed graph for one backend."""
    view = _View(request)
    templates = _environment()
    sources = {bundle_name(name): _text(name) for name in _static_files(request.backend)}
    for row, k in view.panels():
        sources[f"{row.c_name(k)}.h"] = panel_source(row, k)
    for name in ("config.h", "kernels.h", "forward.c"):
        sources[name] = templates.get_template(f"{name}.j2").render(v=view, d=request)
    sources = {name: _tidy(text) for name, text in sorted(sources.items())}
    return Emitted(
        MappingProxyType(sources), ("engine.c",), view.weights_bytes, view.arena_bytes, view.kv_bytes
    )


def panel_source(row: Kernel, k: int) -> str:
    """The text of a panel kernel for rows of ``k`` elements."""
    return _tidy(_environment().get_template(row.template).render(name=row.c_name(k), format=row.format, k=k))


def _static_files(backend: Backend) -> list[str]:
    """C that is copied as it is: the engine's own and the backend's kernel set."""
    own = ["engine.c", "sampling.c", "guard.c", "include/step.h", "include/rotary.h"]
    return [*own, *(name for name in backend.sources if name not in own)]


def bundle_name(name: str) -> str:
    """A file's name in the bundle, where all stand in one folder: ``simd/rows.c`` → ``simd_rows.c``."""
    return name.removeprefix("include/").replace("/", "_")


def _text(name: str) -> str:
    return (KERNELS / name).read_text(encoding="utf-8")


def _tidy(text: str) -> str:
    """No trailing spaces, no runs of blank lines: templates leave both."""
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: _text(name)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["f"] = float_literal
    return environment


class _View:
    """What the templates see: the graph in C's terms."""

    def __init__(self, request: EmitRequest) -> None:
        self.request, self.graph = request, request.graph
        self.places = Places(request.graph, request.decisions)
        self.before, layers, self.after = split_layers(request.graph)
        self.n_layers = len(layers)
        self.shapes = layer_shapes(request.graph, layers)
        self.layers = layers
        self.roles = roles(request.graph, layers)
        self.functions: dict[Projection, str] = {}
        for nodes in (self.before, *(shape.nodes for shape in self.shapes), self.after):
            for node in nodes:
                if spec(node).partition == "panels":
                    function = projection(request.graph, node)
                    self.functions.setdefault(function, self._function_name(function))
        self.ops = [(enumerator(label), label) for label in op_labels(request.graph)]
        self.rotations = [w for w in request.graph.weights.values() if w.type == ROTATION]

    def _function_name(self, function: Projection) -> str:
        """The projection's label in C, numbered where several share one place in the model."""
        name, taken = enumerator(function.label).lower().removeprefix("op_"), set(self.functions.values())
        return next(n for n in chain([name], (f"{name}_{i}" for i in count(2))) if n not in taken)

    # -- sizes ----------------------------------------------------------------------

    @property
    def vocab(self) -> int:
        return self.places.made[self.graph.output].type.columns

    @property
    def used_experts(self) -> int:
        return self.places.used

    @property
    def experts(self) -> int:
        return max((int(n.attrs["experts"]) for n in self.graph.nodes if spec(n).routes), default=0)

    @property
    def weights_bytes(self) -> int:
        return weights_bytes(self.graph)

    @property
    def arena_bytes(self) -> int:
        return round_up(arena_bytes(self.graph, self.request.decisions), 4096)

    @property
    def kv_bytes(self) -> int:
        pools = sum(group.page_bytes * pages for group, pages, _ in self.pools())
        return pools + fixed_bytes(self.graph.states, self.request.slots)

    @property
    def page_groups(self) -> tuple[PageGroup, ...]:
        return page_groups(self.graph.states, self.request.context)

    @property
    def page_blocks(self) -> int:
        """Blocks of a slot's positions, each in a page of every group."""
        return -(-self.request.context // PAGE)

    def pools(self) -> Iterator[tuple[PageGroup, int, int]]:
        """Each group, how many pages it has, and where they begin."""
        at = 0
        for group in self.page_groups:
            pages = self.request.decisions.pages_of(group)
            yield group, pages, at
            at += pages * group.page_bytes

    def page_group(self, state: State) -> int:
        """The number of the group that a paged state belongs to."""
        return [group.window for group in self.page_groups].index(state.window)

    def page_stride(self, state: State) -> int:
        return self.page_groups[self.page_group(state)].page_bytes

    @property
    def kv_slack(self) -> int:
        """How far a sequence may be rewound: a ring keeps this much behind the window of its newest token."""
        return rewindable(self.graph.states, round_up(self.request.context, PAGE))

    @property
    def query_tile(self) -> int:
        """Tokens whose queries one unit of attention carries through the cache."""
        groups = [
            int(n.attrs["heads"]) // int(n.attrs["kv_heads"]) for n in self.graph.nodes if self.attends(n)
        ]
        return max(1, ATTENTION_ROWS // max(groups, default=1))

    @property
    def token_tile(self) -> int:
        return min(TOKEN_TILE, self.request.decisions.step_tokens * self.used_experts)

    # -- what is rendered ---------------------------------------------------------------

    def panels(self) -> list[tuple[Kernel, int]]:
        """(registry row, K) of every panel kernel that the projections call, by name."""
        needed = {(s.format, s.k) for function in self.functions for s in function.segments}
        rows = [(self.request.backend.kernel("panel", format), k) for format, k in needed]
        return sorted(rows, key=lambda pair: pair[0].c_name(pair[1]))

    @property
    def kernel_sources(self) -> list[str]:
        """Files of the backend's kernel set, in the order in which kernels.h includes them."""
        return [bundle_name(name) for name in self.request.backend.sources]

    @property
    def contents(self) -> list[str]:
        """What layers remember: a column of their table each."""
        return list(dict.fromkeys(state.content for state in self.graph.states.values()))

    def table(self) -> Iterator[tuple[int, int, list[int], list[int]]]:
        """A row a layer: number, shape, offsets of its states (``contents``), of its weights (``roles``)."""
        shape_of = {number: shape.index for shape in self.shapes for number in shape.layers}
        for number, nodes in enumerate(self.layers):
            held = states_of(self.graph, nodes)
            states = [self._state_offset(held[name]) if name in held else 0 for name in self.contents]
            yield number, shape_of[number], states, self._offsets(nodes)

    def _state_offset(self, state: State) -> int:
        """Of a paged state within a page; of a fixed one within the cache, where they follow the pools."""
        pools = self.kv_bytes - fixed_bytes(self.graph.states, self.request.slots)
        return (state.offset or 0) + (pools if state.kind == "fixed" else 0)

    def _offsets(self, nodes: list[Node]) -> list[int]:
        from compiler.emit.places import role

        found = {role(ref.name): self.graph.weights[ref.name].offset or 0 for n in nodes for ref in n.weights}
        return [found.get(name, 0) for name in self.roles]

    def values(self) -> Iterator[tuple[str, str, str]]:
        """(C name, place, what it is) of every value in the arena that the emitted nodes name."""
        emitted = [*self.before, *(node for shape in self.shapes for node in shape.nodes), *self.after]
        found = {name for node in emitted for name in (node.output, *node.inputs)}
        for name in sorted(found, key=lambda name: int(name.removeprefix("%"))):
            node = self.places.made[name]
            what = f"of {node.inputs[0]}" if spec(node).view else op_label(node)
            stride = f", stride {node.stride}" if node.stride not in (None, node.type.columns) else ""
            for c, place in self.places.names([name]):
                yield c, place, f"{node.type}{stride}: {what}"

    def groups(self, nodes: list[Node] | tuple[Node, ...]) -> Iterator[Group]:
        """The phases of a run of nodes; slices compute nothing and are left out."""
        for number, (_, phase) in enumerate(groupby(nodes, key=lambda node: node.phase)):
            computing = tuple(node for node in phase if not spec(node).view)
            by_rows = computing and spec(computing[0]).partition == "rows"
            rows = ROWS[computing[0].type.rows] if by_rows else None
            yield Group(computing, number > 0, rows)

    def span(self, node: Node) -> str:
        return ROWS[node.type.rows][0]

    def count(self, node: Node) -> str:
        return ROWS[node.type.rows][1]

    def call(self, node: Node) -> tuple[str, list[str], list[str]]:
        """A projection node's C function, matrices and biases."""
        function = projection(self.graph, node)
        matrices, biases = split_refs(node, function)
        return (
            self.functions[function],
            [self.places.matrix(ref) for ref in matrices],
            [self.places.vector(ref) for ref in biases],
        )

    def attends(self, node: Node) -> bool:
        """Whether a node reads every position that its state holds."""
        return spec(node).cost == "positions"

    def spec(self, node: Node) -> OpSpec:
        """The declaration of a node's op."""
        return spec(node)

    def timer(self, node: Node) -> str:
        """The enumerator of a node's op in config.h."""
        return enumerator(op_label(node))

    def in_place(self, node: Node) -> bool:
        """Whether a node's result takes over its first input's place."""
        source = self.places.made[node.inputs[0]]
        return (source.place, source.stride) == (node.place, node.stride)

    def comment(self, node: Node) -> str:
        """The node in the graph's text form, names of weights without the layer's number."""
        refs = ", ".join(re.sub(r"^blk\.\d+\.", "", str(ref)) for ref in node.weights)
        args = ", ".join(node.inputs) + ("; " + refs if refs else "")
        return f"{node.output}: {node.type} = {node.op}({args})"

    def norm_weights(self, node: Node) -> list[tuple[str, bool]]:
        """(pointer, whether it spans the whole row) of a norm's weight and bias."""
        result = []
        for ref in node.weights:
            size = int(np.prod(self.graph.weights[ref.name].shape))
            result.append((self.places.vector(ref), size == node.type.columns))
        return result

    def weight_type(self, node: Node) -> str:
        return self.graph.weights[node.weights[0].name].type

    def weight_k(self, node: Node) -> int:
        return self.graph.weights[node.weights[0].name].shape[-1]

    def rotation(self, node: Node) -> int:
        return [w.name for w in self.rotations].index(node.weights[0].name)

    def rotation_tables(self) -> Iterator[tuple[int, list[str], float]]:
        """(index, inverse frequencies as C doubles, factor on cos and sin) of each table."""
        for index, weight in enumerate(self.rotations):
            scale = next(
                float(n.attrs["mscale"])
                for n in self.graph.nodes
                if spec(n).rotates and n.weights[0].name == weight.name
            )
            yield index, [float(x).hex() for x in self.request.constants[weight.name]], scale

    def route_of(self, node: Node) -> Node:
        """The routing that an expert op follows."""
        return next(self.places.made[i] for i in node.inputs if self.places.made[i].type.dtype == "route")

    def route_parts(self, node: Node) -> list[str]:
        """Pointers to the parts of a routing: experts, weights, token of a pair, pair of a token's rank."""
        return [f"{c_name(node.output)}{part}" for part in ROUTE_PARTS]
