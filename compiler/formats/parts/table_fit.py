"""Fits of blocks whose codes are indices of a table of 16 values: ``kernels_c/tools/table.h`` in NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.formats.parts.record import Bytes, Floats
from compiler.formats.parts.scales import ascending_sum, half_scale, peak, reciprocal, symmetric_gain


def middles(values: Floats) -> Floats:
    """Halfway between neighbours of an ascending table, ``float32 (16,) -> (15,)``; exact."""
    result: Floats = (values[:-1] + values[1:]) * np.float32(0.5)
    return result


def codes_of(scaled: Floats, values: Floats) -> Bytes:
    """The index of the value nearest to each of ``scaled``, the lower of two at the same distance."""
    return np.searchsorted(middles(values), scaled, side="left").astype(np.uint8)


def best_table_scale(x: Floats, w: Floats, ratios: Sequence[np.float32], values: Floats) -> Floats:
    """Of ``half_scale(peak * ratio)``, each refitted to its codes, the scale with the smallest error; the
    first of equals; 0 where none is better than all zeros. ``(n, block) -> (n,)``"""
    top = peak(x)
    best_gain = np.zeros_like(top)
    best = np.zeros_like(top)
    for ratio in ratios:
        inverse = reciprocal(half_scale(top * ratio))
        v = values[codes_of(x * inverse[..., None], values)]
        wv = w * v
        vx, vv = ascending_sum(wv * x), ascending_sum(wv * v)
        scale = half_scale(vx * reciprocal(vv))
        gain = symmetric_gain(vx, vv, scale)
        better = gain > best_gain
        best_gain = np.where(better, gain, best_gain)
        best = np.where(better, scale, best)
    return best


def nibbles(codes: Bytes) -> Bytes:
    """Codes ``(n, 32)`` to bytes ``(n, 16)``: byte i holds code i (low) and code i + 16 (high)."""
    result: Bytes = codes[:, :16] | codes[:, 16:] << np.uint8(4)
    return result


def from_nibbles(packed: Bytes) -> Bytes:
    """The inverse of ``nibbles``."""
    return np.concatenate([packed & 15, packed >> 4], axis=1)
