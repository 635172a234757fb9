"""F16: IEEE 754 binary16, little-endian; rounded to nearest, ties to even."""

from __future__ import annotations

import numpy as np

from compiler.formats.parts.panels import float_format
from compiler.formats.parts.record import Bytes, Floats


def decode(blocks: Bytes) -> Floats:
    return blocks.view(np.float16).astype(np.float32)


def encode(x: Floats, importance: Floats | None) -> Bytes:
    return x.astype(np.float16).view(np.uint8)


#: The largest float32 that still rounds to a finite half: just below 65520.
LIMIT = float(np.nextafter(np.float32(65520), np.float32(0)))

FORMAT = float_format("f16", 2, decode, encode, limit=LIMIT)
