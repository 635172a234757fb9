"""Packed panels, whatever the format: sizes, and layouts in NumPy.

The layouts are those of ``kernels_c/include/packed.h``, written a second time. Slow and plain: tests hold
the C packers (``kernels_c/tools/pack_<format>.c``) against them, and those are what the compiler uses.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import numpy as np

from compiler.formats.parts.record import PANEL_ROWS, Bytes, Floats, Format, Panel

#: Bytes of the scales of a pair of blocks.
_PAIR_SCALES = 64


def paired_bytes(block: int, packed: int) -> Callable[[int], int]:
    """Panel bytes of rows in blocks of ``block`` that take ``packed`` bytes for 16 rows, scales left out."""

    def size(k: int) -> int:
        blocks = k // block
        return (blocks + 1) // 2 * _PAIR_SCALES + blocks * packed

    return size


def in_pairs(d: Bytes, body: Bytes) -> Bytes:
    """Scales ``[16][blocks][2]`` and bodies ``[blocks][n]`` in pairs: two blocks' scales, then the blocks.

    Of a last pair with one block the other's scales are zero and its body is left out.
    """
    scales = d.transpose(1, 0, 2).reshape(len(body), -1)
    parts: list[Bytes] = []
    for b in range(0, len(body), 2):
        two = scales[b : b + 2].reshape(-1)
        parts += [two, np.zeros(-two.size % _PAIR_SCALES, np.uint8), body[b : b + 2].reshape(-1)]
    return np.concatenate(parts)


def chunks(codes: Bytes) -> Bytes:
    """Codes ``[16][blocks][k]`` to chunks ``[blocks][k/4][64]``: byte row * 4 + k % 4."""
    rows, blocks, k = codes.shape
    return codes.reshape(rows, blocks, k // 4, 4).transpose(1, 2, 0, 3).reshape(blocks, k // 4, rows * 4)


def fifth_bits(words: Bytes) -> Bytes:
    """Words of 32 fifth bits ``[16][blocks][4]`` → ``[blocks][64]``: byte row * 4 + i, bit c is that of
    k = 4c + i."""
    rows, blocks, _ = words.shape
    bits = np.unpackbits(words, axis=2, bitorder="little").reshape(rows, blocks, 8, 4)
    high = np.packbits(bits, axis=2, bitorder="little")[:, :, 0]
    return high.transpose(1, 0, 2).reshape(blocks, -1)


def float_format(
    name: str,
    size: int,
    decode: Callable[[Bytes], Floats],
    encode: Callable[[Floats, Floats | None], Bytes],
    limit: float,
) -> Format:
    """The record of floats of ``size`` bytes: panels ``[k][16]``, padded to 64 bytes at the end."""

    def panel_bytes(k: int) -> int:
        return (k * size * PANEL_ROWS + 63) // 64 * 64

    def pack(rows: Bytes) -> Bytes:
        flat = rows.reshape(PANEL_ROWS, -1, size).transpose(1, 0, 2).reshape(-1)
        return np.concatenate([flat, np.zeros(-flat.size % 64, np.uint8)])

    source, template = f"simd/{name}.c", "simd/panel_floats.c.j2"
    return Format(
        name=name,
        block=1,
        block_bytes=size,
        decode=decode,
        encode=encode,
        limit=limit,
        floats=((0, name),),
        pack=pack,
        panel_bytes=panel_bytes,
        panels=MappingProxyType(
            {"avx2": Panel(source, template, (16, 6), 256), "avx512": Panel(source, template, (16, 8), 256)}
        ),
        check_k=(4 // size, 96, 256, 384, 2048),
        quantizer="quantize_float.c",
    )


def block_panel(name: str, isa: str, tokens: int, k_block: int, caller: str = "panel_blocks") -> Panel:
    """The panel kernel of a format of blocks, in ``simd/<name>_<isa>.c``; ``simd/<caller>.c.j2`` calls it."""
    return Panel(f"simd/{name}_{isa}.c", f"simd/{caller}.c.j2", (PANEL_ROWS, tokens), k_block)


def vnni_panel(name: str, k_block: int) -> Panel:
    """The panel kernel of a format of blocks with 256-bit VNNI, in ``simd/<name>_avxvnni.c``."""
    return block_panel(name, "avxvnni", 6, k_block, "panel_blocks_vnni")


def tile_panel(name: str, group: int, k_block: int) -> Panel:
    """The panel kernel of a format of blocks over AMX's tiles, in ``simd/<name>_amx.c``: superblocks for 32
    tokens together, blocks of 32 for 16."""
    return block_panel(name, "amx", 32 if group == 256 else 16, k_block, f"panel_amx_{group}")
