"""``sampling.c`` compiled alone, with its inner functions made visible, and called over NumPy arrays."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cffi import FFI

KERNELS = Path(__file__).resolve().parent.parent.parent / "kernels_c"

VISIBLE = """
#include "sampling.c"
float visible_exp(float x) { return sampling_exp(x); }
double visible_log(double x) { return sampling_log(x); }
void visible_philox(uint32_t c[4], uint32_t k0, uint32_t k1) { sampling_philox(c, k0, k1); }
uint64_t visible_scale(uint64_t u, uint64_t n) { return sampling_scale(u, n); }
"""
VISIBLE_CDEF = """
float visible_exp(float x);
double visible_log(double x);
void visible_philox(uint32_t c[4], uint32_t k0, uint32_t k1);
uint64_t visible_scale(uint64_t u, uint64_t n);
"""


@dataclass(frozen=True)
class Chain:
    """The parameters of ``engine_sampling``, each at its neutral value."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    seed: int = 0


@dataclass
class Library:
    """The C functions over NumPy arrays; a result is (status, token, logprob)."""

    ffi: FFI
    c: Any
    scratch: dict[int, np.ndarray] = field(default_factory=dict)

    def floats(self, a: np.ndarray, kind: str = "float *") -> Any:
        return self.ffi.cast(kind, a.ctypes.data)

    def bits(self, ids: frozenset[int] | None, n: int) -> Any:
        """A set of ids as the C takes it."""
        if ids is None:
            return self.ffi.NULL
        words = [0] * ((n + 31) // 32)
        for i in ids:
            words[i // 32] |= 1 << i % 32
        return self.ffi.new("uint32_t[]", words)

    def sample(
        self,
        logits: np.ndarray,
        chain: Chain,
        position: int = 0,
        history: tuple[int, ...] = (),
        bias: dict[int, float] | None = None,
        n_vocab: int | None = None,
        allowed: frozenset[int] | None = None,
        breakers: frozenset[int] | None = None,
    ) -> tuple[int, int, float]:
        logits = np.ascontiguousarray(logits, np.float32)
        n = len(logits) if n_vocab is None else n_vocab
        scratch = self.scratch.setdefault(len(logits), np.full(4 * len(logits), np.nan, np.float32))
        params = self.ffi.new("engine_sampling *", dict(vars(chain)))
        out = self.ffi.new("engine_choice *")
        bias = bias or {}
        sets = [self.bits(ids, len(logits)) for ids in (allowed, breakers)]
        status = self.c.engine_sample(
            self.floats(logits, "const float *"), n, params,
            self.ffi.new("int32_t[]", list(history)), len(history),
            self.ffi.new("int32_t[]", list(bias)), self.ffi.new("float[]", list(bias.values())), len(bias),
            *sets, position, self.floats(scratch), out,
        )  # fmt: skip
        return status, out.token, out.logprob

    def top(self, logits: np.ndarray, n: int) -> tuple[int, np.ndarray, np.ndarray]:
        logits = np.ascontiguousarray(logits, np.float32)
        tokens, logprobs = np.zeros(max(n, 1), np.int32), np.zeros(max(n, 1), np.float32)
        status = self.c.engine_top_logprobs(
            self.floats(logits, "const float *"), len(logits), n,
            self.floats(tokens, "int32_t *"), self.floats(logprobs),
        )  # fmt: skip
        return status, tokens[: max(n, 0)], logprobs[: max(n, 0)]


def compile_sampling(folder: Path, *flags: str) -> Library:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler on this machine")
    source, shared = folder / "visible.c", folder / "visible.so"
    source.write_text(VISIBLE)
    always = ("-std=gnu11", "-shared", "-fPIC", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror")
    include = (f"-I{KERNELS / 'include'}", f"-I{KERNELS}")
    subprocess.run([compiler, *always, *flags, *include, str(source), "-o", str(shared)], check=True)
    header = (KERNELS / "include" / "engine_abi.h").read_text()
    ffi = FFI()
    ffi.cdef(header.split("/* cdef-begin */")[1].split("/* cdef-end */")[0])
    ffi.cdef(VISIBLE_CDEF)
    return Library(ffi, ffi.dlopen(str(shared)))
