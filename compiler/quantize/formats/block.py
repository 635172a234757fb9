"""What every block format has in common: geometry, and rows to blocks and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

#: ``decode(blocks uint8 (n, block_bytes)) -> float32 (n, block)``
Decoder = Callable[[Bytes], Floats]
#: ``encode(x float32 (n, block), importance float32 (n, block) or None) -> uint8 (n, block_bytes)``
Encoder = Callable[[Floats, "Floats | None"], Bytes]


@dataclass(frozen=True)
class BlockFormat:
    """A GGUF tensor type: how ``block`` consecutive weights of a row become ``block_bytes`` bytes.

    ``decode`` and ``encode`` define the format in NumPy. The C encoder of the same name
    (``kernels_c/tools/quantize_<name>.c``) gives the same bytes for the same input, and
    ``decode`` the same bits as ``gguf.dequantize``.

    ``limit`` is the largest magnitude a weight may have: beyond it the format's scale (or the
    weight itself, in a float format) would become infinite.
    """

    name: str
    block: int
    block_bytes: int
    decode: Decoder
    encode: Encoder
    limit: float
    quantized: bool = True

    def fits(self, k: int) -> bool:
        """Whether a row of ``k`` weights is a whole number of blocks."""
        return k % self.block == 0

    def row_bytes(self, k: int) -> int:
        """Bytes of a row of ``k`` weights. ``ValueError`` if the row is not whole blocks."""
        if not self.fits(k):
            raise ValueError(
                f"a row of {k} weights is not a whole number of {self.name} blocks of {self.block}"
            )
        return k // self.block * self.block_bytes

    def bits_per_weight(self) -> float:
        return 8 * self.block_bytes / self.block

    def decode_rows(self, rows: Bytes) -> Floats:
        """``uint8 (rows, row_bytes) -> float32 (rows, k)``."""
        count, row_bytes = rows.shape
        blocks = np.ascontiguousarray(rows).reshape(-1, self.block_bytes)
        return self.decode(blocks).reshape(count, row_bytes // self.block_bytes * self.block)

    def encode_rows(self, x: Floats, importance: Floats | None = None) -> Bytes:
        """``float32 (rows, k)``, importance of each column ``float32 (k,)`` → ``uint8 (rows, row_bytes)``.

        ``ValueError`` where a weight is not finite or beyond ``limit``.
        """
        rows, k = x.shape
        row_bytes = self.row_bytes(k)
        if not np.isfinite(x).all():
            raise ValueError("a weight is NaN or infinite")
        if x.size and float(np.abs(x).max()) > self.limit:
            raise ValueError(f"a weight is beyond {self.limit:g}, the largest that {self.name} holds")
        blocks = np.ascontiguousarray(x, dtype=np.float32).reshape(-1, self.block)
        weights = None
        if importance is not None:
            weights = np.tile(importance.astype(np.float32), rows).reshape(-1, self.block)
        return self.encode(blocks, weights).reshape(rows, row_bytes)
