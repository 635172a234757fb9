"""Q8_0: 32 weights in 34 bytes. fp16 d, int8 codes[32]. w = d * q."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from compiler.formats.parts.panels import block_panel, chunks, in_pairs, paired_bytes, tile_panel, vnni_panel
from compiler.formats.parts.record import PANEL_ROWS, Bytes, Floats, Format
from compiler.formats.parts.scales import best_half_scale, half_bytes, reciprocal, rounded


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


def pack(rows: Bytes) -> Bytes:
    blocks = rows.reshape(PANEL_ROWS, -1, 34)
    return in_pairs(blocks[:, :, :2], chunks(blocks[:, :, 2:]).reshape(blocks.shape[1], -1))


FORMAT = Format(
    name="q8_0",
    block=32,
    block_bytes=34,
    decode=decode,
    encode=encode,
    limit=127 * 65504,
    floats=((0, "f16"),),
    pack=pack,
    panel_bytes=paired_bytes(32, 512),
    panels=MappingProxyType(
        {
            "avx2": block_panel("q8_0", "avx2", tokens=4, k_block=128),
            "avxvnni": vnni_panel("q8_0", k_block=256),
            "avx512": block_panel("q8_0", "avx512", tokens=8, k_block=256),
            "amx": tile_panel("q8_0", group=32, k_block=128),
        }
    ),
    check_k=(32, 96, 256, 896, 2048),
    group=32,
    code_bits=8,
    fallback="f16",
)
