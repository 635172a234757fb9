"""AVX2 with 256-bit VNNI: 16 lanes as two ymm registers, four int8 products added in one instruction."""

from __future__ import annotations

from compiler.backends import Emulation, Instructions, derive
from compiler.backends.cpu_avx2 import BACKEND as AVX2
from compiler.kernels import panel_rows, panel_sources

BACKEND = derive(
    AVX2,
    "cpu_avxvnni",
    "AVX2 with 256-bit VNNI, for x86-64 client CPUs since Alder Lake and small servers",
    Instructions(
        ("avx_vnni",),
        ("-mavxvnni",),
        Emulation(features=("avx_vnni",), without=("-mavxvnni",), flags=("-DEMULATED_VNNI",)),
    ),
    sources=("simd/vnni_256.c", *panel_sources("avxvnni")),
    replace=panel_rows("avxvnni"),
)
