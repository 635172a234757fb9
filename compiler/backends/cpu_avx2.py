"""AVX2, FMA and F16C: 16 lanes as two ymm registers."""

from __future__ import annotations

from compiler.backends import COMMON_FLAGS, COMMON_SOURCES, Backend
from compiler.kernels import DEQUANTIZERS, panel_rows, panel_sources, shared_rows

BACKEND = Backend(
    name="cpu_avx2",
    summary="AVX2 with FMA and F16C, for x86-64 CPUs since about 2013",
    cpu_features=("avx2", "fma", "f16c"),
    # GCC would turn chains of integer additions into trees, which spill.
    cflags=(*COMMON_FLAGS, "-mavx2", "-mfma", "-mf16c", "-fno-tree-reassoc"),
    ldflags=("-lm",),
    sources=(
        *COMMON_SOURCES,
        "reference/half.c",
        "reference/math.c",
        *DEQUANTIZERS,
        "simd/v16_avx2.h",
        "simd/tiles_avx2.h",
        "simd/math.c",
        "simd/quantize_row.c",
        "simd/rows.c",
        "simd/attention.c",
        "simd/panel_float.c",
        "simd/blocks_avx2.c",
        *panel_sources("avx2"),
    ),
    kernels=(*panel_rows("avx2"), *shared_rows("simd")),
)
