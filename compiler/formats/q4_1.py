"""Q4_1: 32 weights in 20 bytes. fp16 d, fp16 m, 16 bytes of nibbles. w = d * q + m.

Byte i of the nibbles holds weight i (low) and weight i + 16 (high).
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from compiler.formats.parts.affine_32 import fit
from compiler.formats.parts.panels import block_panel, chunks, vnni_panel
from compiler.formats.parts.record import PANEL_ROWS, Bytes, Floats, Format


def decode(blocks: Bytes) -> Floats:
    d = blocks[:, 0:2].copy().view(np.float16).astype(np.float32)
    m = blocks[:, 2:4].copy().view(np.float16).astype(np.float32)
    q = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1).astype(np.float32)
    result: Floats = d * q + m
    return result


def encode(x: Floats, importance: Floats | None) -> Bytes:
    """Scale and minimum from the search of ``parts/affine_32``, codes rounded at them."""
    d, m, codes = fit(x, importance, 15)
    return np.concatenate([d, m, codes[:, :16] | codes[:, 16:] << 4], axis=1)


def pack(rows: Bytes) -> Bytes:
    blocks = rows.reshape(PANEL_ROWS, -1, 20)
    n = blocks.shape[1]
    parts = [
        blocks[:, :, 0:2].transpose(1, 0, 2).reshape(n, -1),
        blocks[:, :, 2:4].transpose(1, 0, 2).reshape(n, -1),
        chunks(blocks[:, :, 4:]).reshape(n, -1),
    ]
    return np.concatenate(parts, axis=1).reshape(-1)


def panel_bytes(k: int) -> int:
    return k // 32 * PANEL_ROWS * 20


FORMAT = Format(
    name="q4_1",
    block=32,
    block_bytes=20,
    decode=decode,
    encode=encode,
    limit=65504,
    floats=((0, "f16"), (2, "f16")),
    pack=pack,
    panel_bytes=panel_bytes,
    panels=MappingProxyType(
        {
            "avx2": block_panel("q4_1", "avx2", tokens=4, k_block=512),
            "avxvnni": vnni_panel("q4_1", k_block=512),
            "avx512": block_panel("q4_1", "avx512", tokens=8, k_block=256),
        }
    ),
    check_k=(32, 96, 256, 896, 2048),
    group=32,
    code_bits=4,
    fallback="f16",
)
