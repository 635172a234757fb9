"""AVX2, FMA and F16C: 16 lanes as two ymm registers."""

from __future__ import annotations

from compiler.backends import Instructions, derive
from compiler.backends.reference import BACKEND as REFERENCE
from compiler.kernels import panel_rows, panel_sources, shared_rows

BACKEND = derive(
    REFERENCE,
    "cpu_avx2",
    "AVX2 with FMA and F16C, for x86-64 CPUs since about 2013",
    Instructions(("avx2", "fma", "f16c"), ("-mavx2", "-mfma", "-mf16c", "-fno-tree-reassoc")),
    sources=(
        "simd/v16_avx2.h",
        "simd/tiles_avx2.h",
        "simd/math.c",
        "simd/quantize_row.c",
        "simd/rows.c",
        "simd/attention.c",
        "simd/panel_float.c",
        "simd/blocks_avx2.c",
        "simd/groups_avx2.c",
        "simd/wide_avx2.c",
        *panel_sources("avx2"),
    ),
    replace=(*panel_rows("avx2"), *shared_rows("simd")),
)
