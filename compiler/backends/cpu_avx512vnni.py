"""AVX-512 with VNNI: 16 lanes as one zmm register, four int8 products added in one instruction."""

from __future__ import annotations

from compiler.backends import Emulation, Instructions, derive
from compiler.backends.reference import BACKEND as REFERENCE
from compiler.kernels import panel_rows, panel_sources, shared_rows

BASE_FLAGS = ("-mavx2", "-mfma", "-mf16c", "-fno-tree-reassoc")
FEATURES = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni")
FLAGS = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni")

BACKEND = derive(
    REFERENCE,
    "cpu_avx512vnni",
    "AVX-512 with VNNI, for x86-64 server CPUs since Cascade Lake and Zen 4",
    Instructions(
        ("avx2", "fma", "f16c", *FEATURES),
        (*BASE_FLAGS, *FLAGS),
        # GCC warns that vectors of 64 bytes are passed otherwise than with AVX-512: all calls are our own.
        Emulation(FEATURES, FLAGS, ("-DEMULATED_AVX512", "-Wno-psabi"), ("simd/avx512_emulated.h",)),
    ),
    sources=(
        "simd/v16_avx512.h",
        "simd/tiles_avx512.h",
        "simd/math.c",
        "simd/quantize_row.c",
        "simd/rows.c",
        "simd/attention.c",
        "simd/panel_float.c",
        "simd/blocks_avx512.c",
        "simd/groups_avx512.c",
        *panel_sources("avx512"),
    ),
    replace=(*panel_rows("avx512"), *shared_rows("simd")),
)
