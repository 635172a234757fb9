"""Importance matrices: how much the error of each column of a matrix matters.

The GGUF form that llama.cpp's ``llama-imatrix`` writes: for a matrix ``name``, a tensor
``name.in_sum2`` (float32, matrices x k: the sum of the squares of every input over the tokens seen) and
``name.counts`` (float32, matrices x 1: how many tokens). A column's importance is the mean square of its
input, in_sum2 / counts, for which the squared error of the layer's output is weighted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGUFWriter

from compiler.formats.parts.record import Floats
from compiler.model.description import ModelDescription, Tensor
from compiler.model.header import read_header
from runtime.bundle import store
from runtime.bundle.files import MOST_IMATRIX, open_regular
from runtime.errors import EXIT_PLAN, EngineError

#: A column's importance is at least this part of its matrix's mean: a column that the calibration text
#: never used may be used by another, and its weights must not become arbitrary.
FLOOR = 1e-3

_SUMS, _COUNTS = ".in_sum2", ".counts"


@dataclass(frozen=True)
class ImportanceMatrix:
    """``columns[name]``: float32 (matrices, k), positive, mean 1 a matrix; one matrix a tensor, or one
    an expert."""

    path: Path
    columns: Mapping[str, Floats]

    def for_tensor(self, tensor: Tensor) -> Floats | None:
        """Importance for each matrix of ``tensor``'s stack, (stack, k); None if the file has none for it.

        Raises ``importance_matrix_mismatch`` if its shape is not the tensor's.
        """
        found = self.columns.get(tensor.name)
        if found is None:
            return None
        stack = int(np.prod(tensor.shape[:-2], dtype=np.int64))
        if found.shape[1] != tensor.shape[-1] or found.shape[0] not in (1, stack):
            raise EngineError(
                "importance_matrix_mismatch",
                f"{tensor.name} is {list(tensor.shape)}, but its importance is for {list(found.shape)}",
                path=str(self.path),
                allowed=f"{stack} x {tensor.shape[-1]}",
                hint="the importance matrix belongs to another model",
                exit_code=EXIT_PLAN,
            )
        return np.broadcast_to(found, (stack, found.shape[1]))

    def check(self, model: ModelDescription) -> None:
        """Raises ``importance_matrix_mismatch`` if no tensor, or a wrong one, of the model is in it."""
        if not any(name in model.tensors for name in self.columns):
            raise EngineError(
                "importance_matrix_mismatch",
                "the importance matrix names no tensor of the model",
                path=str(self.path),
                hint="the importance matrix belongs to another model",
                exit_code=EXIT_PLAN,
            )
        for name in self.columns:
            if name in model.tensors:
                self.for_tensor(model.tensors[name])


@dataclass(frozen=True)
class Sums:
    """What a calibration saw of a matrix, or of a stack of them: ``squares`` float64 (matrices, k), the
    sums of the squares of every input; ``counts`` float64 (matrices, 1), of how many tokens."""

    squares: npt.NDArray[np.float64]
    counts: npt.NDArray[np.float64]


def write_importance(
    path: Path, sums: Mapping[str, Sums], *, datasets: list[str], chunks: int, chunk_size: int
) -> int:
    """Writes a GGUF importance matrix in llama-imatrix's form; its size in bytes.

    ``datasets`` names the texts, ``chunks`` of ``chunk_size`` tokens were seen. The file appears whole or
    not at all. Raises what writing raises.
    """
    with store.replacing(path) as draft:
        writer = GGUFWriter(draft, "imatrix")
        writer.add_string("general.type", "imatrix")
        writer.add_array("imatrix.datasets", datasets)
        writer.add_uint32("imatrix.chunk_count", chunks)
        writer.add_uint32("imatrix.chunk_size", chunk_size)
        for name, seen in sums.items():
            writer.add_tensor(name + _SUMS, seen.squares.astype(np.float32))
            writer.add_tensor(name + _COUNTS, seen.counts.astype(np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return draft.stat().st_size


def read_importance(path: Path) -> ImportanceMatrix:
    """Reads a GGUF importance matrix.

    Raises ``bad_gguf`` where the file is damaged, ``bad_importance_matrix`` where it is something else
    or holds values that no calibration gives, ``model_unreadable`` where it cannot be opened.
    """
    try:
        descriptor = open_regular(path, MOST_IMATRIX)
    except OSError as error:
        raise _bad(path, f"cannot be read: {error.strerror}") from error
    try:
        header = read_header(path, descriptor, os.fstat(descriptor).st_size)
        sums = {n.removesuffix(_SUMS): t for n, t in header.tensors.items() if n.endswith(_SUMS)}
        counts = {n.removesuffix(_COUNTS): t for n, t in header.tensors.items() if n.endswith(_COUNTS)}
        if not sums:
            raise _bad(path, "has no *.in_sum2 tensor")
        columns = {}
        for name, tensor in sums.items():
            if name not in counts:
                raise _bad(path, f"{name}.in_sum2 has no {name}.counts")
            columns[name] = _columns(path, name, _values(path, descriptor, tensor), counts[name], descriptor)
    finally:
        os.close(descriptor)
    return ImportanceMatrix(path, columns)


def _values(path: Path, descriptor: int, tensor: Tensor) -> Floats:
    if tensor.type != "f32":
        raise _bad(path, f"{tensor.name} is {tensor.type}, not f32")
    data = os.pread(descriptor, tensor.nbytes, tensor.offset)
    if len(data) != tensor.nbytes:
        raise _bad(path, f"{tensor.name} is cut off")
    return np.frombuffer(data, np.float32).reshape(-1, tensor.shape[-1])


def _columns(path: Path, name: str, sums: Floats, counts_tensor: Tensor, descriptor: int) -> Floats:
    counts = _values(path, descriptor, counts_tensor).reshape(-1, 1)
    if len(counts) != len(sums):
        raise _bad(path, f"{name} has {len(sums)} sums but {len(counts)} counts")
    for values in (sums, counts):
        if not np.isfinite(values).all() or (values < 0).any():
            raise _bad(path, f"{name} holds values that are negative or not finite")
    means = sums.astype(np.float64) / np.maximum(counts.astype(np.float64), 1)
    level = means.mean(axis=1, keepdims=True)
    # A matrix that saw no token (an expert never chosen) says nothing: all columns alike.
    relative = np.where(level > 0, means / np.where(level > 0, level, 1), 1.0)
    return np.maximum(relative, FLOOR).astype(np.float32)


def _bad(path: Path, what: str) -> EngineError:
    return EngineError(
        "bad_importance_matrix",
        f"the importance matrix {what}",
        path=str(path),
        allowed="a GGUF file of llama-imatrix (the old .dat form is not read)",
        exit_code=EXIT_PLAN,
    )
