"""Q5_K: 256 weights in 176 bytes. fp16 d, fp16 dmin, 12 bytes of scales, 32 bytes qh, 128 bytes of nibbles.

Q4_K with a fifth bit: eight sub-blocks of 32, w = (d * sc) * q - (dmin * m), sc and m as in
``parts/scales_of_6``. 32 bytes of nibbles hold the low four bits of sub-block 2j (low) and 2j+1 (high); the
fifth bit of weight l of sub-block j is bit j of qh[l].
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from compiler.formats.parts.affine_fit import Grid, fit, steps
from compiler.formats.parts.panels import block_panel, chunks
from compiler.formats.parts.record import PANEL_ROWS, Bytes, Floats, Format
from compiler.formats.parts.scales import half_bytes, reciprocal, rounded
from compiler.formats.parts.scales_of_6 import pack_scales, panel_scales, unpack_scales

GRID = Grid(top=31, most=63, spreads=steps(29.5, 0.4, 8), shifts=steps(0, 0.01, 3))

_BITS = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)


def unpack_codes(blocks: Bytes) -> Bytes:
    """The codes 0…31, ``uint8 (n, 256)``."""
    n = len(blocks)
    nibbles = blocks[:, 48:].reshape(n, 4, 32)
    low = np.stack([nibbles & 15, nibbles >> 4], axis=2).reshape(n, 8, 32)
    high = blocks[:, 16:48].reshape(n, 1, 32) >> _BITS & 1
    codes: Bytes = (low | high << 4).reshape(n, 256)
    return codes


def decode(blocks: Bytes) -> Floats:
    n = len(blocks)
    d = blocks[:, 0:2].copy().view(np.float16).astype(np.float32)
    dmin = blocks[:, 2:4].copy().view(np.float16).astype(np.float32)
    sc, m = unpack_scales(blocks[:, 4:16])
    scale = (d * sc.astype(np.float32))[:, :, None]
    minimum = (dmin * m.astype(np.float32))[:, :, None]
    q = unpack_codes(blocks).reshape(n, 8, 32).astype(np.float32)
    return (scale * q - minimum).reshape(n, 256)


def encode(x: Floats, importance: Floats | None) -> Bytes:
    """Scales and minima from the search of ``affine_fit``, codes rounded at them."""
    n = len(x)
    weights = np.ones_like(x) if importance is None else importance
    xs = x.reshape(n, 8, 32)
    found = fit(xs, weights.reshape(n, 8, 32), GRID)
    inverse = reciprocal(found.d * found.sc)
    offset = (found.dmin * found.m) * inverse
    q = rounded(xs * inverse[..., None] + offset[..., None], 0, 31).astype(np.uint8)
    pairs = q.reshape(n, 4, 2, 32) & 15
    nibbles = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(n, 128)
    high = np.bitwise_or.reduce((q >> 4) << _BITS, axis=1)
    scales = pack_scales(found.sc.astype(np.uint8), found.m.astype(np.uint8))
    d, dmin = half_bytes(found.d[:, 0]), half_bytes(found.dmin[:, 0])
    return np.concatenate([d, dmin, scales, high, nibbles], axis=1)


def pack(rows: Bytes) -> Bytes:
    blocks = rows.reshape(PANEL_ROWS, -1, 176)
    n = blocks.shape[1]
    codes = unpack_codes(blocks.reshape(-1, 176)).reshape(PANEL_ROWS, n, 256)
    groups = chunks(codes).reshape(n, 16, 4, 64)
    low = np.stack([(groups[:, :, i] & 15) | groups[:, :, i + 1] << 4 for i in (0, 2)], axis=2)
    high = np.bitwise_or.reduce(groups.reshape(n, 8, 8, 64) >> 4 << _BITS[:, None], axis=2)
    parts = [
        blocks[:, :, 0:2].transpose(1, 0, 2).reshape(n, -1),
        blocks[:, :, 2:4].transpose(1, 0, 2).reshape(n, -1),
        panel_scales(blocks[:, :, 4:16]),
        low.reshape(n, -1),
        high.reshape(n, -1),
    ]
    return np.concatenate(parts, axis=1).reshape(-1)


def panel_bytes(k: int) -> int:
    return k // 256 * PANEL_ROWS * 176


FORMAT = Format(
    name="q5_k",
    block=256,
    block_bytes=176,
    decode=decode,
    encode=encode,
    limit=63 * 65504,
    floats=((0, "f16"), (2, "f16")),
    pack=pack,
    panel_bytes=panel_bytes,
    panels=MappingProxyType(
        {
            "avx2": block_panel("q5_k", "avx2", tokens=4, k_block=256),
            "avx512": block_panel("q5_k", "avx512", tokens=8, k_block=256),
        }
    ),
    check_k=(256, 768, 2048),
    group=256,
    code_bits=5,
    fallback="q5_1",
)
