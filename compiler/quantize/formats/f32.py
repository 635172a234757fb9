"""F32: IEEE 754 binary32, little-endian."""

from __future__ import annotations

import numpy as np

from compiler.quantize.formats.block import BlockFormat, Bytes, Floats


def decode(blocks: Bytes) -> Floats:
    return blocks.view(np.float32)


def encode(x: Floats, importance: Floats | None) -> Bytes:
    return x.view(np.uint8)


FORMAT = BlockFormat("f32", 1, 4, decode, encode, limit=float(np.finfo(np.float32).max), quantized=False)
