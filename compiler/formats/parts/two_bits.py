"""The 64 bytes of 256 codes of two bits, as Q2_K and Q3_K hold them.

A half of 128 codes has 32 bytes: its code 32 i + l is bits 2i, 2i+1 of byte l.
"""

from __future__ import annotations

import numpy as np

from compiler.formats.parts.record import Bytes

_SHIFTS = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)


def unpack_two_bits(packed: Bytes) -> Bytes:
    """``uint8 (n, 64)`` → codes 0…3, ``uint8 (n, 256)``."""
    codes = packed.reshape(-1, 2, 1, 32) >> _SHIFTS & 3
    return np.asarray(codes, np.uint8).reshape(-1, 256)


def pack_two_bits(codes: Bytes) -> Bytes:
    """Codes 0…3, ``uint8 (n, 256)`` → ``uint8 (n, 64)``; undoes ``unpack_two_bits``."""
    packed: Bytes = np.bitwise_or.reduce(codes.reshape(-1, 2, 4, 32) << _SHIFTS, axis=2).reshape(-1, 64)
    return packed


def panel_two_bits(chunks: Bytes) -> Bytes:
    """The low two bits of chunks ``(n, 64, 64)`` → ``(n, 1024)``: a group's chunk i in bits 2i, 2i+1."""
    groups = (chunks & 3).reshape(-1, 16, 4, 64) << _SHIFTS
    packed: Bytes = np.bitwise_or.reduce(groups, axis=2).reshape(len(chunks), -1)
    return packed
