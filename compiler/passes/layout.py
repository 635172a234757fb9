"""layout: the place of every weight in ``weights.bin``.

Matrices are panels of 16 rows (``kernels_c/include/packed.h``), experts one matrix
after the other; vectors are float32. Tensors stand in the order in which a step
reads them, each aligned to 64 bytes, so that decode streams through the file.
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import MappingProxyType

from compiler.formats import packed_bytes
from compiler.graph import Graph, Weight
from compiler.graph.ops import matrices as matrices_of
from compiler.passes import Decisions

ALIGNMENT = 64
PAGE = 4096
#: Type of the inverse rotation frequencies: tables are built when a bundle is opened.
ROTATION = "f64"


def layout(graph: Graph, decisions: Decisions) -> Graph:
    panels = matrices(graph)
    placed: dict[str, Weight] = {}
    offset = 0
    for node in graph.nodes:
        for ref in node.weights:
            weight = graph.weights[ref.name]
            if ref.name in placed:
                continue
            if weight.type == ROTATION:
                placed[ref.name] = weight
                continue
            if ref.name not in panels:
                weight = replace(weight, type="f32")
            placed[ref.name] = replace(weight, offset=offset)
            size = matrix_bytes(weight) if ref.name in panels else 4 * math.prod(weight.shape)
            offset += round_up(size, ALIGNMENT)
    return replace(graph, weights=MappingProxyType(placed))


def matrices(graph: Graph) -> frozenset[str]:
    """Names of the weights stored as panels: all that projections and the embedding read."""
    return frozenset(ref.name for node in graph.nodes for ref in matrices_of(node))


def matrix_bytes(weight: Weight) -> int:
    """Bytes of a matrix, or of a stack of experts' matrices, as panels."""
    *stack, rows, k = weight.shape
    return math.prod(stack) * packed_bytes(weight.type, rows, k)


def round_up(value: int, to: int) -> int:
    return -(-value // to) * to


def weights_bytes(graph: Graph) -> int:
    """Size of ``weights.bin``: its last weight's end, rounded up to a page."""
    panels = matrices(graph)
    ends = [0]
    for weight in graph.weights.values():
        if weight.offset is not None:
            size = matrix_bytes(weight) if weight.name in panels else 4 * math.prod(weight.shape)
            ends.append(weight.offset + size)
    return round_up(max(ends), PAGE)
