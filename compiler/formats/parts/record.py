"""What a stored format is, as one frozen record: how weights become bytes, and what multiplies with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

#: ``decode(blocks uint8 (n, block_bytes)) -> float32 (n, block)``
Decoder = Callable[[Bytes], Floats]
#: ``encode(x float32 (n, block), importance float32 (n, block) or None) -> uint8 (n, block_bytes)``
Encoder = Callable[[Floats, "Floats | None"], Bytes]
#: ``pack(rows uint8 (16, row_bytes)) -> uint8 (panel bytes,)``
Packer = Callable[[Bytes], Bytes]
#: ``convert(rows uint8 (n, row bytes of the other type)) -> uint8 (n, row_bytes)``
Converter = Callable[[Bytes], Bytes]

#: Rows of a packed panel: one lane each.
PANEL_ROWS = 16


@dataclass(frozen=True)
class Panel:
    """How one instruction set multiplies with a panel.

    ``source``    file under ``kernels_c`` that holds the kernel, included once.
    ``template``  what renders the kernel for each K.
    ``tile``      (rows, tokens) that it holds in registers at a time.
    ``k_block``   K is taken in blocks of this many elements.
    """

    source: str
    template: str
    tile: tuple[int, int]
    k_block: int


@dataclass(frozen=True)
class Format:
    """A GGUF tensor type: how ``block`` consecutive weights of a row become ``block_bytes`` bytes.

    ``name``         the lower-case GGML name; part of the names of its C functions and files.
    ``decode``, ``encode``  define the format in NumPy. The C twins (``kernels_c/tools/quantize_<name>.c``)
                     give the same bytes for the same input, and ``decode`` the same bits as
                     ``gguf.dequantize``. ``encode`` None: files may hold it, nothing is converted to it.
    ``limit``        the largest magnitude a weight may have: beyond it the format's scale (or the weight
                     itself, in a float format) would become infinite.
    ``floats``       where in a block floats lie: (offset in bytes, ``f32``, ``f16`` or ``bf16``) each;
                     the other bytes are codes, any of them legal.
    ``pack``         the panel of 16 rows in NumPy, ``kernels_c/include/packed_<name>.h`` written a second
                     time; the C twin is ``kernels_c/tools/pack_<name>.c``.
    ``panel_bytes``  bytes of a panel of 16 rows of k elements.
    ``group``        activations share a scale in groups of so many; 0: they stay floats.
    ``code_bits``    width of a weight's code; 0: floats are multiplied.
    ``fallback``     what takes its place where a row is no whole number of blocks.
    ``exact``        other types whose values its blocks can hold exactly, and how they are rewritten.
    ``panels``       by instruction set (``avx2``, ``avx512`` …), beside the scalar definition
                     ``kernels_c/reference/panel_<name>.c.j2`` and ``dequantize_row_<name>.c``.
    ``check_k``      lengths of the rows that checks run: the shortest, odd counts of blocks, a real width.
    """

    name: str
    block: int
    block_bytes: int
    decode: Decoder
    encode: Encoder | None
    limit: float
    floats: tuple[tuple[int, str], ...]
    pack: Packer
    panel_bytes: Callable[[int], int]
    panels: Mapping[str, Panel]
    check_k: tuple[int, ...]
    group: int = 0
    code_bits: int = 0
    fallback: str | None = None
    exact: Mapping[str, Converter] = field(default_factory=lambda: MappingProxyType({}))
    quantizer: str = ""

    @property
    def quantized(self) -> bool:
        """Whether weights are codes rather than floats."""
        return self.code_bits > 0

    @property
    def quantizer_source(self) -> str:
        """The file under ``kernels_c/tools`` with its C encoder and decoder."""
        return self.quantizer or f"quantize_{self.name}.c"

    @property
    def packer_source(self) -> str:
        """The file under ``kernels_c/tools`` with its C packer."""
        return f"pack_{self.name}.c"

    @property
    def packed_header(self) -> str:
        """The file under ``kernels_c/include`` with its packed layout."""
        return f"packed_{self.name}.h"

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

        ``ValueError`` where a weight is not finite or beyond ``limit``, or nothing encodes the format.
        """
        rows, k = x.shape
        row_bytes = self.row_bytes(k)
        if self.encode is None:
            raise ValueError(f"nothing is converted to {self.name}")
        if not np.isfinite(x).all():
            raise ValueError("a weight is NaN or infinite")
        if x.size and float(np.abs(x).max()) > self.limit:
            raise ValueError(f"a weight is beyond {self.limit:g}, the largest that {self.name} holds")
        blocks = np.ascontiguousarray(x, dtype=np.float32).reshape(-1, self.block)
        weights = None
        if importance is not None:
            weights = np.tile(importance.astype(np.float32), rows).reshape(-1, self.block)
        return self.encode(blocks, weights).reshape(rows, row_bytes)

    def pack_panel(self, rows: Bytes, k: int) -> Bytes:
        """One panel of GGUF rows.

        ``rows``: uint8 ``[16][row_bytes]``, rows of ``k`` elements in GGUF's block layout; zero rows
        where the tensor ends. Returns uint8 ``[panel_bytes(k)]``.
        """
        if rows.shape[0] != PANEL_ROWS:
            raise ValueError(f"a panel has {PANEL_ROWS} rows, not {rows.shape[0]}")
        if rows.shape[1] != self.row_bytes(k):
            raise ValueError(f"{self.name}: {rows.shape[1]} bytes are not a row of {k} elements")
        return self.pack(rows)
