"""Q4_K: 256 weights in 144 bytes. fp16 d, fp16 dmin, 12 bytes of scales, 128 bytes of nibbles.

Eight sub-blocks of 32: w = (d * sc) * q - (dmin * m), sc and m unsigned of six bits, q of four.
32 bytes of nibbles hold sub-block 2j (low) and 2j+1 (high). The scale bytes are
those of ``parts/scales_of_6``.
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from compiler.formats.parts.affine_fit import Grid, fit, steps
from compiler.formats.parts.panels import block_panel, chunks, tile_panel, vnni_panel
from compiler.formats.parts.record import PANEL_ROWS, Bytes, Floats, Format
from compiler.formats.parts.scales import half_bytes, reciprocal, rounded
from compiler.formats.parts.scales_of_6 import pack_scales, panel_scales, unpack_scales

GRID = Grid(top=15, most=63, spreads=steps(14, 0.3, 8), shifts=steps(0, 0.02, 3))


def decode(blocks: Bytes) -> Floats:
    n = len(blocks)
    d = blocks[:, 0:2].copy().view(np.float16).astype(np.float32)
    dmin = blocks[:, 2:4].copy().view(np.float16).astype(np.float32)
    sc, m = unpack_scales(blocks[:, 4:16])
    scale = (d * sc.astype(np.float32))[:, :, None]
    minimum = (dmin * m.astype(np.float32))[:, :, None]
    nibbles = blocks[:, 16:].reshape(n, 4, 32)
    q = np.stack([nibbles & 15, nibbles >> 4], axis=2).reshape(n, 8, 32).astype(np.float32)
    return (scale * q - minimum).reshape(n, 256)


def encode(x: Floats, importance: Floats | None) -> Bytes:
    """Scales and minima from the search of ``affine_fit``, codes rounded at them."""
    n = len(x)
    weights = np.ones_like(x) if importance is None else importance
    xs = x.reshape(n, 8, 32)
    found = fit(xs, weights.reshape(n, 8, 32), GRID)
    inverse = reciprocal(found.d * found.sc)
    offset = (found.dmin * found.m) * inverse
    q = rounded(xs * inverse[..., None] + offset[..., None], 0, 15).astype(np.uint8).reshape(n, 4, 2, 32)
    nibbles = (q[:, :, 0] | q[:, :, 1] << 4).reshape(n, 128)
    scales = pack_scales(found.sc.astype(np.uint8), found.m.astype(np.uint8))
    return np.concatenate([half_bytes(found.d[:, 0]), half_bytes(found.dmin[:, 0]), scales, nibbles], axis=1)


def pack(rows: Bytes) -> Bytes:
    blocks = rows.reshape(PANEL_ROWS, -1, 144)
    n = blocks.shape[1]
    parts = [
        blocks[:, :, 0:2].transpose(1, 0, 2).reshape(n, -1),
        blocks[:, :, 2:4].transpose(1, 0, 2).reshape(n, -1),
        panel_scales(blocks[:, :, 4:16]),
        chunks(blocks[:, :, 16:]).reshape(n, -1),
    ]
    return np.concatenate(parts, axis=1).reshape(-1)


def panel_bytes(k: int) -> int:
    return k // 256 * PANEL_ROWS * 144


FORMAT = Format(
    name="q4_k",
    block=256,
    block_bytes=144,
    decode=decode,
    encode=encode,
    limit=63 * 65504,
    floats=((0, "f16"), (2, "f16")),
    pack=pack,
    panel_bytes=panel_bytes,
    panels=MappingProxyType(
        {
            "avx2": block_panel("q4_k", "avx2", tokens=4, k_block=256),
            "avxvnni": vnni_panel("q4_k", k_block=256),
            "avx512": block_panel("q4_k", "avx512", tokens=8, k_block=256),
            "amx": tile_panel("q4_k", group=256, k_block=256),
        }
    ),
    check_k=(256, 768, 2048),
    group=256,
    code_bits=4,
    fallback="q5_1",
)
