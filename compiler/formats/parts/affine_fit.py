"""The search for scales and minima of superblocks with integer ones (Q5_K, Q4_K, Q2_K); the steps are
numbered in ``kernels_c/tools/affine.h``.

With codes q, scale S and minimum M the weighted squared error of a sub-block is Σ w x x − gain,
gain = S (2 Σwqx − S Σwqq) − M (2 Σwx − 2 S Σwq + M Σw), so a choice is judged by a few sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compiler.formats.parts.record import Floats
from compiler.formats.parts.scales import (
    TINY,
    ZERO,
    ascending_sum,
    half_scale,
    reciprocal,
    rounded,
    tree_sum,
)

#: Times that integers are sought, d and dmin found anew in between.
ROUNDS = 2


@dataclass(frozen=True)
class Grid:
    """What a format's codes and integer scales may be, and what the search tries.

    ``top``      the largest code.
    ``most``     the largest integer scale or minimum.
    ``spreads``  steps over the range of a sub-block that are tried.
    ``shifts``   how far up its lower end is moved, in parts of the range.
    """

    top: int
    most: int
    spreads: tuple[np.float32, ...]
    shifts: tuple[np.float32, ...]


def steps(first: float, step: float, count: int) -> tuple[np.float32, ...]:
    """``count`` values from ``first`` on, in float32."""
    return tuple(np.float32(first) + np.float32(step) * np.float32(i) for i in range(count))


@dataclass(frozen=True)
class SubBlocks:
    """Weights ``x`` and their importance ``w``, ``(n, subs, sub)``; sums no code changes, ``(n, subs)``."""

    grid: Grid
    x: Floats
    w: Floats
    sum_w: Floats
    sum_x: Floats
    inverse_w: Floats

    @classmethod
    def of(cls, x: Floats, w: Floats, grid: Grid) -> SubBlocks:
        sum_w = ascending_sum(w)
        return cls(grid, x, w, sum_w, ascending_sum(w * x), reciprocal(sum_w))

    def code_sums(self, inverse: Floats, offset: Floats) -> tuple[Floats, Floats, Floats]:
        """Σwq, Σwqq, Σwqx of the codes of ``x * inverse + offset``."""
        q = rounded(self.x * inverse[..., None] + offset[..., None], 0, self.grid.top)
        wq = self.w * q
        return ascending_sum(wq), ascending_sum(wq * q), ascending_sum(wq * self.x)

    def gain(self, sums: tuple[Floats, Floats, Floats], scale: Floats, minimum: Floats) -> Floats:
        q, qq, xq = sums
        linear = scale * ((xq + xq) - scale * qq)
        result: Floats = linear - minimum * (
            ((self.sum_x + self.sum_x) - (scale + scale) * q) + minimum * self.sum_w
        )
        return result


@dataclass(frozen=True)
class Fit:
    """d and dmin ``(n, 1)``; integers sc and m, gains, and the codes' sums ``(n, subs)``."""

    d: Floats
    dmin: Floats
    sc: Floats
    m: Floats
    gain: Floats
    sums: tuple[Floats, Floats, Floats]

    def total(self) -> Floats:
        return _total(self.gain)[:, None]


def fit(x: Floats, w: Floats, grid: Grid) -> Fit:
    """The scales and minima of blocks ``(n, subs, sub)``, 8 or 16 sub-blocks each."""
    blocks = SubBlocks.of(x, w, grid)
    most = np.float32(grid.most)
    scale, minimum = _real_fit(blocks)
    d = half_scale(scale.max(axis=1, keepdims=True) / most)
    dmin = half_scale(minimum.max(axis=1, keepdims=True) / most)
    best = last = _integer_fit(blocks, d, dmin, scale, minimum)
    going = np.ones_like(d, dtype=bool)
    for _ in range(1, ROUNDS):
        decided, d, dmin = _refit(blocks, last)
        going = going & decided
        last = _integer_fit(blocks, d, dmin, last.d * last.sc, last.dmin * last.m)
        better = going & (last.total() > best.total())
        best = Fit(
            np.where(better, last.d, best.d),
            np.where(better, last.dmin, best.dmin),
            np.where(better, last.sc, best.sc),
            np.where(better, last.m, best.m),
            np.where(better, last.gain, best.gain),
            best.sums,
        )
    return best


