"""Packed panels in NumPy: the layouts of ``kernels_c/include/packed.h`` written a second time.

Slow and plain; tests hold the C packers against it, and it unpacks. The C
packers (``kernels_c/tools/pack.c``) are what the compiler uses.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from compiler.kernels import PANEL_ROWS, panel_bytes

Bytes = npt.NDArray[np.uint8]


def _pairs(d: Bytes, body: Bytes) -> Bytes:
    """Scales ``[16][blocks][2]`` and bodies ``[blocks][n]`` in pairs: two blocks' scales, then the blocks.

    Of a last pair with one block the other's scales are zero and its body is left out.
    """
    scales = d.transpose(1, 0, 2).reshape(len(body), -1)
    parts: list[Bytes] = []
    for b in range(0, len(body), 2):
        two = scales[b : b + 2].reshape(-1)
        parts += [two, np.zeros(-two.size % 64, np.uint8), body[b : b + 2].reshape(-1)]
    return np.concatenate(parts)


def _chunks(codes: Bytes) -> Bytes:
    """Codes ``[16][blocks][k]`` to chunks ``[blocks][k/4][64]``: byte row * 4 + k % 4."""
    rows, blocks, k = codes.shape
    return codes.reshape(rows, blocks, k // 4, 4).transpose(1, 2, 0, 3).reshape(blocks, k // 4, rows * 4)


def _pack_q4_k(rows: Bytes) -> Bytes:
    blocks = rows.reshape(PANEL_ROWS, -1, 144)
    s = blocks[:, :, 4:16]
    scale = np.concatenate([s[..., :4] & 63, (s[..., 8:] & 15) | (s[..., :4] >> 6 << 4)], axis=-1)
    minimum = np.concatenate([s[..., 4:8] & 63, (s[..., 8:] >> 4) | (s[..., 4:8] >> 6 << 4)], axis=-1)
    low = (scale & 15) | (minimum & 15) << 4
    high = (
        scale[..., :4] >> 4
        | scale[..., 4:] >> 4 << 2
        | minimum[..., :4] >> 4 << 4
        | minimum[..., 4:] >> 4 << 6
    )
    n = blocks.shape[1]
    parts = [
        blocks[:, :, 0:2].transpose(1, 0, 2).reshape(n, -1),
        blocks[:, :, 2:4].transpose(1, 0, 2).reshape(n, -1),
        low.transpose(1, 2, 0).reshape(n, -1),
        high.transpose(1, 2, 0).reshape(n, -1),
        _chunks(blocks[:, :, 16:]).reshape(n, -1),
    ]
    return np.concatenate(parts, axis=1).reshape(-1)


def _pack_q6_k(rows: Bytes) -> Bytes:
    blocks = rows.reshape(PANEL_ROWS, -1, 210)
    n = blocks.shape[1]
    ql = blocks[:, :, :128].reshape(PANEL_ROWS, n, 2, 2, 32)
    qh = blocks[:, :, 128:192].reshape(PANEL_ROWS, n, 2, 32)
    quarters = [
        (ql[:, :, :, i % 2] >> (4 if i >= 2 else 0) & 15) | (qh >> 2 * i & 3) << 4 for i in range(4)
    ]
    codes = np.stack(quarters, axis=3).reshape(PANEL_ROWS, n, 256)
    chunk = _chunks(codes).reshape(n, 16, 4, 64)
    low = np.stack([(chunk[:, :, i] & 15) | (chunk[:, :, i + 1] & 15) << 4 for i in (0, 2)], axis=2)
    top = chunk >> 4
    high = top[:, :, 0] | top[:, :, 1] << 2 | top[:, :, 2] << 4 | top[:, :, 3] << 6
    scales = blocks[:, :, 192:208].transpose(1, 2, 0).reshape(n, 4, -1)
    groups = np.concatenate([low, high[:, :, None]], axis=2).reshape(n, 4, -1)
    return _pairs(blocks[:, :, 208:], np.concatenate([scales, groups], axis=2).reshape(n, -1))


def _pack_q8_0(rows: Bytes) -> Bytes:
    blocks = rows.reshape(PANEL_ROWS, -1, 34)
    return _pairs(blocks[:, :, :2], _chunks(blocks[:, :, 2:]).reshape(blocks.shape[1], -1))


def _pack_q5_0(rows: Bytes) -> Bytes:
    blocks = rows.reshape(PANEL_ROWS, -1, 22)
    n = blocks.shape[1]
    bits = np.unpackbits(blocks[:, :, 2:6], axis=2, bitorder="little").reshape(PANEL_ROWS, n, 8, 4)
    weights = (1 << np.arange(8, dtype=np.uint8)).astype(np.uint8)
    high = (bits * weights[:, None]).sum(axis=2, dtype=np.uint8)
    body = [high.transpose(1, 0, 2).reshape(n, -1), _chunks(blocks[:, :, 6:]).reshape(n, -1)]
    return _pairs(blocks[:, :, :2], np.concatenate(body, axis=1))


def pack_panel(fmt: str, rows: Bytes, k: int) -> Bytes:
    """One panel of GGUF rows.

    ``rows``: uint8 ``[16][row_bytes]``, rows of ``k`` elements in GGUF's block layout; zero rows
    where the tensor ends. Returns uint8 ``[panel_bytes(fmt, k)]``.
    """
    if rows.shape[0] != PANEL_ROWS:
        raise ValueError(f"a panel has {PANEL_ROWS} rows, not {rows.shape[0]}")
    size = panel_bytes(fmt, k)
    if fmt in ("f32", "f16", "bf16"):
        flat = rows.reshape(PANEL_ROWS, k, -1).transpose(1, 0, 2).reshape(-1)
        panel = np.concatenate([flat, np.zeros(size - flat.size, np.uint8)])
    else:
        pack = {"q4_k": _pack_q4_k, "q6_k": _pack_q6_k, "q8_0": _pack_q8_0, "q5_0": _pack_q5_0}[fmt]
        panel = pack(rows)
    if panel.size != size:
        raise ValueError(f"{fmt}: {rows.shape[1]} bytes are not a row of {k} elements")
    return panel
