"""AVX-512 with VNNI: 16 lanes as one zmm register, four int8 products added in one instruction."""

from __future__ import annotations

from compiler.backends import COMMON_FLAGS, COMMON_SOURCES, Backend
from compiler.kernels import DEQUANTIZERS, panel_rows, panel_sources, shared_rows

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
        *DEQUANTIZERS,
        "simd/v16_avx512.h",
        "simd/tiles_avx512.h",
        "simd/math.c",
        "simd/quantize_row.c",
        "simd/rows.c",
        "simd/attention.c",
        "simd/panel_float.c",
        "simd/blocks_avx512.c",
        *panel_sources("avx512"),
    ),
    kernels=(*panel_rows("avx512"), *shared_rows("simd")),
)
