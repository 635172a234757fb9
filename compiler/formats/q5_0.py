"""Q5_0: 32 weights in 22 bytes. fp16 d, 32 fifth bits, 16 bytes of nibbles. w = d * (q - 16).

Byte i of the nibbles holds weight i (low) and weight i + 16 (high); bit i of the
little-endian word of fifth bits belongs to weight i.
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from compiler.formats.parts.panels import (
    block_panel,
    chunks,
    fifth_bits,
    in_pairs,
    paired_bytes,
    tile_panel,
    vnni_panel,
)
from compiler.formats.parts.record import PANEL_ROWS, Bytes, Floats, Format
from compiler.formats.parts.scales import best_half_scale, half_bytes, reciprocal, rounded


def decode(blocks: Bytes) -> Floats:
    d = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    fifth = np.unpackbits(blocks[:, 2:6], axis=1, bitorder="little")
    nibbles = blocks[:, 6:]
    low = np.concatenate([nibbles & 15, nibbles >> 4], axis=1)
    q: Floats = ((low | (fifth << 4)).astype(np.int8) - np.int8(16)).astype(np.float32)
    return q * d


def from_q4_0(rows: Bytes) -> Bytes:
    """Rows of q4_0 blocks, ``uint8 (rows, k / 32 * 18)`` → q5_0 blocks of the very same values.

    Q4_0 (fp16 d, 16 bytes of nibbles in the same order) holds w = d * (q - 8): codes grow by 8, whose carry
    is the fifth bit, so a nibble's highest bit moves there and its complement takes its place.
    """
    blocks = rows.reshape(-1, 18)
    nibbles = blocks[:, 2:]
    fifth = np.packbits(np.concatenate([nibbles >> 3 & 1, nibbles >> 7], axis=1), axis=1, bitorder="little")
    out = np.concatenate([blocks[:, :2], fifth, nibbles ^ np.uint8(0x88)], axis=1)
    return out.reshape(len(rows), -1)


#: d is tried at these fractions of the block's largest weight. Codes reach one step further down than
#: up, so that weight is laid on the lower end.
RATIOS = tuple(np.float32(-(100 + 2 * i) / 100) / np.float32(17.5) for i in range(12))


def encode(x: Floats, importance: Floats | None) -> Bytes:
    """Of the RATIOS, each as a half holds it, d is the one whose rounded codes leave the smallest error."""
    w = np.ones_like(x) if importance is None else importance
    d = best_half_scale(x, w, RATIOS, -16, 15)
    codes = (rounded(x * reciprocal(d)[:, None], -16, 15) + np.float32(16)).astype(np.uint8)
    nibbles = (codes[:, :16] & 15) | (codes[:, 16:] & 15) << 4
    fifth = np.packbits(codes >> 4, axis=1, bitorder="little")
    return np.concatenate([half_bytes(d), fifth, nibbles], axis=1)


def pack(rows: Bytes) -> Bytes:
    blocks = rows.reshape(PANEL_ROWS, -1, 22)
    n = blocks.shape[1]
    body = [fifth_bits(blocks[:, :, 2:6]), chunks(blocks[:, :, 6:]).reshape(n, -1)]
    return in_pairs(blocks[:, :, :2], np.concatenate(body, axis=1))


FORMAT = Format(
    name="q5_0",
    block=32,
    block_bytes=22,
    decode=decode,
    encode=encode,
    limit=15 * 65504,
    floats=((0, "f16"),),
    pack=pack,
    panel_bytes=paired_bytes(32, 320),
    panels=MappingProxyType(
        {
            "avx2": block_panel("q5_0", "avx2", tokens=4, k_block=512),
            "avxvnni": vnni_panel("q5_0", k_block=512),
            "avx512": block_panel("q5_0", "avx512", tokens=8, k_block=256),
            "amx": tile_panel("q5_0", group=32, k_block=128),
        }
    ),
    check_k=(32, 96, 256, 896, 2048),
    group=32,
    code_bits=5,
    fallback="f16",
    exact=MappingProxyType({"q4_0": from_q4_0}),
)
