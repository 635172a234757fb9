"""A backend is another with kernels replaced: what it does not bring is its base's."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from compiler import backends, lower_plan
from compiler.backends import Hooks, Instructions, derive
from compiler.formats import FORMATS
from compiler.kernels import panel_rows
from compiler.workbench.program import build_program
from tests.tiny_models import write_llama

REFERENCE, AVX2 = backends.get("reference"), backends.get("cpu_avx2")
ONLY = "q6_k"
#: What else AVX2 replaces.
OTHERS = ("simd/quantize_row.c", "simd/rows.c", "simd/attention.c")
#: AVX2 for one format; a hook that any thread may call at any time.
DERIVED = derive(
    REFERENCE,
    "one_format",
    "for tests",
    Instructions(AVX2.cpu_features, AVX2.cflags),
    sources=tuple(s for s in AVX2.sources if s.startswith("simd/") and s not in OTHERS),
    replace=tuple(row for row in panel_rows("avx2") if row.format == ONLY),
    hooks=Hooks(enter="pool_pause", leave="pool_pause"),
)


def test_a_format_without_a_kernel_keeps_the_bases() -> None:
    for name in FORMATS:
        expected = AVX2 if name == ONLY else REFERENCE
        assert DERIVED.kernel("panel", name) == expected.kernel("panel", name)
    assert DERIVED.formats == REFERENCE.formats


def test_files_that_hold_nothing_but_replaced_kernels_are_left_away() -> None:
    assert "reference/attention.c" in REFERENCE.sources
    assert "reference/attention.c" not in AVX2.sources
    assert "reference/math.c" in AVX2.sources
    assert len(set(AVX2.sources)) == len(AVX2.sources)


def test_needs_add_up_and_hooks_are_inherited() -> None:
    again = derive(DERIVED, "again", "for tests", Instructions(("x",), ("-Dx",)), sources=(), replace=())
    assert again.cpu_features == (*DERIVED.cpu_features, "x")
    assert again.cflags == (*DERIVED.cflags, "-Dx")
    assert again.hooks == DERIVED.hooks
    assert again.kernels == DERIVED.kernels


def test_a_mix_of_kernels_computes_what_the_definition_does(tmp_path: Path) -> None:
    if AVX2.missing_features(backends.cpu_features()):
        pytest.skip("this CPU lacks AVX2")
    program = build_program([REFERENCE, DERIVED], tmp_path, extra=("-O0",))
    done = subprocess.run(
        [program, "check", "reference", DERIVED.name, "40", "1", *FORMATS], capture_output=True
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert {r["op"]: r["failures"] for r in results} == dict.fromkeys(FORMATS, 0)


def test_every_thread_enters_before_its_share_of_a_step_and_leaves_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooked = replace(REFERENCE, hooks=Hooks("tiles_on", "tiles_off"))
    monkeypatch.setattr(backends, "get", lambda name: hooked)
    plan = {"name": "hooked", "model": str(write_llama(tmp_path / "m.gguf")), "backend": "reference"}
    text = lower_plan({**plan, "quantization": "f32"})[1].emitted.sources["forward.c"]
    body = text.split("static void forward(void *arg, int32_t thread)\n{\n")[1]
    lines = [line.strip() for line in body.splitlines() if line.strip()]
    assert lines[1] == "tiles_on();"
    assert lines[-2:] == ["tiles_off();", "}"]
