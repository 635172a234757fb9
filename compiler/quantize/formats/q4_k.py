"""Q4_K: 256 weights in 144 bytes. fp16 d, fp16 dmin, 12 bytes of scales, 128 bytes of nibbles.

Eight sub-blocks of 32: w = (d * sc) * q - (dmin * m), sc and m unsigned of six bits, q of four.
32 bytes of nibbles hold sub-block 2j (low) and 2j+1 (high). Of the scale bytes b, for j < 4:
sc = b[j] & 63, m = b[j+4] & 63; for j ≥ 4: sc = (b[j+4] & 15) | (b[j-4] >> 6) << 4,
m = (b[j+4] >> 4) | (b[j] >> 6) << 4.
"""

from __future__ import annotations

import numpy as np

from compiler.quantize.formats.block import BlockFormat, Bytes, Floats
from compiler.quantize.formats.q4_k_fit import fit
from compiler.quantize.formats.scales import half_bytes, reciprocal, rounded


def unpack_scales(packed: Bytes) -> tuple[Bytes, Bytes]:
    """``uint8 (n, 12)`` → sc and m, each ``uint8 (n, 8)``."""
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    sc = np.concatenate([first & 63, (third & 15) | (first >> 6) << 4], axis=1)
    m = np.concatenate([second & 63, (third >> 4) | (second >> 6) << 4], axis=1)
    return sc, m


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


def pack_scales(sc: Bytes, m: Bytes) -> Bytes:
    """sc and m, each ``uint8 (n, 8)`` → ``uint8 (n, 12)``; undoes ``unpack_scales``."""
    first = sc[:, :4] | (sc[:, 4:] >> 4) << 6
    second = m[:, :4] | (m[:, 4:] >> 4) << 6
    third = (sc[:, 4:] & 15) | (m[:, 4:] & 15) << 4
    return np.concatenate([first, second, third], axis=1)


def encode(x: Floats, importance: Floats | None) -> Bytes:
    """Scales and minima from the search of ``q4_k_fit``, codes rounded at them."""
    n = len(x)
    weights = np.ones_like(x) if importance is None else importance
    xs = x.reshape(n, 8, 32)
    found = fit(xs, weights.reshape(n, 8, 32))
    inverse = reciprocal(found.d * found.sc)
    offset = (found.dmin * found.m) * inverse
    q = rounded(xs * inverse[..., None] + offset[..., None], 0, 15).astype(np.uint8).reshape(n, 4, 2, 32)
    nibbles = (q[:, :, 0] | q[:, :, 1] << 4).reshape(n, 128)
    scales = pack_scales(found.sc.astype(np.uint8), found.m.astype(np.uint8))
    return np.concatenate([half_bytes(found.d[:, 0]), half_bytes(found.dmin[:, 0]), scales, nibbles], axis=1)


FORMAT = BlockFormat("q4_k", 256, 144, decode, encode, limit=63 * 65504)
