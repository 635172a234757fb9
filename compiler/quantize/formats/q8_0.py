"""Q8_0: 32 weights in 34 bytes. fp16 d, int8 codes[32]. w = d * q."""

from __future__ import annotations

import numpy as np

from compiler.quantize.formats.block import BlockFormat, Bytes, Floats
from compiler.quantize.formats.scales import best_half_scale, half_bytes, reciprocal, rounded


def decode(blocks: Bytes) -> Floats:
    d = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    return blocks[:, 2:].view(np.int8).astype(np.float32) * d


#: d is tried at these fractions of the block's largest magnitude.
RATIOS = tuple(np.float32(1 + 0.004 * i) / np.float32(127.5) for i in range(8))


def encode(x: Floats, importance: Floats | None) -> Bytes:
    """Of the RATIOS, each as a half holds it, d is the one whose rounded codes leave the smallest error."""
    w = np.ones_like(x) if importance is None else importance
    d = np.abs(best_half_scale(x, w, RATIOS, -127, 127))
    codes = rounded(x * reciprocal(d)[:, None], -127, 127).astype(np.int8)
    return np.concatenate([half_bytes(d), codes.view(np.uint8)], axis=1)


FORMAT = BlockFormat("q8_0", 32, 34, decode, encode, limit=127 * 65504)
