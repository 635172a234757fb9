"""Kernels equal their scalar definitions bit for bit, and the check finds one that does not."""

from __future__ import annotations

import json
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from compiler import backends
from compiler.build.toolchain import installed
from compiler.formats import FORMATS
from compiler.workbench.check import CHECKS
from compiler.workbench.program import KERNELS, build_program

CASES, SEED = 10_000, 20_261
REFERENCE = backends.get("reference")


def simd_backends() -> list[object]:
    cpu = backends.cpu_features()
    found = []
    for name in backends.available():
        missing = backends.get(name).missing_features(cpu)
        reason = f"this CPU lacks {', '.join(missing)}, which {name} needs"
        if name != "reference":
            found.append(pytest.param(name, marks=pytest.mark.skipif(bool(missing), reason=reason)))
    return found


def run(program: Path, backend: str, cases: int, *ops: str) -> dict[str, dict[str, int]]:
    command = [str(program), "check", "reference", backend, str(cases), str(SEED), *ops]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode in (0, 1), done.stderr[-3000:]
    results = [json.loads(line) for line in done.stdout.splitlines()]
    return {result["op"]: result for result in results}


@pytest.mark.parametrize("name", simd_backends())
def test_every_kernel_equals_its_reference(name: str, tmp_path: Path) -> None:
    """At least 10,000 cases a format, guard bytes around every buffer; the seed is in the assertion."""
    program = build_program([REFERENCE, backends.get(name)], tmp_path)
    results = run(program, name, CASES)
    assert set(results) == set(CHECKS)
    assert {op: r["failures"] for op, r in results.items()} == dict.fromkeys(CHECKS, 0), f"seed {SEED}"
    assert all(results[format]["cases"] >= CASES for format in FORMATS)


@pytest.mark.parametrize("name", simd_backends())
def test_kernels_are_clean_under_sanitizers(name: str, tmp_path: Path) -> None:
    flags = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    program = build_program([REFERENCE, backends.get(name)], tmp_path, extra=flags)
    assert all(r["failures"] == 0 for r in run(program, name, 300).values())


def test_another_compiler_makes_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "clang" not in installed():
        pytest.skip("no clang on this machine")
    monkeypatch.setenv("CC", shlex.join(installed()["clang"]))
    program = build_program([REFERENCE, backends.get("cpu_avx2")], tmp_path, extra=("-O1",))
    assert all(r["failures"] == 0 for r in run(program, "cpu_avx2", 100).values())


def test_a_wrong_kernel_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference with one float step reordered is caught by the same check."""
    from compiler.workbench import program as kernel_build

    wrong = replace(REFERENCE, name="wrong")
    honest = kernel_build.render_panel

    def spoiled(backend: backends.Backend, fmt: str, k: int) -> str:
        text = honest(backend, fmt, k)
        if backend.name != "wrong" or fmt != "q4_k":
            return text
        assert "fma_f32(a->scales[at], term, sum)" in text
        return text.replace("fma_f32(a->scales[at], term, sum)", "a->scales[at] * term + sum")

    monkeypatch.setattr(kernel_build, "render_panel", spoiled)
    results = run(build_program([REFERENCE, wrong], tmp_path), "wrong", 300, "q4_k", "q6_k")
    assert results["q4_k"]["failures"] > 0
    assert results["q6_k"]["failures"] == 0


def test_sources_named_by_the_registry_exist() -> None:
    for name in backends.available():
        for row in backends.get(name).kernels:
            assert (KERNELS / row.template).is_file(), row
            assert (KERNELS / row.reference).is_file(), row
