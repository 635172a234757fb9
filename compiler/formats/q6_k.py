"""Q6_K: 256 weights in 210 bytes. ql[128], qh[64], int8 scales[16], fp16 d. w = (d * s) * (q - 32).

A half of 128 weights has 64 bytes of ql and 32 of qh. For l in 0…31, weights l, l+32, l+64 and
l+96 of the half take their low four bits from ql[l] low, ql[l+32] low, ql[l] high, ql[l+32] high
and their top two from bits 0–1, 2–3, 4–5, 6–7 of qh[l]. Scale j serves weights 16j … 16j+15.
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from compiler.formats.parts.panels import block_panel, chunks, in_pairs, paired_bytes, tile_panel, vnni_panel
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


def unpack_codes(blocks: Bytes) -> Bytes:
    """The codes q in 0…63, ``uint8 (n, 256)``."""
    n = len(blocks)
    ql = blocks[:, :128].reshape(n, 2, 2, 32)
    low = np.stack([ql & 15, ql >> 4], axis=2).reshape(n, 2, 4, 32)
    qh = blocks[:, 128:192].reshape(n, 2, 1, 32)
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8).reshape(1, 1, 4, 1)
    high = (qh >> shifts) & 3
    codes: Bytes = (low | (high << 4)).reshape(n, 256)
    return codes


def decode(blocks: Bytes) -> Floats:
    scales = blocks[:, 192:208].view(np.int8).astype(np.float32)
    d = blocks[:, 208:210].copy().view(np.float16).astype(np.float32)
    q = unpack_codes(blocks).astype(np.int8) - np.int8(32)
    products = (d * scales)[:, :, None] * q.reshape(-1, 16, 16).astype(np.float32)
    return products.reshape(-1, 256)


#: A scale is first asked for with the peak at this code.
PEAK_CODE = np.float32(-32)
#: The sub-block with the largest scale gets this one, which leaves room above.
TOP = np.float32(-108)
#: Integer scales that are tried, relative to the one asked for.
WINDOW = range(-3, 25)


def encode(x: Floats, importance: Floats | None) -> Bytes:
    """Scales by least squares, then by search over the integers with d fixed, then d by least squares.

    The steps are numbered in ``quantize_q6_k.c``.
    """
    n = len(x)
    weights = np.ones_like(x) if importance is None else importance
    xs, ws = x.reshape(n, 16, 16), weights.reshape(n, 16, 16)
    asked = _real_scales(xs, ws)
    top = np.take_along_axis(asked, np.argmax(np.abs(asked), axis=1)[:, None], axis=1)
    d = half_scale(top / TOP)
    scale, gain, xq, qq = _integer_scales(xs, ws, d, asked)
    up = tree_sum(_halves(scale * xq))
    down = tree_sum(_halves((scale * scale) * qq))
    nothing = down <= 0
    divisor: Floats = np.where(nothing, np.float32(1), down)
    refit = half_scale(up / divisor)[:, None]
    real = refit * scale
    sums = symmetric_sums(xs, ws, reciprocal(real), -32, 31)
    better = tree_sum(_halves(symmetric_gain(*sums, real))) > tree_sum(_halves(gain))
    d = np.where(nothing[:, None], ZERO, np.where(better[:, None], refit, d))
    codes = rounded(xs * reciprocal(d * scale)[:, :, None], -32, 31) + np.float32(32)
    ql, qh = pack_codes(codes.astype(np.uint8).reshape(n, 256))
    return np.concatenate([ql, qh, scale.astype(np.int8).view(np.uint8), half_bytes(d[:, 0])], axis=1)


def pack_codes(codes: Bytes) -> tuple[Bytes, Bytes]:
    """Codes 0…63, ``uint8 (n, 256)`` → ql ``(n, 128)`` and qh ``(n, 64)``; undoes ``unpack_codes``."""
    n = len(codes)
    quarters = codes.reshape(n, 2, 4, 32)
    nibbles = quarters & np.uint8(15)
    ql = nibbles[:, :, :2] | nibbles[:, :, 2:] << np.uint8(4)
    high = quarters >> np.uint8(4)
    qh = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    return np.asarray(ql, np.uint8).reshape(n, 128), np.asarray(qh, np.uint8).reshape(n, 64)


def _real_scales(xs: Floats, ws: Floats) -> Floats:
    xq, qq = symmetric_sums(xs, ws, reciprocal(peak(xs)) * PEAK_CODE, -32, 31)
    scale: Floats = xq * reciprocal(qq)
    return scale


def _integer_scales(
    xs: Floats, ws: Floats, d: Floats, asked: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    """Scales, their gains, and the two sums of their codes; each ``(n, 16)``."""
    centre = rounded(asked * reciprocal(d), -127, 127)
    scale = gain = xq = qq = np.zeros_like(centre)
    for step in WINDOW:
        tried = np.copysign(np.clip(np.abs(centre) + np.float32(step), ZERO, np.float32(127)), centre)
        real = d * tried
        sums = symmetric_sums(xs, ws, reciprocal(real), -32, 31)
        tried_gain = symmetric_gain(*sums, real)
        better = tried_gain > gain
        gain = np.where(better, tried_gain, gain)
        scale = np.where(better, tried, scale)
        xq = np.where(better, sums[0], xq)
        qq = np.where(better, sums[1], qq)
    return scale, gain, xq, qq


def _halves(v: Floats) -> Floats:
    """Sub-block j + sub-block j + 8, ``(n, 16) -> (n, 8)``."""
    result: Floats = v[:, :8] + v[:, 8:]
    return result


def pack(rows: Bytes) -> Bytes:
    blocks = rows.reshape(PANEL_ROWS, -1, 210)
    n = blocks.shape[1]
    ql = blocks[:, :, :128].reshape(PANEL_ROWS, n, 2, 2, 32)
    qh = blocks[:, :, 128:192].reshape(PANEL_ROWS, n, 2, 32)
    quarters = [(ql[:, :, :, i % 2] >> (4 if i >= 2 else 0) & 15) | (qh >> 2 * i & 3) << 4 for i in range(4)]
    codes = np.stack(quarters, axis=3).reshape(PANEL_ROWS, n, 256)
    chunk = chunks(codes).reshape(n, 16, 4, 64)
    low = np.stack([(chunk[:, :, i] & 15) | (chunk[:, :, i + 1] & 15) << 4 for i in (0, 2)], axis=2)
    top = chunk >> 4
    high = top[:, :, 0] | top[:, :, 1] << 2 | top[:, :, 2] << 4 | top[:, :, 3] << 6
    scales = blocks[:, :, 192:208].transpose(1, 2, 0).reshape(n, 4, -1)
    groups = np.concatenate([low, high[:, :, None]], axis=2).reshape(n, 4, -1)
    return in_pairs(blocks[:, :, 208:], np.concatenate([scales, groups], axis=2).reshape(n, -1))


FORMAT = Format(
    name="q6_k",
    block=256,
    block_bytes=210,
    decode=decode,
    encode=encode,
    limit=108 * 31 * 65504,
    floats=((208, "f16"),),
    pack=pack,
    panel_bytes=paired_bytes(256, 3328),
    panels=MappingProxyType(
        {
            "avx2": block_panel("q6_k", "avx2", tokens=4, k_block=256),
            "avxvnni": vnni_panel("q6_k", k_block=256),
            "avx512": block_panel("q6_k", "avx512", tokens=8, k_block=256),
            "amx": tile_panel("q6_k", group=256, k_block=256),
        }
    ),
    check_k=(256, 768, 2048),
    group=256,
    code_bits=6,
    fallback="q8_0",
)
