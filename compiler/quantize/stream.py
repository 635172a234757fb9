"""Tensors in pieces, through a few threads, in order: what writes weights, exports and measures errors.

A piece is about a million weights of one matrix. Only as many pieces as the threads have at hand are in
memory, whatever the size of the tensor.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from compiler.formats import FORMATS, PANEL_ROWS
from compiler.formats.parts.record import Bytes, Floats
from compiler.model.description import Tensor
from compiler.model.reader import Rows
from compiler.quantize import encode
from compiler.quantize.imatrix import ImportanceMatrix

#: Weights a piece holds, about.
PIECE_WEIGHTS = 1 << 20

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Piece:
    """Rows [begin, end) of matrix ``matrix`` of a tensor's stack; ``begin`` is a multiple of 16."""

    tensor: Tensor
    matrix: int
    begin: int
    end: int
    importance: Floats | None

    @property
    def first_row(self) -> int:
        """``begin`` counted from the tensor's first row."""
        return self.matrix * matrix_rows(self.tensor) + self.begin

    def read(self, rows: Rows) -> Bytes:
        """The rows as the file holds them, ``uint8 (rows, row_bytes)``."""
        return rows(self.tensor, self.first_row, self.first_row + self.end - self.begin)

    def encode(self, raw: Bytes, format: str) -> Bytes:
        """Rows of blocks of ``format``; where the file's are of that type or say the same, those."""
        if self.tensor.type == format and FORMATS[format].quantized:
            return raw
        if (rewrite := FORMATS[format].exact.get(self.tensor.type)) is not None:
            return rewrite(raw)
        x = encode.widen(raw, self.tensor)
        return encode.encode(x, format, self.importance, name=self.tensor.name, begin=self.first_row)


def matrix_rows(tensor: Tensor) -> int:
    """Rows of one matrix of the tensor's stack; 1 for a vector."""
    return tensor.shape[-2] if len(tensor.shape) > 1 else 1


def pieces(tensor: Tensor, importance: ImportanceMatrix | None = None) -> Iterator[Piece]:
    """A tensor's pieces in the order of its rows. Raises ``importance_matrix_mismatch``."""
    columns = importance.for_tensor(tensor) if importance is not None else None
    rows, k = matrix_rows(tensor), tensor.shape[-1]
    step = max(PANEL_ROWS, PIECE_WEIGHTS // k // PANEL_ROWS * PANEL_ROWS)
    for matrix in range(math.prod(tensor.shape[:-2])):
        for begin in range(0, rows, step):
            row = None if columns is None else columns[matrix]
            yield Piece(tensor, matrix, begin, min(begin + step, rows), row)


def ordered_map(
    function: Callable[[_Item], _Result], items: Iterable[_Item], threads: int
) -> Iterator[_Result]:
    """``function`` of each item, in order, computed on ``threads`` threads a few items ahead.

    The first error ends the work; what had not begun is not begun.
    """
    with ThreadPoolExecutor(threads, "weights") as pool:
        waiting: deque[Future[_Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
