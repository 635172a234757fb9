"""AVX2, FMA and F16C: 16 lanes as two ymm registers."""

from __future__ import annotations

from compiler.backends import COMMON_FLAGS, COMMON_SOURCES, Backend
from compiler.kernels import panel_row, shared_rows

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
        "reference/dequantize_row.c",
        "simd/v16_avx2.h",
        "simd/tiles_avx2.h",
        "simd/math.c",
        "simd/quantize_row.c",
        "simd/rows.c",
        "simd/attention.c",
        "simd/panel_float.c",
        "simd/blocks_avx2.c",
        "simd/q4_k_avx2.c",
        "simd/q6_k_avx2.c",
        "simd/q8_0_avx2.c",
        "simd/q5_0_avx2.c",
    ),
    kernels=(
        panel_row("f32", "simd/panel_f32.c.j2", (16, 6), 256),
        panel_row("f16", "simd/panel_f16.c.j2", (16, 6), 256),
        panel_row("bf16", "simd/panel_bf16.c.j2", (16, 6), 256),
        panel_row("q8_0", "simd/panel_q8_0.c.j2", (16, 4), 128),
        panel_row("q6_k", "simd/panel_q6_k.c.j2", (16, 4), 256),
        panel_row("q4_k", "simd/panel_q4_k.c.j2", (16, 4), 256),
        panel_row("q5_0", "simd/panel_q5_0.c.j2", (16, 4), 512),
        *shared_rows("simd", dequantize="reference"),
    ),
)
