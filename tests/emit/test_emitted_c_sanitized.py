"""The emitted C runs clean under AddressSanitizer and UBSan, and gives the same bits as without them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from compiler import compile_plan
from runtime.bundle.reader import open_bundle
from tests.conformance.conftest import runnable_backends
from tests.tiny_models import write_llama, write_moe

HARNESS = Path(__file__).parent / "run_steps.c"
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")


def build_and_run(bundle: Path, folder: Path, flags: tuple[str, ...], threads: int) -> str:
    program = folder / ("sanitized" if flags else "plain")
    manifest = open_bundle(bundle).manifest
    kept = ("-m", "-ffp", "-fno-math", "-fno-strict")
    isa = [flag for flag in manifest.compiler.flags if flag.startswith(kept)]
    command = ["gcc", "-std=gnu11", "-O1", "-g", *isa, *flags, f"-I{bundle / 'kernels'}", str(HARNESS)]
    command += ["-pthread", "-o", str(program), "-lm"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    weights = str(bundle / "weights.bin")
    done = subprocess.run([str(program), weights, str(threads)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.skipif(shutil.which("gcc") is None, reason="the sanitizers are gcc's")
@pytest.mark.parametrize("backend", runnable_backends())
@pytest.mark.parametrize(("kind", "quantization"), [("llama", "q4_k_m"), ("moe", "q8_0")])
def test_sanitizers_find_nothing(kind: str, quantization: str, backend: str, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    # Rows of 384 take the fallback formats.
    write_llama(model, ffn=384) if kind == "llama" else write_moe(model)
    plan = {"name": "sanitized", "model": str(model), "backend": backend, "quantization": quantization}
    settings = {"context": 256, "step_tokens": 16, "slots": 2, "threads": 1}
    bundle = compile_plan({**plan, "execution": settings}, out=tmp_path / "bundle")
    plain = build_and_run(bundle, tmp_path, (), 1)
    assert build_and_run(bundle, tmp_path, SANITIZE, 2) == plain
