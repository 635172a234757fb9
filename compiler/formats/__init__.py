"""Stored formats: how a row of weights becomes bytes, and what multiplies with them. One module a format.

Each module of this folder ends in a ``FORMAT``, the record of :class:`Format`; there is no list of them.
All else that a format takes part in (packed layouts, kernel tables, costs, checks, the plan's schema, the
documentation) follows from its record and from the C files that bear its name.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType

from compiler.formats.parts.record import PANEL_ROWS, Format

__all__ = ["FORMATS", "PANEL_ROWS", "Format", "activation_bytes", "packed_bytes", "panel_bytes"]


def _found() -> Mapping[str, Format]:
    names = [module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg]
    records = [import_module(f"{__name__}.{name}").FORMAT for name in names]
    records.sort(key=lambda format: (-format.bits_per_weight(), format.limit, format.name))
    return MappingProxyType({record.name: record for record in records})


#: The types that kernels exist for, by lower-case GGML name, widest first (of one width, those of the
#: smaller range first).
FORMATS: Mapping[str, Format] = _found()

#: int16 sums a token and group of activations (``ACTIVATION_SUMS_*`` of ``include/activations.h``).
ACTIVATION_SUMS: Mapping[int, int] = MappingProxyType({32: 4, 256: 72})


def panel_bytes(format: str, k: int) -> int:
    """Bytes of one panel of 16 rows of ``k`` elements of ``format``."""
    record = FORMATS[format]
    if k <= 0 or not record.fits(k):
        raise ValueError(f"{format}: rows of {k} elements are not a multiple of {record.block}")
    return record.panel_bytes(k)


def packed_bytes(format: str, rows: int, k: int) -> int:
    """Bytes of a packed tensor of ``rows`` x ``k``: whole panels, the last one padded with zero rows."""
    return (rows + PANEL_ROWS - 1) // PANEL_ROWS * panel_bytes(format, k)


def activation_bytes(group: int, k: int, n_tokens: int) -> tuple[int, int, int]:
    """Bytes of (codes, scales, sums) of ``n_tokens`` rows of ``k`` activations quantized by ``group``."""
    blocks = k // group * n_tokens
    return blocks * group, blocks * 4, blocks * ACTIVATION_SUMS[group] * 2
