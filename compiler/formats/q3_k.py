"""Q3_K: 256 weights in 110 bytes. 32 bytes hmask, 64 bytes of low bits, 12 bytes of scales, fp16 d.

Sixteen sub-blocks of 16: w = (d * (s - 32)) * (q - 4). The low two bits of q are those of
``parts/two_bits``; its top bit, of weight 32 j + l, is bit j of hmask[l]. Of the scale bytes b, s has its low
four bits in the low (j < 8) or high nibble of b[j % 8], its top two in bits 2 (j / 4) of b[8 + j % 4].
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from compiler.formats.parts.panels import block_panel, chunks, in_pairs, paired_bytes
from compiler.formats.parts.record import PANEL_ROWS, Bytes, Floats, Format
from compiler.formats.parts.scales import (
    ZERO,
    half_bytes,
    half_scale,
    peak,
    reciprocal,
    rounded,
    symmetric_gain,
    symmetric_sums,
    tree_sum,
)
from compiler.formats.parts.two_bits import pack_two_bits, panel_two_bits, unpack_two_bits

#: Codes that the peak is tried at.
PEAKS = tuple(np.float32(-4.8) + np.float32(0.2) * np.float32(i) for i in range(9))
#: The sub-block with the largest scale gets this one, which leaves room above.
TOP = np.float32(-27)
#: Integer scales that are tried, relative to the one asked for.
WINDOW = range(-4, 7)

_BITS = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
_FOURS = np.array([0, 2, 4, 6], np.uint8).reshape(1, 4, 1)


def unpack_codes(blocks: Bytes) -> Bytes:
    """The codes q in 0…7, ``uint8 (n, 256)``."""
    high = (blocks[:, :32].reshape(-1, 1, 32) >> _BITS & 1).reshape(-1, 256)
    codes = unpack_two_bits(blocks[:, 32:96]) | high << 2
    return np.asarray(codes, np.uint8)


def unpack_scales(packed: Bytes) -> Bytes:
    """``uint8 (n, 12)`` → s in 0…63, ``uint8 (n, 16)``."""
    low = np.concatenate([packed[:, :8] & 15, packed[:, :8] >> 4], axis=1)
    high = (packed[:, 8:].reshape(-1, 1, 4) >> _FOURS & 3).reshape(-1, 16)
    scales: Bytes = low | high << 4
    return scales


def pack_scales(scales: Bytes) -> Bytes:
    """s in 0…63, ``uint8 (n, 16)`` → ``uint8 (n, 12)``; undoes ``unpack_scales``."""
    low = (scales[:, :8] & 15) | scales[:, 8:] << 4
    high = np.bitwise_or.reduce(scales.reshape(-1, 4, 4) >> 4 << _FOURS, axis=1)
    return np.concatenate([low, high], axis=1)


def decode(blocks: Bytes) -> Floats:
    n = len(blocks)
    d = blocks[:, 108:110].copy().view(np.float16).astype(np.float32)
    scales = unpack_scales(blocks[:, 96:108]).astype(np.float32) - np.float32(32)
    q = unpack_codes(blocks).reshape(n, 16, 16).astype(np.float32) - np.float32(4)
    weights: Floats = ((d * scales)[:, :, None] * q).reshape(n, 256)
    return weights


def encode(x: Floats, importance: Floats | None) -> Bytes:
    """Scales by least squares, then by search over the integers with d fixed, then d by least squares.

    The steps are numbered in ``quantize_q3_k.c``.
    """
    weights = np.ones_like(x) if importance is None else importance
    xs, ws = x.reshape(-1, 16, 16), weights.reshape(-1, 16, 16)
    asked = _real_scales(xs, ws)
    top = np.take_along_axis(asked, np.argmax(np.abs(asked), axis=1)[:, None], axis=1)
    d = half_scale(top / TOP)
    scale, gain, xq, qq = _integer_scales(xs, ws, d, asked)
    down = _total((scale * scale) * qq)
    nothing = down <= 0
    divisor: Floats = np.where(nothing, np.float32(1), down)
    refit = half_scale(_total(scale * xq) / divisor)[:, None]
    real = refit * scale
    again = symmetric_gain(*symmetric_sums(xs, ws, reciprocal(real), -4, 3), real)
    better = _total(again) > _total(gain)
    d = np.where(nothing[:, None], ZERO, np.where(better[:, None], refit, d))
    signed = rounded(xs * reciprocal(d * scale)[:, :, None], -4, 3)
    codes = (signed + np.float32(4)).astype(np.uint8).reshape(-1, 256)
    high = np.bitwise_or.reduce(codes.reshape(-1, 8, 32) >> 2 << _BITS, axis=1)
    scales = pack_scales((scale + np.float32(32)).astype(np.uint8))
    return np.concatenate([high, pack_two_bits(codes & np.uint8(3)), scales, half_bytes(d[:, 0])], axis=1)


def _real_scales(xs: Floats, ws: Floats) -> Floats:
    inverse = reciprocal(peak(xs))
    best = best_gain = np.zeros_like(inverse)
    for code in PEAKS:
        xq, qq = symmetric_sums(xs, ws, inverse * code, -4, 3)
        scale = xq * reciprocal(qq)
        gain = symmetric_gain(xq, qq, scale)
        better = gain > best_gain
        best_gain = np.where(better, gain, best_gain)
        best = np.where(better, scale, best)
    return best


def _integer_scales(
    xs: Floats, ws: Floats, d: Floats, asked: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    """Scales, their gains, and the two sums of their codes; each ``(n, 16)``."""
    centre = rounded(asked * reciprocal(d), -31, 31)
    scale = gain = xq = qq = np.zeros_like(centre)
    for step in WINDOW:
        tried = np.copysign(np.clip(np.abs(centre) + np.float32(step), ZERO, np.float32(31)), centre)
        real = d * tried
        sums = symmetric_sums(xs, ws, reciprocal(real), -4, 3)
        tried_gain = symmetric_gain(*sums, real)
        better = tried_gain > gain
        gain = np.where(better, tried_gain, gain)
        scale = np.where(better, tried, scale)
        xq = np.where(better, sums[0], xq)
        qq = np.where(better, sums[1], qq)
    return scale, gain, xq, qq


def _total(v: Floats) -> Floats:
    """Sum over the sub-blocks, those eight apart first, ``(n, 16) -> (n,)``."""
    return tree_sum(v[:, :8] + v[:, 8:])


def pack(rows: Bytes) -> Bytes:
    blocks = rows.reshape(PANEL_ROWS, -1, 110)
    n = blocks.shape[1]
    codes = chunks(unpack_codes(blocks.reshape(-1, 110)).reshape(PANEL_ROWS, n, 256))
    high = np.bitwise_or.reduce(codes.reshape(n, 8, 8, 64) >> 2 << _BITS[:, None], axis=2)
    scales = blocks[:, :, 96:108].transpose(1, 2, 0).reshape(n, -1)
    body = np.concatenate([scales, panel_two_bits(codes), high.reshape(n, -1)], axis=1)
    return in_pairs(blocks[:, :, 108:], body)


FORMAT = Format(
    name="q3_k",
    block=256,
    block_bytes=110,
    decode=decode,
    encode=encode,
    limit=27 * 3 * 65504,
    floats=((108, "f16"),),
    pack=pack,
    panel_bytes=paired_bytes(256, 1728),
    panels=MappingProxyType(
        {
            "avx2": block_panel("q3_k", "avx2", tokens=4, k_block=256),
            "avx512": block_panel("q3_k", "avx512", tokens=8, k_block=256),
        }
    ),
    check_k=(256, 768, 2048),
    group=256,
    code_bits=3,
    fallback="q4_k",
)
