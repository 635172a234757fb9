"""AVX2 with 256-bit VNNI: 16 lanes as two ymm registers, four int8 products added in one instruction."""

from __future__ import annotations

from compiler.backends import COMMON_FLAGS, COMMON_SOURCES, Backend, Emulation
from compiler.kernels import DEQUANTIZERS, panel_rows, panel_sources, shared_rows

BACKEND = Backend(
    name="cpu_avxvnni",
    summary="AVX2 with 256-bit VNNI, for x86-64 client CPUs since Alder Lake and small servers",
    cpu_features=("avx2", "fma", "f16c", "avx_vnni"),
    cflags=(*COMMON_FLAGS, "-mavx2", "-mfma", "-mf16c", "-mavxvnni", "-fno-tree-reassoc"),
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
        "simd/vnni_256.c",
        *panel_sources("avxvnni"),
    ),
    kernels=(*panel_rows("avxvnni", "avx2"), *shared_rows("simd")),
    emulation=Emulation(features=("avx_vnni",), without=("-mavxvnni",), flags=("-DEMULATED_VNNI",)),
)
