"""Scales as GGUF blocks hold them, and the fits they are found by, float32 step for step.

The NumPy twin of ``kernels_c/tools/lanes.h`` and ``symmetric.h``: every sum runs over the weights of a
block ascending, products and sums are each rounded to float32, so the bytes are the C encoders' own.
Arrays of blocks stand side by side where C has lanes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.formats.parts.record import Bytes, Floats

#: The largest finite half, and the spacing of the smallest ones.
HALF_MAX = np.float32(65504)
HALF_STEP = np.float32(2.0**-24)
#: A block whose largest magnitude is below this is all zeros: half of half of ``HALF_STEP``.
TINY = np.float32(2.0**-26)
ZERO = np.float32(0)


def reciprocal(v: Floats) -> Floats:
    """1 / v, and 0 where v is 0."""
    zero = v == 0
    result: Floats = np.where(zero, ZERO, np.float32(1) / np.where(zero, np.float32(1), v))
    return result


def half_scale(v: Floats) -> Floats:
    """``v`` as a half can hold it: nearest, ties to even, at most ``HALF_MAX`` in magnitude; below the
    normal halves away from zero, so that a tiny scale never clips its block."""
    v = np.clip(v, -HALF_MAX, HALF_MAX)
    normal = v.astype(np.float16).astype(np.float32)
    steps = np.ceil(np.abs(v) / HALF_STEP) * HALF_STEP
    result: Floats = np.where(np.abs(v) < np.float32(2.0**-14), np.copysign(steps, v), normal)
    return result


def half_bytes(v: Floats) -> Bytes:
    """Scales that are halves exactly, ``float32 (n,)`` → ``uint8 (n, 2)``."""
    return np.ascontiguousarray(v.astype(np.float16)).view(np.uint8).reshape(-1, 2)


def rounded(v: Floats, low: float, high: float) -> Floats:
    """The nearest integers within ``low`` … ``high``, ties to even."""
    result: Floats = np.rint(np.clip(v, np.float32(low), np.float32(high)))
    return result


def ascending_sum(terms: Floats) -> Floats:
    """Sum over the last axis, one addition after the other."""
    total = np.zeros(terms.shape[:-1], np.float32)
    for i in range(terms.shape[-1]):
        total = total + terms[..., i]
    return total


def tree_sum(v: Floats) -> Floats:
    """Sum over a last axis of 8: pairs four apart, two apart, then the two that remain."""
    four = v[..., :4] + v[..., 4:]
    two = four[..., :2] + four[..., 2:]
    result: Floats = two[..., 0] + two[..., 1]
    return result


def peak(x: Floats) -> Floats:
    """The weight of largest magnitude of each block, with its sign; the first of equals. 0 where no
    magnitude reaches ``TINY``. ``(..., block) -> (...)``"""
    size = np.abs(x)
    index = np.argmax(size, axis=-1)[..., None]
    value = np.take_along_axis(x, index, axis=-1)[..., 0]
    result: Floats = np.where(np.abs(value) < TINY, ZERO, value)
    return result


def symmetric_sums(x: Floats, w: Floats, inverse: Floats, low: float, high: float) -> tuple[Floats, Floats]:
    """Σ w q x and Σ w q q of codes rounded at scale ``1 / inverse``."""
    q = rounded(x * inverse[..., None], low, high)
    wq = w * q
    return ascending_sum(wq * x), ascending_sum(wq * q)


def symmetric_gain(xq: Floats, qq: Floats, scale: Floats) -> Floats:
    """How much of Σ w x x the codes explain: S (2 xq − S qq)."""
    return scale * ((xq + xq) - scale * qq)


def best_half_scale(x: Floats, w: Floats, ratios: Sequence[np.float32], low: float, high: float) -> Floats:
    """Of ``half_scale(peak * ratio)``, the scale that leaves the smallest error; the first of equals;
    0 where none is better than all zeros."""
    top = peak(x)
    best_gain = np.zeros_like(top)
    best = np.zeros_like(top)
    for ratio in ratios:
        scale = half_scale(top * ratio)
        xq, qq = symmetric_sums(x, w, reciprocal(scale), low, high)
        gain = symmetric_gain(xq, qq, scale)
        better = gain > best_gain
        best_gain = np.where(better, gain, best_gain)
        best = np.where(better, scale, best)
    return best


def refit_half_scale(x: Floats, w: Floats, scale: Floats, low: float, high: float) -> Floats:
    """The least squares scale of the codes at ``scale``, as a half holds it, where that is better."""
    xq, qq = symmetric_sums(x, w, reciprocal(scale), low, high)
    refit = half_scale(xq * reciprocal(qq))
    sums = symmetric_sums(x, w, reciprocal(refit), low, high)
    better = symmetric_gain(*sums, refit) > symmetric_gain(xq, qq, scale)
    result: Floats = np.where(better, refit, scale)
    return result
