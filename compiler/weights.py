"""``weights.bin``: a model's tensors, quantized and packed for the kernels, streamed into a file.

Rows go through in pieces of about a million weights: read, widened to float32, encoded, packed, written
at their place. Two threads each hold one piece, so memory stays small whatever the model's size. The bytes
depend on the model, the layout and the importance matrix alone, not on the number of threads.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path

from compiler.graph import Graph
from compiler.kernels import PANEL_ROWS, packed_bytes, panel_bytes
from compiler.model.description import ModelDescription, Tensor
from compiler.model.reader import Rows, open_rows
from compiler.passes.layout import PAGE, matrices, round_up
from compiler.quantize import encode
from compiler.quantize.formats import FORMATS
from compiler.quantize.formats.block import Bytes, Floats
from compiler.quantize.imatrix import ImportanceMatrix
from runtime.bundle import store
from runtime.bundle.plan import canonical_json

#: Weights a piece holds, about.
PIECE_WEIGHTS = 1 << 20

#: Called with (bytes written, bytes in all, name of the tensor) as pieces are written.
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class PackedTensor:
    """A tensor's place in ``weights.bin``.

    ``stack`` matrices of ``rows`` x ``k`` (experts; 1 for an ordinary matrix) in block format ``format``.
    ``panels``: packed as panels of 16 rows (``kernels_c/include/packed.h``), each matrix padded to whole
    panels; otherwise plain f32 values. ``offset`` in bytes from the file's start, a multiple of 64.
    """

    name: str
    format: str
    stack: int
    rows: int
    k: int
    panels: bool
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file, without what aligns the next tensor."""
        if not self.panels:
            return 4 * self.stack * self.rows * self.k
        return self.stack * packed_bytes(self.format, self.rows, self.k)


def packed_tensors(graph: Graph) -> tuple[PackedTensor, ...]:
    """The tensors that a graph reads from ``weights.bin``, in the order of their places; after ``layout``."""
    panels = matrices(graph)
    found = []
    for weight in graph.weights.values():
        if weight.offset is None:
            continue
        *outer, k = weight.shape
        rows = outer[-1] if outer else 1
        found.append(
            PackedTensor(
                weight.name,
                weight.type,
                math.prod(outer[:-1]),
                rows,
                k,
                weight.name in panels,
                weight.offset,
            )
        )
    return tuple(sorted(found, key=lambda tensor: tensor.offset))


def weights_size(tensors: Sequence[PackedTensor]) -> int:
    """Bytes of ``weights.bin``: the last tensor's end, rounded up to a page."""
    return round_up(max((tensor.offset + tensor.nbytes for tensor in tensors), default=0), PAGE)


def weights_key(
    model: ModelDescription, tensors: Sequence[PackedTensor], importance_digest: str | None = None
) -> str:
    """SHA-256 (hex) of all that the bytes of ``weights.bin`` follow from.

    The model's content, the layout, the importance matrix (SHA-256 of its file) and the encoders' and
    packers' own sources: with other encoders, stored weights are not taken for these.
    """
    digest = hashlib.sha256()
    identity = [model.digest, importance_digest, [list(astuple(tensor)) for tensor in tensors]]
    digest.update(canonical_json(identity))
    for path in (*encode.source_files(), Path(__file__)):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def write_weights(
    model: ModelDescription,
    tensors: Sequence[PackedTensor],
    path: Path,
    progress: Progress | None = None,
    *,
    importance: ImportanceMatrix | None = None,
    threads: int = 2,
) -> None:
    """Writes ``weights.bin`` at ``path``, which must not exist or is replaced in place.

    Made for ``runtime.bundle.store.stored_weights``, which gives a draft's path, flushes, digests and
    renames. Space is reserved first, so a full disk is found before the work. Gaps are zeros.

    Raises ``weight_not_finite`` and ``weight_out_of_range`` with tensor, row and column,
    ``importance_matrix_mismatch``, ``model_changed``, and ``disk_full`` and its like.
    """
    total = weights_size(tensors)
    payload = sum(tensor.nbytes for tensor in tensors)
    encode.library()  # built before any thread wants it
    written = 0
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            if total:
                os.posix_fallocate(file, 0, total)
            with open_rows(model) as rows, ThreadPoolExecutor(threads, "weights") as pool:
                waiting: deque[Future[tuple[str, int]]] = deque()
                try:
                    for piece in _pieces(model, tensors, importance):
                        waiting.append(pool.submit(_write_piece, rows, piece, file))
                        if len(waiting) > 2 * threads:
                            written = _report(waiting.popleft(), written, payload, progress)
                    while waiting:
                        written = _report(waiting.popleft(), written, payload, progress)
                finally:
                    for future in waiting:
                        future.cancel()
                rows.check_unchanged()
        finally:
            os.close(file)
    except OSError as cause:
        raise store.file_error(cause, path) from cause


@dataclass(frozen=True)
class _Piece:
    """Rows [begin, end) of one matrix of a tensor's stack, and where their packed form goes."""

    source: Tensor
    target: PackedTensor
    matrix: int
    begin: int
    end: int
    offset: int
    importance: Floats | None


def _pieces(
    model: ModelDescription, tensors: Sequence[PackedTensor], importance: ImportanceMatrix | None
) -> Iterator[_Piece]:
    for target in tensors:
        source = model.tensors[target.name]
        if math.prod(source.shape) != target.stack * target.rows * target.k or source.shape[-1] != target.k:
            raise ValueError(f"{target.name} is {source.shape} in the file, {target} in the layout")
        columns = importance.for_tensor(source) if importance is not None and target.panels else None
        step = max(PANEL_ROWS, PIECE_WEIGHTS // target.k // PANEL_ROWS * PANEL_ROWS)
        for matrix in range(target.stack):
            at = target.offset + matrix * (target.nbytes // target.stack)
            for begin in range(0, target.rows, step):
                skipped = begin * 4 * target.k
                if target.panels:
                    skipped = begin // PANEL_ROWS * panel_bytes(target.format, target.k)
                yield _Piece(
                    source,
                    target,
                    matrix,
                    begin,
                    min(begin + step, target.rows),
                    at + skipped,
                    None if columns is None else columns[matrix],
                )


def _write_piece(rows: Rows, piece: _Piece, file: int) -> tuple[str, int]:
    """Reads, encodes, packs and writes one piece; its tensor's name and bytes written."""
    target = piece.target
    first = piece.matrix * target.rows
    raw = rows(piece.source, first + piece.begin, first + piece.end)
    blocks = encode_rows(raw, piece.source, target.format, piece.importance, first + piece.begin)
    data = encode.pack(blocks, target.format, target.k) if target.panels else blocks.reshape(-1)
    view, offset = data.data, 0
    while offset < len(view):
        offset += os.pwrite(file, view[offset:], piece.offset + offset)
    return target.name, len(view)


def encode_rows(
    raw: Bytes, source: Tensor, format: str, importance: Floats | None = None, begin: int = 0
) -> Bytes:
    """Rows as the file holds them → rows of blocks of ``format``; the same bytes if they are of that type.

    ``begin`` is the first row's number, for errors.
    """
    if source.type == format and FORMATS[format].quantized:
        return raw
    x = encode.widen(raw, source)
    return encode.encode(x, format, importance, name=source.name, begin=begin)


def _report(future: Future[tuple[str, int]], written: int, payload: int, progress: Progress | None) -> int:
    name, count = future.result()
    if progress is not None:
        progress(written + count, payload, name)
    return written + count
