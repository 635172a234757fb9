"""The 12 bytes of eight scales and minima of six bits, as Q4_K and Q5_K hold them.

Of the bytes b, for j < 4: sc = b[j] & 63, m = b[j+4] & 63; for j ≥ 4:
sc = (b[j+4] & 15) | (b[j-4] >> 6) << 4, m = (b[j+4] >> 4) | (b[j] >> 6) << 4.
"""

from __future__ import annotations

import numpy as np

from compiler.formats.parts.record import Bytes


def unpack_scales(packed: Bytes) -> tuple[Bytes, Bytes]:
    """``uint8 (n, 12)`` → sc and m, each ``uint8 (n, 8)``."""
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    sc = np.concatenate([first & 63, (third & 15) | (first >> 6) << 4], axis=1)
    m = np.concatenate([second & 63, (third >> 4) | (second >> 6) << 4], axis=1)
    return sc, m


def pack_scales(sc: Bytes, m: Bytes) -> Bytes:
    """sc and m, each ``uint8 (n, 8)`` → ``uint8 (n, 12)``; undoes ``unpack_scales``."""
    first = sc[:, :4] | (sc[:, 4:] >> 4) << 6
    second = m[:, :4] | (m[:, 4:] >> 4) << 6
    third = (sc[:, 4:] & 15) | (m[:, 4:] & 15) << 4
    return np.concatenate([first, second, third], axis=1)


def panel_scales(packed: Bytes) -> Bytes:
    """``uint8 (16, n, 12)`` of 16 rows → ``(n, 192)``: ``low`` and ``high`` of ``packed_q4_k.h``."""
    rows, n, _ = packed.shape
    sc, m = (v.reshape(rows, n, 8) for v in unpack_scales(packed.reshape(-1, 12)))
    low = (sc & 15) | (m & 15) << 4
    high = sc[..., :4] >> 4 | sc[..., 4:] >> 4 << 2 | m[..., :4] >> 4 << 4 | m[..., 4:] >> 4 << 6
    parts = [low.transpose(1, 2, 0).reshape(n, -1), high.transpose(1, 2, 0).reshape(n, -1)]
    return np.concatenate(parts, axis=1)
