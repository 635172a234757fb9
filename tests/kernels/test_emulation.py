"""Instruction sets that this CPU lacks: their kernels are proven over emulated instructions, and the real
ones are in the code that is built for CPUs that have them."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from compiler import backends
from compiler.formats import FORMATS
from compiler.workbench import program as kernel_build
from runtime.bundle.reader import open_bundle
from tests.command import Engine
from tests.tiny_models import write_llama

#: Backends with an emulation, and the instructions that only they use.
INSTRUCTIONS = {
    "cpu_avxvnni": (r"\{vex\} vpdpbusd ymm", r"\{vex\} vpdpwssd ymm"),
    "cpu_avx512vnni": (r"vpdpbusd zmm", r"vpdpwssd zmm"),
    "cpu_amx": (r"tileloadd tmm\d,", r"tdpbsud tmm\d,tmm\d,tmm\d", r"tdpbssd tmm\d,", r"tilestored \["),
}
#: Those whose emulation takes minutes to compile are proven when asked (``-m slow``).
PROVEN = ["cpu_avxvnni", "cpu_amx", pytest.param("cpu_avx512vnni", marks=pytest.mark.slow)]
QUANTIZED = [name for name, format in FORMATS.items() if format.quantized]
#: Rows to check, two a format: compiling the unrolled emulation is what takes the time.
SHORT = {256: (256, 768), 32: (96, 896), 0: (2, 96)}


def emulated(name: str) -> backends.Backend:
    backend = backends.get(name).emulated()
    if missing := backend.missing_features(backends.cpu_features()):
        pytest.skip(f"this CPU lacks {', '.join(missing)}, which the emulation needs")
    return backend


def without_attention(source: str) -> str:
    """A kernel table whose attention, which no emulated instruction touches, is not compiled."""
    return "\n".join(line for line in source.splitlines() if not line.lstrip().startswith(".attention"))


def write_plan(folder: Path, backend: str) -> Path:
    write_llama(folder / "tiny.gguf", width=256, layers=2)
    plan = folder / f"{backend}.yaml"
    plan.write_text(
        f"version: 1\nname: {backend}\nmodel: tiny.gguf\nbackend: {backend}\nquantization: q4_k_m\n"
        "execution: {threads: 2, context: 256, slots: 2, step_tokens: 64}\n"
    )
    return plan


def test_every_backend_with_an_emulation_is_covered() -> None:
    assert set(INSTRUCTIONS) == {n for n in backends.available() if backends.get(n).emulation}


@pytest.mark.parametrize("name", PROVEN)
def test_emulated_kernels_equal_their_reference_and_are_clean(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = emulated(name)
    short = {name: replace(format, check_k=SHORT[format.group]) for name, format in FORMATS.items()}
    monkeypatch.setattr(kernel_build, "FORMATS", short)
    whole = kernel_build.exposed_source
    monkeypatch.setattr(kernel_build, "exposed_source", lambda b: without_attention(whole(b)))
    flags = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    program = kernel_build.build_program([backends.get("reference"), backend], tmp_path, extra=flags)
    command = [program, "check", "reference", backend.name, "1000", "20261", *QUANTIZED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert [json.loads(line)["op"] for line in done.stdout.splitlines()] == QUANTIZED


@pytest.mark.parametrize("name", PROVEN)
def test_a_model_has_the_same_logits_on_emulated_instructions(
    name: str, tmp_path: Path, engine: Engine
) -> None:
    """And the bundle says what it was made for."""
    backend = emulated(name)
    plan = write_plan(tmp_path, backend.name)
    chosen = f"--backends=reference,{backend.name}"
    work = ("--tokens=40", "--reference-tokens=40", "--chunks=7,33", "--threads=2")
    result = engine("verify", plan, chosen, *work, "--json")
    assert result.code == 0, result.out + result.err
    assert {cell["backend"] for cell in result.json["cells"]} == {"reference", backend.name}
    manifest = open_bundle(Path(engine("compile", plan).out.split()[-1])).manifest
    assert (manifest.backend, manifest.cpu_features) == (backend.name, backend.cpu_features)


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_the_instructions_are_in_the_code(name: str, tmp_path: Path, engine: Engine) -> None:
    plan = write_plan(tmp_path, name)
    assert engine("compile", plan).code == 0
    listing = engine("inspect", plan, "asm", "panel_q").out
    for instruction in INSTRUCTIONS[name]:
        assert re.search(instruction, listing), instruction


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_emulation_is_asked_for(name: str, engine: Engine) -> None:
    """Nothing is emulated unasked: a backend whose features the CPU lacks is refused by name."""
    if not backends.get(name).missing_features(backends.cpu_features()):
        pytest.skip("this CPU lacks none")
    refused = engine("kernels", "check", "--backend", name, "--cases", "1", "--json")
    assert (refused.code, refused.error["code"]) == (7, "unsupported_cpu")
    assert f"{name}_emulated" in refused.error["hint"]
    assert set(emulated(name).cpu_features) < set(backends.get(name).cpu_features)


def test_a_backend_without_emulation_says_so(engine: Engine) -> None:
    result = engine("kernels", "check", "--backend", "cpu_avx2", "--emulate", "--json")
    assert result.error["code"] == "no_emulation"
    assert "cpu_avxvnni" in result.error["allowed"]
    assert engine("kernels", "check", "--backend", "cpu_avx2_emulated", "--json").code == 3
