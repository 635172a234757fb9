"""Plain scalar C: slow, obvious, the definition."""

from __future__ import annotations

from compiler.backends import COMMON_FLAGS, COMMON_SOURCES, Backend
from compiler.kernels import DEQUANTIZERS, reference_panels, shared_rows

BACKEND = Backend(
    name="reference",
    summary="portable scalar C, the definition of every kernel",
    cpu_features=(),
    cflags=COMMON_FLAGS,
    ldflags=("-lm",),
    sources=(
        *COMMON_SOURCES,
        "reference/half.c",
        "reference/math.c",
        "reference/quantize_row.c",
        *DEQUANTIZERS,
        "reference/rows.c",
        "reference/attention.c",
    ),
    kernels=(*reference_panels(), *shared_rows("reference")),
)
