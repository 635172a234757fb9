"""IQ4_NL: 32 weights in 18 bytes. fp16 d, 16 bytes of nibbles. w = d * VALUES[q].

Byte i of the nibbles holds weight i (low) and weight i + 16 (high). The table of 16 is dense near zero.
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from compiler.formats.parts.panels import block_panel, chunks, in_pairs, paired_bytes
from compiler.formats.parts.record import PANEL_ROWS, Bytes, Floats, Format
from compiler.formats.parts.scales import half_bytes, reciprocal
from compiler.formats.parts.table_fit import best_table_scale, codes_of, from_nibbles, nibbles

#: What the codes 0 … 15 stand for.
VALUES = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.float32
)


def decode(blocks: Bytes) -> Floats:
    d = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    q: Floats = VALUES[from_nibbles(blocks[:, 2:])]
    return q * d


#: d is tried where the block's largest weight is laid at these values. The table reaches further down
#: than up, so most of them are at its lower end.
RATIOS = tuple(np.float32(1) / np.float32(at) for at in (*range(-134, -104, 2), *range(104, 121, 4)))


def encode(x: Floats, importance: Floats | None) -> Bytes:
    """Of the RATIOS, each refitted to the codes it gives, d is the one that leaves the smallest error."""
    w = np.ones_like(x) if importance is None else importance
    d = best_table_scale(x, w, RATIOS, VALUES)
    return np.concatenate([half_bytes(d), nibbles(codes_of(x * reciprocal(d)[:, None], VALUES))], axis=1)


def pack(rows: Bytes) -> Bytes:
    blocks = rows.reshape(PANEL_ROWS, -1, 18)
    return in_pairs(blocks[:, :, :2], chunks(blocks[:, :, 2:]).reshape(blocks.shape[1], -1))


FORMAT = Format(
    name="iq4_nl",
    block=32,
    block_bytes=18,
    decode=decode,
    encode=encode,
    limit=113 * 65504,
    floats=((0, "f16"),),
    pack=pack,
    panel_bytes=paired_bytes(32, 256),
    panels=MappingProxyType(
        {
            "avx2": block_panel("iq4_nl", "avx2", tokens=4, k_block=128),
            "avx512": block_panel("iq4_nl", "avx512", tokens=8, k_block=256),
        }
    ),
    check_k=(32, 96, 256, 896, 2048),
    group=32,
    code_bits=4,
    fallback="f16",
)