def _real_fit(blocks: SubBlocks) -> tuple[Floats, Floats]:
    low = np.minimum(blocks.x.min(axis=-1), ZERO)
    extent = blocks.x.max(axis=-1) - low
    inverse_extent = reciprocal(np.where(extent < TINY, ZERO, extent))
    scale = minimum = best_gain = np.zeros_like(low)
    for spread in blocks.grid.spreads:
        inverse = spread * inverse_extent
        for shift in blocks.grid.shifts:
            start = low + shift * extent
            sums = blocks.code_sums(inverse, ZERO - start * inverse)
            q, qq, xq = sums
            inverse_det = reciprocal(blocks.sum_w * qq - q * q)
            fit_scale = (blocks.sum_w * xq - blocks.sum_x * q) * inverse_det
            fit_minimum = (fit_scale * q - blocks.sum_x) * blocks.inverse_w
            negative = fit_minimum < 0
            fit_scale = np.where(negative, xq * reciprocal(qq), fit_scale)
            fit_minimum = np.where(negative, ZERO, fit_minimum)
            gain = blocks.gain(sums, fit_scale, fit_minimum)
            better = (gain > best_gain) & (fit_scale > 0)
            best_gain = np.where(better, gain, best_gain)
            scale = np.where(better, fit_scale, scale)
            minimum = np.where(better, fit_minimum, minimum)
    return scale, minimum


def _integer_fit(blocks: SubBlocks, d: Floats, dmin: Floats, scale: Floats, minimum: Floats) -> Fit:
    top = blocks.grid.most
    most = np.float32(top)
    inverse_dmin = reciprocal(dmin)
    sc0 = rounded(scale * reciprocal(d), 0, top)
    m0 = rounded(minimum * inverse_dmin, 0, top)
    zero = np.zeros_like(sc0)
    sc_best = m_best = gain_best = zero
    sums_best = (zero, zero, zero)
    for a in (-1, 0, 1):
        sc = np.clip(sc0 + np.float32(a), ZERO, most)
        real = d * sc
        inverse = reciprocal(real)
        for b in (-1, 0, 1):
            m = np.clip(m0 + np.float32(b), ZERO, most)
            sums = blocks.code_sums(inverse, (dmin * m) * inverse)
            m = rounded(((real * sums[0] - blocks.sum_x) * blocks.inverse_w) * inverse_dmin, 0, top)
            gain = blocks.gain(sums, real, dmin * m)
            better = gain > gain_best
            gain_best = np.where(better, gain, gain_best)
            sc_best = np.where(better, sc, sc_best)
            m_best = np.where(better, m, m_best)
            sums_best = (
                np.where(better, sums[0], sums_best[0]),
                np.where(better, sums[1], sums_best[1]),
                np.where(better, sums[2], sums_best[2]),
            )
    return Fit(d, dmin, sc_best, m_best, gain_best, sums_best)


def _refit(blocks: SubBlocks, fit: Fit) -> tuple[np.ndarray, Floats, Floats]:
    """d and dmin by least squares with sc, m and codes kept; first, where the sums decide anything."""
    q, qq, xq = fit.sums
    cc, cm = _total((fit.sc * fit.sc) * qq), _total((fit.sc * fit.m) * q)
    mm = _total((fit.m * fit.m) * blocks.sum_w)
    xc, xm = _total(fit.sc * xq), _total(fit.m * blocks.sum_x)
    det = cc * mm - cm * cm
    both, some = det > 0, cc > 0
    divisor = np.where(both, det, np.float32(1))
    d = np.where(both, (xc * mm - xm * cm) / divisor, xc / np.where(some, cc, np.float32(1)))
    dmin = np.where(both, (xc * cm - xm * cc) / divisor, ZERO)
    d, dmin = half_scale(d), half_scale(np.maximum(dmin, ZERO))
    return (some & (d > 0))[:, None], d[:, None], dmin[:, None]


def _total(v: Floats) -> Floats:
    """Sum over the sub-blocks: of 16, those eight apart first."""
    return tree_sum(v if v.shape[-1] == 8 else v[..., :8] + v[..., 8:])
