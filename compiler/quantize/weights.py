"""``weights.bin``: a model's tensors, quantized and packed for the kernels, streamed into a file.

Rows go through in pieces: read, widened to float32, encoded, packed, written at their place. Each thread
holds one piece, so memory stays small whatever the model's size. The bytes
depend on the model, the layout and the importance matrix alone, not on the number of threads.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from compiler.formats import PANEL_ROWS, packed_bytes, panel_bytes
from compiler.graph import Graph
from compiler.model.description import ModelDescription
from compiler.model.reader import Rows, open_rows
from compiler.passes.layout import PAGE, matrices, round_up
from compiler.quantize import encode
from compiler.quantize.imatrix import ImportanceMatrix
from compiler.quantize.stream import Piece, matrix_rows, ordered_map, pieces
from runtime.bundle import store
from runtime.bundle.plan import canonical_json

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
    targets = {tensor.name: tensor for tensor in tensors}
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            if total:
                os.posix_fallocate(file, 0, total)
            with open_rows(model) as rows:

                def write(piece: Piece) -> tuple[str, int]:
                    return piece.tensor.name, _write_piece(rows, piece, targets[piece.tensor.name], file)

                written = 0
                for name, count in ordered_map(write, _pieces(model, tensors, importance), threads):
                    written += count
                    if progress is not None:
                        progress(written, payload, name)
                rows.check_unchanged()
        finally:
            os.close(file)
    except OSError as cause:
        raise store.file_error(cause, path) from cause


def _pieces(
    model: ModelDescription, tensors: Sequence[PackedTensor], importance: ImportanceMatrix | None
) -> Iterator[Piece]:
    for target in tensors:
        source = model.tensors[target.name]
        shape = (math.prod(source.shape[:-2]), matrix_rows(source), source.shape[-1])
        if shape != (target.stack, target.rows, target.k):
            raise ValueError(f"{target.name} is {source.shape} in the file, {target} in the layout")
        yield from pieces(source, importance if target.panels else None)


def _write_piece(rows: Rows, piece: Piece, target: PackedTensor, file: int) -> int:
    """Reads, encodes, packs and writes one piece; bytes written."""
    at = target.offset + piece.matrix * (target.nbytes // target.stack)
    blocks = piece.encode(piece.read(rows), target.format)
    if target.panels:
        data = encode.pack(blocks, target.format, target.k)
        at += piece.begin // PANEL_ROWS * panel_bytes(target.format, target.k)
    else:
        data = blocks.reshape(-1)
        at += piece.begin * 4 * target.k
    view, done = data.data, 0
    while done < len(view):
        done += os.pwrite(file, view[done:], at + done)
    return done
