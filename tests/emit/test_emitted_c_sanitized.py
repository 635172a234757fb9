"""The emitted C runs clean under AddressSanitizer and UBSan, and gives the same bits as without them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conformance.conftest import runnable_backends
from tests.emit.programs import MODELS, build, write_emitted

SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")


def run(program: Path, weights: Path, threads: int) -> str:
    command = [str(program), str(weights), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.skipif(shutil.which("gcc") is None, reason="the sanitizers are gcc's")
@pytest.mark.parametrize("backend", runnable_backends())
@pytest.mark.parametrize(("kind", "quantization"), MODELS)
def test_sanitizers_find_nothing(kind: str, quantization: str, backend: str, tmp_path: Path) -> None:
    weights, isa = write_emitted(tmp_path, kind, quantization, backend)
    plain = build("run_steps.c", tmp_path, tmp_path / "plain", isa)
    sanitized = build("run_steps.c", tmp_path, tmp_path / "sanitized", [*isa, *SANITIZE])
    assert run(sanitized, weights, 2) == run(plain, weights, 1)
