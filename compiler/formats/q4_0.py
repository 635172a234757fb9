"""Q4_0: 32 weights in 18 bytes. fp16 d, 16 bytes of nibbles. w = d * (q - 8).

Byte i of the nibbles holds weight i (low) and weight i + 16 (high).
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from compiler.formats.parts.panels import block_panel, chunks, in_pairs, paired_bytes, tile_panel, vnni_panel
from compiler.formats.parts.record import PANEL_ROWS, Bytes, Floats, Format
from compiler.formats.parts.scales import best_half_scale, half_bytes, reciprocal, refit_half_scale, rounded


def decode(blocks: Bytes) -> Floats:
    d = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    nibbles = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)
    q: Floats = (nibbles.astype(np.int8) - np.int8(8)).astype(np.float32)
    return q * d


#: d is tried at these fractions of the block's largest weight. Codes reach one step further down than
#: up, so that weight is laid on the lower end.
RATIOS = tuple(np.float32(-(100 + 2 * i) / 100) / np.float32(9.25) for i in range(18))
REFITS = 2


def encode(x: Floats, importance: Floats | None) -> Bytes:
    """Of the RATIOS, each as a half holds it, the best, refitted to its codes by least squares."""
    w = np.ones_like(x) if importance is None else importance
    d = best_half_scale(x, w, RATIOS, -8, 7)
    for _ in range(REFITS):
        d = refit_half_scale(x, w, d, -8, 7)
    codes = (rounded(x * reciprocal(d)[:, None], -8, 7) + np.float32(8)).astype(np.uint8)
    return np.concatenate([half_bytes(d), codes[:, :16] | codes[:, 16:] << 4], axis=1)


def pack(rows: Bytes) -> Bytes:
    blocks = rows.reshape(PANEL_ROWS, -1, 18)
    return in_pairs(blocks[:, :, :2], chunks(blocks[:, :, 2:]).reshape(blocks.shape[1], -1))


FORMAT = Format(
    name="q4_0",
    block=32,
    block_bytes=18,
    decode=decode,
    encode=encode,
    limit=7 * 65504,
    floats=((0, "f16"),),
    pack=pack,
    panel_bytes=paired_bytes(32, 256),
    panels=MappingProxyType(
        {
            "avx2": block_panel("q4_0", "avx2", tokens=4, k_block=512),
            "avxvnni": vnni_panel("q4_0", k_block=512),
            "avx512": block_panel("q4_0", "avx512", tokens=8, k_block=256),
            "amx": tile_panel("q4_0", group=32, k_block=128),
        }
    ),
    check_k=(32, 96, 256, 896, 2048),
    group=32,
    code_bits=4,
    fallback="f16",
)
