"""AMX-INT8: tiles of 16 tokens by 16 rows for prompts and batches, AVX-512 with VNNI for all else."""

from __future__ import annotations

from compiler.backends import Emulation, Hooks, Instructions, SelfTest, derive
from compiler.backends.cpu_avx512vnni import BACKEND as AVX512
from compiler.backends.cpu_avx512vnni import FEATURES, FLAGS
from compiler.kernels import panel_rows, panel_sources

TILES = ("amx_tile", "amx_int8")

BACKEND = derive(
    AVX512,
    "cpu_amx",
    "AVX-512 with VNNI, and AMX-INT8 from 16 tokens on, for x86-64 server CPUs since Sapphire Rapids",
    Instructions(
        TILES,
        (),  # the five instructions are written as assembly, which needs no flag
        Emulation(
            features=(*TILES, *FEATURES),
            without=FLAGS,
            flags=("-DEMULATED_AMX", "-DEMULATED_AVX512", "-Wno-psabi"),
            sources=("simd/avx512_emulated.h",),
        ),
        SelfTest("tile_unusable", "tiles.c", ("simd/tile_ops.c",)),
    ),
    sources=("simd/tile_ops.c", "simd/blocks_amx.c", *panel_sources("amx")),
    replace=panel_rows("amx"),
    hooks=Hooks(leave="tile_rest"),
)
