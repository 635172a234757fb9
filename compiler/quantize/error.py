"""How far each tensor's encoded weights are from the file's, or from another file's of the same model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from compiler.formats import FORMATS
from compiler.formats.parts.record import Bytes, Floats
from compiler.model.description import ModelDescription, Tensor
from compiler.model.digest import Progress
from compiler.model.reader import Rows, open_rows
from compiler.quantize import encode
from compiler.quantize.imatrix import ImportanceMatrix
from compiler.quantize.recipes import TensorType
from compiler.quantize.stream import Piece, ordered_map, pieces
from runtime.errors import EXIT_MODEL, EngineError


@dataclass(frozen=True)
class TensorError:
    """Root mean square and largest error of a tensor, in the unit of its weights.

    ``rms``: the root mean square of the weights themselves.
    """

    name: str
    type: str
    weights: int
    bits_per_weight: float
    rms: float
    rmse: float
    largest: float

    @property
    def relative(self) -> float:
        """``rmse`` over the root mean square of the weights; 0 for a tensor of zeros."""
        return self.rmse / self.rms if self.rms else 0.0


def together(errors: Iterable[TensorError], name: str = "") -> TensorError:
    """The error of several tensors taken as one, each weight counting once.

    ``type`` is theirs, or ``mixed``. ``ValueError`` if there are none.
    """
    parts = tuple(errors)
    if not parts:
        raise ValueError("no tensors")
    weights = sum(part.weights for part in parts)
    kinds = {part.type for part in parts}
    return TensorError(
        name=name,
        type=kinds.pop() if len(kinds) == 1 else "mixed",
        weights=weights,
        bits_per_weight=sum(part.bits_per_weight * part.weights for part in parts) / weights,
        rms=math.sqrt(sum(part.rms**2 * part.weights for part in parts) / weights),
        rmse=math.sqrt(sum(part.rmse**2 * part.weights for part in parts) / weights),
        largest=max(part.largest for part in parts),
    )


def by_type(errors: Sequence[TensorError]) -> tuple[TensorError, ...]:
    """One entry a type, in the order of FORMATS, with the number of its tensors as name."""
    kinds = [kind for kind in FORMATS if any(error.type == kind for error in errors)]
    found = []
    for kind in kinds:
        those = [error for error in errors if error.type == kind]
        found.append(together(those, f"{len(those)} tensor{'s' * (len(those) != 1)}"))
    return tuple(found)


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
    *,
    truth: ModelDescription | None = None,
    progress: Progress | None = None,
) -> tuple[TensorError, ...]:
    """The error of every tensor under the decided types, streamed; raises as encoding does.

    ``truth``: the model whose weights are the right ones, where that is not ``model`` itself but,
    say, the F16 file it was quantized from. ``models_differ`` if a tensor is not in it in the same shape.
    """
    encode.library()
    right = model if truth is None else truth
    for decided in types:
        ours, theirs = model.tensors[decided.name], right.tensors.get(decided.name)
        if theirs is None or theirs.shape != ours.shape:
            raise _models_differ(model, right, ours, theirs)
    total, done = sum(math.prod(model.tensors[d.name].shape) for d in types), 0
    found = []
    with open_rows(model) as rows, open_rows(right) as right_rows:
        for decided in types:
            tensors = model.tensors[decided.name], right.tensors[decided.name]
            found.append(_measure(tensors, (rows, right_rows), decided, importance, threads))
            done += found[-1].weights
            if progress is not None:
                progress(done, total)
    return tuple(found)


def _measure(
    tensors: tuple[Tensor, Tensor],
    rows: tuple[Rows, Rows],
    decided: TensorType,
    importance: ImportanceMatrix | None,
    threads: int,
) -> TensorError:
    """``tensors`` and ``rows``: of the model that is encoded, and of the one that is right."""
    tensor, right = tensors

    def measure(piece: Piece) -> tuple[float, float, float]:
        raw = piece.read(rows[0])
        source = rows[1](right, piece.first_row, piece.first_row + piece.end - piece.begin)
        x = encode.widen(source, right)
        error = decode_rows(piece.encode(raw, decided.type), decided.type, tensor.shape[-1]) - x
        return _squares(error), _squares(x), float(np.abs(error).max())

    sums = list(ordered_map(measure, pieces(tensor, importance), threads))
    weights = math.prod(tensor.shape)
    return TensorError(
        name=decided.name,
        type=decided.type,
        weights=weights,
        bits_per_weight=FORMATS[decided.type].bits_per_weight(),
        rms=math.sqrt(sum(s[1] for s in sums) / weights),
        rmse=math.sqrt(sum(s[0] for s in sums) / weights),
        largest=max(s[2] for s in sums),
    )


def _squares(v: Floats) -> float:
    return float(np.square(v, dtype=np.float64).sum())


def _models_differ(
    model: ModelDescription, right: ModelDescription, ours: Tensor, theirs: Tensor | None
) -> EngineError:
    there = "lacks it" if theirs is None else f"has it as {list(theirs.shape)}"
    return EngineError(
        "models_differ",
        f"{ours.name} is {list(ours.shape)} in {model.path.name}, and {right.path.name} {there}",
        path=str(right.path),
        allowed="files of one model",
        exit_code=EXIT_MODEL,
    )
