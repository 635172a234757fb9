"""memory: the place of every value in one static arena.

A value lives from its phase to the last phase that reads it; values whose lives
do not meet share bytes. Ops that can work in place do so where nothing else reads
their input again, slices look into their source, and what becomes the logits is
written into the caller's buffer. Placement is first fit, largest value first,
which is within a few percent of the best known on graphs like these
(arXiv:2001.03288).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from compiler.formats import activation_bytes
from compiler.graph import LOGITS, Graph, Node, ValueType
from compiler.graph.ops import QUANTIZED, spec
from compiler.passes import Decisions
from compiler.passes.layout import round_up

ALIGNMENT = 64


@dataclass
class _Buffer:
    """Storage shared by a value and all that alias it; ``first``/``last`` are phases."""

    owner: str
    bytes: int
    first: int
    last: int
    place: int | None = None


def memory(graph: Graph, decisions: Decisions) -> Graph:
    storage = _storage(graph)
    buffers = _buffers(graph, storage, decisions)
    logits = storage[graph.output][0]
    _place([b for b in buffers.values() if b.owner != logits and b.bytes])
    buffers[logits].place = LOGITS
    made = graph.producer()
    nodes = []
    for node in graph.nodes:
        owner, column = storage[node.output]
        place = buffers[owner].place
        if place is None:
            nodes.append(node)
            continue
        at = LOGITS if place == LOGITS else place + 4 * column
        nodes.append(replace(node, place=at, stride=made[owner].type.columns))
    return replace(graph, nodes=tuple(nodes))


def value_bytes(type: ValueType, decisions: Decisions, used_experts: int) -> int:
    """Bytes of a value for a full step, each of its parts aligned.

    ``q*``: codes, then scales, then sums. ``route``: expert ids and weights
    ``[T][used]``, then the pairs sorted by expert (two int32 each, and their inverse).
    """
    rows = decisions.step_tokens * (used_experts if type.rows == "P" else 1)
    if type.dtype == "kv":
        return 0
    if type.dtype == "route":
        return round_up(rows * type.columns * 4, ALIGNMENT) * 5
    if type.dtype in QUANTIZED:
        return sum(quantized_parts(type, rows))
    return round_up(rows * type.columns * 4, ALIGNMENT)


def quantized_parts(type: ValueType, rows: int) -> tuple[int, int, int]:
    """Aligned bytes of the codes, scales and sums of ``rows`` rows."""
    parts = activation_bytes(QUANTIZED[type.dtype], type.columns, rows)
    codes, scales, sums = (round_up(part, ALIGNMENT) for part in parts)
    return codes, scales, sums


def arena_bytes(graph: Graph, decisions: Decisions) -> int:
    """Bytes of the arena of a placed graph."""
    storage, used = _storage(graph), used_experts(graph)
    ends = [
        (node.place or 0) + value_bytes(node.type, decisions, used)
        for node in graph.nodes
        if storage[node.output][0] == node.output and node.place not in (None, LOGITS)
    ]
    return max(ends, default=0)


def unshared_bytes(graph: Graph, decisions: Decisions) -> int:
    """What the values would take if none shared bytes with another."""
    used = used_experts(graph)
    return sum(value_bytes(node.type, decisions, used) for node in graph.nodes if not spec(node).view)


def used_experts(graph: Graph) -> int:
    """Experts a token is routed to, the same in every layer; 1 without experts."""
    return max((int(n.attrs["used"]) for n in graph.nodes if spec(n).routes), default=1)


def _storage(graph: Graph) -> dict[str, tuple[str, int]]:
    """SSA name → (the value that owns its bytes, its first column in there)."""
    uses, made = graph.uses(), graph.producer()
    result: dict[str, tuple[str, int]] = {}
    order = {node.output: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        result[node.output] = (node.output, 0)
        if spec(node).view:
            owner, column = result[node.inputs[0]]
            result[node.output] = (owner, column + int(node.attrs["first"]))
            continue
        index = spec(node).in_place
        if index is None or index >= len(node.inputs):
            continue
        source = node.inputs[index]
        strided = made[result[source][0]].type.columns != node.type.columns
        if strided and any(
            spec(u).partition == "panels" and u.inputs[0] == node.output for u in uses[node.output]
        ):
            continue  # float panels read rows that follow each other without a gap
        last_reader = max(uses[source], key=lambda user: order[user.output])
        if last_reader is node and source != graph.output and _alone(graph, result, source, node, order):
            result[node.output] = result[source]
    return result


def _alone(
    graph: Graph, storage: dict[str, tuple[str, int]], source: str, node: Node, order: dict[str, int]
) -> bool:
    """Whether nobody else, before or after, still needs the bytes that ``node`` would overwrite."""
    owner, column = storage[source]
    width = node.type.columns
    for other in graph.nodes:
        if other.output == source or other.output not in storage or storage[other.output][0] != owner:
            continue
        begin = storage[other.output][1]
        if begin >= column + width or column >= begin + other.type.columns:
            continue
        users = graph.uses()[other.output]
        if any(order[user.output] > order[node.output] and not spec(user).view for user in users):
            return False
    # An owner that is itself read by a later slice or op would see the new bytes.
    return all(order[user.output] <= order[node.output] or spec(user).view for user in graph.uses()[owner])


def _buffers(graph: Graph, storage: dict[str, tuple[str, int]], decisions: Decisions) -> dict[str, _Buffer]:
    used, made = used_experts(graph), graph.producer()
    buffers: dict[str, _Buffer] = {}
    for node in graph.nodes:
        owner, phase = storage[node.output][0], node.phase or 0
        if owner == node.output:
            buffers[owner] = _Buffer(owner, value_bytes(node.type, decisions, used), phase, phase)
        buffers[owner].last = max(buffers[owner].last, phase)
        for name in node.inputs:
            read = buffers[storage[name][0]]
            # A view is read when its reader runs, not when it is taken.
            if not (spec(node).view and spec(made[name]).view):
                read.last = max(read.last, phase)
    return buffers


def _place(buffers: list[_Buffer]) -> None:
    placed: list[_Buffer] = []
    for buffer in sorted(buffers, key=lambda b: (-b.bytes, b.first, int(b.owner[1:]))):
        at = 0
        meeting = [b for b in placed if b.first <= buffer.last and buffer.first <= b.last]
        for other in sorted(meeting, key=lambda b: b.place or 0):
            if at + buffer.bytes <= (other.place or 0):
                break
            at = max(at, (other.place or 0) + other.bytes)
        buffer.place = at
        placed.append(buffer)
