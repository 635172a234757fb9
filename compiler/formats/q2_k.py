"""Q2_K: 256 weights in 84 bytes. 16 bytes of scales, 64 bytes of codes, fp16 d, fp16 dmin.

Sixteen sub-blocks of 16: w = (d * sc) * q - (dmin * m), q of two bits; a byte of scales holds sc (low) and
m (high). A half of 128 weights has 32 bytes of codes: its weight 32 i + l is bits 2i, 2i+1 of byte l.
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from compiler.formats.parts.affine_fit import Grid, fit, steps
from compiler.formats.parts.panels import block_panel, chunks
from compiler.formats.parts.record import PANEL_ROWS, Bytes, Floats, Format
from compiler.formats.parts.scales import half_bytes, reciprocal, rounded
from compiler.formats.parts.two_bits import pack_two_bits, panel_two_bits, unpack_two_bits

GRID = Grid(top=3, most=15, spreads=steps(2.2, 0.15, 14), shifts=steps(0, 0.04, 6))


def decode(blocks: Bytes) -> Floats:
    n = len(blocks)
    d = blocks[:, 80:82].copy().view(np.float16).astype(np.float32)
    dmin = blocks[:, 82:84].copy().view(np.float16).astype(np.float32)
    scale = (d * (blocks[:, :16] & 15).astype(np.float32))[:, :, None]
    minimum = (dmin * (blocks[:, :16] >> 4).astype(np.float32))[:, :, None]
    q = unpack_two_bits(blocks[:, 16:80]).reshape(n, 16, 16).astype(np.float32)
    return (scale * q - minimum).reshape(n, 256)


def encode(x: Floats, importance: Floats | None) -> Bytes:
    """Scales and minima from the search of ``affine_fit``, codes rounded at them."""
    n = len(x)
    weights = np.ones_like(x) if importance is None else importance
    xs = x.reshape(n, 16, 16)
    found = fit(xs, weights.reshape(n, 16, 16), GRID)
    inverse = reciprocal(found.d * found.sc)
    offset = (found.dmin * found.m) * inverse
    q = rounded(xs * inverse[..., None] + offset[..., None], 0, 3).astype(np.uint8).reshape(n, 256)
    scales = found.sc.astype(np.uint8) | found.m.astype(np.uint8) << 4
    factors = [half_bytes(found.d[:, 0]), half_bytes(found.dmin[:, 0])]
    return np.concatenate([scales, pack_two_bits(q), *factors], axis=1)


def pack(rows: Bytes) -> Bytes:
    blocks = rows.reshape(PANEL_ROWS, -1, 84)
    n = blocks.shape[1]
    codes = unpack_two_bits(blocks[:, :, 16:80].reshape(-1, 64)).reshape(PANEL_ROWS, n, 256)
    parts = [
        blocks[:, :, 80:82].transpose(1, 0, 2).reshape(n, -1),
        blocks[:, :, 82:84].transpose(1, 0, 2).reshape(n, -1),
        blocks[:, :, :16].transpose(1, 2, 0).reshape(n, -1),
        panel_two_bits(chunks(codes)),
    ]
    return np.concatenate(parts, axis=1).reshape(-1)


def panel_bytes(k: int) -> int:
    return k // 256 * PANEL_ROWS * 84


FORMAT = Format(
    name="q2_k",
    block=256,
    block_bytes=84,
    decode=decode,
    encode=encode,
    limit=15 * 65504,
    floats=((80, "f16"), (82, "f16")),
    pack=pack,
    panel_bytes=panel_bytes,
    panels=MappingProxyType(
        {
            "avx2": block_panel("q2_k", "avx2", tokens=4, k_block=256),
            "avx512": block_panel("q2_k", "avx512", tokens=8, k_block=256),
        }
    ),
    check_k=(256, 768, 2048),
    group=256,
    code_bits=2,
    fallback="q4_k",
)
