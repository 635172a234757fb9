"""How far each tensor's encoded weights are from the file's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compiler.model.description import ModelDescription
from compiler.model.reader import Rows, open_rows
from compiler.quantize import encode
from compiler.quantize.formats import FORMATS
from compiler.quantize.formats.block import Bytes, Floats
from compiler.quantize.imatrix import ImportanceMatrix
from compiler.quantize.recipes import TensorType
from compiler.quantize.stream import Piece, ordered_map, pieces


@dataclass(frozen=True)
class TensorError:
    """Root mean square and largest error of a tensor, in the unit of its weights.

    ``relative`` is ``rmse`` over the root mean square of the weights; 0 for a tensor of zeros.
    """

    name: str
    type: str
    weights: int
    bits_per_weight: float
    rmse: float
    relative: float
    largest: float


def decode_rows(blocks: Bytes, format: str, k: int) -> Floats:
    """Rows of blocks → ``float32 (rows, k)``."""
    if FORMATS[format].quantized:
        return encode.dequantize(blocks, format, k)
    return FORMATS[format].decode_rows(blocks)


def tensor_errors(
    model: ModelDescription,
    types: Sequence[TensorType],
    importance: ImportanceMatrix | None = None,
    threads: int = 2,
) -> tuple[TensorError, ...]:
    """The error of every tensor under the decided types, streamed; raises as encoding does."""
    encode.library()
    with open_rows(model) as rows:
        return tuple(_measure(model, rows, decided, importance, threads) for decided in types)


def _measure(
    model: ModelDescription,
    rows: Rows,
    decided: TensorType,
    importance: ImportanceMatrix | None,
    threads: int,
) -> TensorError:
    tensor = model.tensors[decided.name]

    def measure(piece: Piece) -> tuple[float, float, float]:
        raw = piece.read(rows)
        x = encode.widen(raw, tensor)
        error = decode_rows(piece.encode(raw, decided.type), decided.type, tensor.shape[-1]) - x
        return _squares(error), _squares(x), float(np.abs(error).max())

    sums = list(ordered_map(measure, pieces(tensor, importance), threads))
    weights = math.prod(tensor.shape)
    squares, total = sum(s[0] for s in sums), sum(s[1] for s in sums)
    return TensorError(
        name=decided.name,
        type=decided.type,
        weights=weights,
        bits_per_weight=FORMATS[decided.type].bits_per_weight(),
        rmse=math.sqrt(squares / weights),
        relative=math.sqrt(squares / total) if total else 0.0,
        largest=max(s[2] for s in sums),
    )


def _squares(v: Floats) -> float:
    return float(np.square(v, dtype=np.float64).sum())
