"""The fit of blocks of 32 with a minimum, w = S q + M; ``kernels_c/tools/affine_32.h`` numbers the steps.

Weights are taken from the block's smallest on. With codes q, scale S and minimum M the weighted squared
error is then Σ w x x − gain, gain = S (2 Σwqx − S Σwqq) + M (2 Σwx − 2 S Σwq − M Σw).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compiler.formats.parts.record import Bytes, Floats
from compiler.formats.parts.scales import (
    TINY,
    ZERO,
    ascending_sum,
    half_bytes,
    half_scale,
    reciprocal,
    rounded,
)

#: Steps over the range of a block that are tried, beyond one less than the largest code, and how far up its
#: lower end is moved.
SPREADS = tuple(np.float32(0.3) * np.float32(c) for c in range(8))
SHIFTS = tuple(np.float32(0.02) * np.float32(e) for e in range(3))
REFITS = 2

_Sums = tuple[Floats, Floats, Floats]


@dataclass(frozen=True)
class _Blocks:
    """Weights ``x`` above the block's smallest ``low``, their importance ``w``, ``(n, 32)``, and the sums
    that no code changes, ``(n,)``."""

    x: Floats
    w: Floats
    low: Floats
    sum_w: Floats
    sum_x: Floats
    inverse_w: Floats
    most: int

    def code_sums(self, inverse: Floats, offset: Floats) -> _Sums:
        """Σwq, Σwqq, Σwqx of the codes of ``x * inverse + offset``."""
        q = rounded(self.x * inverse[:, None] + offset[:, None], 0, self.most)
        wq = self.w * q
        return ascending_sum(wq), ascending_sum(wq * q), ascending_sum(wq * self.x)

    def gain(self, sums: _Sums, scale: Floats, minimum: Floats) -> Floats:
        q, qq, xq = sums
        linear = scale * ((xq + xq) - scale * qq)
        result: Floats = linear + minimum * (
            ((self.sum_x + self.sum_x) - (scale + scale) * q) - minimum * self.sum_w
        )
        return result


@dataclass(frozen=True)
class _Fit:
    """Scale and minimum as halves hold them, what they gain, and the codes' sums, ``(n,)`` each."""

    scale: Floats
    minimum: Floats
    gain: Floats
    sums: _Sums


def _better(blocks: _Blocks, sums: _Sums, best: _Fit) -> _Fit:
    """Steps 1 or 3, then 2: the least squares of codes with ``sums`` where they beat the best so far."""
    q, qq, xq = sums
    inverse_det = reciprocal(blocks.sum_w * qq - q * q)
    slope: Floats = (blocks.sum_w * xq - blocks.sum_x * q) * inverse_det
    scale = half_scale(slope)
    level: Floats = (blocks.sum_x - scale * q) * blocks.inverse_w
    minimum = half_scale(np.add(blocks.low, level, dtype=np.float32))
    above, inverse = minimum - blocks.low, reciprocal(scale)
    now = blocks.code_sums(inverse, ZERO - above * inverse)
    gain = blocks.gain(now, scale, above)
    better = (gain > best.gain) & (scale > 0)
    return _Fit(
        np.where(better, scale, best.scale),
        np.where(better, minimum, best.minimum),
        np.where(better, gain, best.gain),
        (
            np.where(better, now[0], best.sums[0]),
            np.where(better, now[1], best.sums[1]),
            np.where(better, now[2], best.sums[2]),
        ),
    )


def fit(x: Floats, importance: Floats | None, most: int) -> tuple[Bytes, Bytes, Bytes]:
    """Blocks ``float32 (n, 32)`` → scales and minima as halves, ``uint8 (n, 2)`` each, and codes
    0 … ``most``, ``uint8 (n, 32)``."""
    w = np.ones_like(x) if importance is None else importance
    low = x.min(axis=1)
    lowered = x - low[:, None]
    sum_w, sum_x = ascending_sum(w), ascending_sum(w * lowered)
    blocks = _Blocks(lowered, w, low, sum_w, sum_x, reciprocal(sum_w), most)
    extent = x.max(axis=1) - low
    inverse_extent = reciprocal(np.where(extent < TINY, ZERO, extent))
    zero = np.zeros_like(low)
    none = (zero, zero, zero)
    mean = half_scale(low + sum_x * blocks.inverse_w)
    best = _Fit(zero, mean, blocks.gain(none, zero, mean - low), none)
    for spread in SPREADS:
        inverse = (np.float32(most - 1) + spread) * inverse_extent
        for shift in SHIFTS:
            start = shift * extent
            best = _better(blocks, blocks.code_sums(inverse, ZERO - start * inverse), best)
    for _ in range(REFITS):
        best = _better(blocks, best.sums, best)
    codes = rounded((x - best.minimum[:, None]) * reciprocal(best.scale)[:, None] + ZERO, 0, most)
    return half_bytes(best.scale), half_bytes(best.minimum), codes.astype(np.uint8)
