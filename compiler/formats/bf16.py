"""BF16: the upper half of a binary32, little-endian; rounded to nearest, ties to even."""

from __future__ import annotations

import numpy as np

from compiler.formats.parts.panels import float_format
from compiler.formats.parts.record import Bytes, Floats


def decode(blocks: Bytes) -> Floats:
    return (blocks.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def encode(x: Floats, importance: Floats | None) -> Bytes:
    bits = x.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype(np.uint16).view(np.uint8)


#: The largest float32 that still rounds to a finite bfloat16.
LIMIT = float(np.uint32(0x7F7F7FFF).view(np.float32))

FORMAT = float_format("bf16", 2, decode, encode, limit=LIMIT)
