"""AVX-512 with VNNI: 16 lanes as one zmm register, four int8 products added in one instruction."""

from __future__ import annotations

from compiler.backends import COMMON_FLAGS, COMMON_SOURCES, Backend
from compiler.kernels import panel_row, shared_rows

BACKEND = Backend(
    name="cpu_avx512vnni",
    summary="AVX-512 with VNNI, for x86-64 server CPUs since Cascade Lake and Zen 4",
    cpu_features=("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"),
    cflags=(
        *COMMON_FLAGS,
        "-mavx2",
        "-mfma",
        "-mf16c",
        "-mavx512f",
        "-mavx512bw",
        "-mavx512dq",
        "-mavx512vl",
        "-mavx512vnni",
        "-fno-tree-reassoc",
    ),
    ldflags=("-lm",),
    sources=(
        *COMMON_SOURCES,
        "reference/half.c",
        "reference/math.c",
        "reference/dequantize_row.c",
        "simd/v16_avx512.h",
        "simd/tiles_avx512.h",
        "simd/math.c",
        "simd/quantize_row.c",
        "simd/rows.c",
        "simd/attention.c",
        "simd/panel_float.c",
        "simd/blocks_avx512.c",
        "simd/q4_k_avx512.c",
        "simd/q6_k_avx512.c",
        "simd/q8_0_avx512.c",
        "simd/q5_0_avx512.c",
    ),
    kernels=(
        panel_row("f32", "simd/panel_f32.c.j2", (16, 8), 256),
        panel_row("f16", "simd/panel_f16.c.j2", (16, 8), 256),
        panel_row("bf16", "simd/panel_bf16.c.j2", (16, 8), 256),
        panel_row("q8_0", "simd/panel_q8_0.c.j2", (16, 8), 256),
        panel_row("q6_k", "simd/panel_q6_k.c.j2", (16, 8), 256),
        panel_row("q4_k", "simd/panel_q4_k.c.j2", (16, 8), 256),
        panel_row("q5_0", "simd/panel_q5_0.c.j2", (16, 8), 256),
        *shared_rows("simd", dequantize="reference"),
    ),
)
