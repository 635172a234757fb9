"""F32: IEEE 754 binary32, little-endian."""

from __future__ import annotations

import numpy as np

from compiler.formats.parts.panels import float_format
from compiler.formats.parts.record import Bytes, Floats


def decode(blocks: Bytes) -> Floats:
    return blocks.view(np.float32)


def encode(x: Floats, importance: Floats | None) -> Bytes:
    return x.view(np.uint8)


FORMAT = float_format("f32", 4, decode, encode, limit=float(np.finfo(np.float32).max))
