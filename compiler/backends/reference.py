"""Plain scalar C: slow, obvious, the definition."""

from __future__ import annotations

from compiler.backends import COMMON_FLAGS, COMMON_SOURCES, Backend
from compiler.kernels import ACTIVATION_GROUP, FORMATS, panel_row, shared_rows

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
        "reference/dequantize_row.c",
        "reference/rows.c",
        "reference/attention.c",
    ),
    kernels=(
        *(
            panel_row(fmt, f"reference/panel_{fmt}.c.j2", (1, 1), ACTIVATION_GROUP[fmt] or 256)
            for fmt in FORMATS
        ),
        *shared_rows("reference"),
    ),
)
