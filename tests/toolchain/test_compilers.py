"""gcc, clang and zig: each compiles every backend, and the bits are the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler import lower_plan
from compiler.backends import available, get
from compiler.build import build_shared_object
from compiler.build.toolchain import ONLY_OF, Toolchain, _try, installed
from tests.command import Engine
from tests.tiny_models import write_llama

NAMES = ("gcc", "clang", "zig")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compilers") / "tiny.gguf"
    write_llama(path, ffn=384)  # rows of 384 take the fallback formats
    return path


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", sorted(available()))
def test_every_compiler_compiles_every_backend(name: str, backend: str, model: Path, tmp_path: Path) -> None:
    """Compiled, not run: the CPU need not have the instructions."""
    if name not in installed():
        pytest.skip(f"no {name} on this machine")
    chain = _try(installed()[name])
    assert isinstance(chain, Toolchain)
    plan = {"name": "tiny", "model": str(model), "backend": backend, "quantization": "q4_k_m"}
    _, lowered = lower_plan({**plan, "execution": {"context": 64, "step_tokens": 16, "slots": 2}})
    emitted = lowered.emitted
    flags = (*get(backend).cflags, "-O1")  # what is accepted, not how fast it is
    record = build_shared_object(emitted.sources, flags, tmp_path / "engine.so", chain, emitted.units)
    assert (tmp_path / "engine.so").read_bytes()[:4] == b"\x7fELF"
    assert not [flag for flag in record.flags if chain.name not in ONLY_OF.get(flag, (chain.name,))]


def test_one_digest_over_compilers(engine: Engine, model: Path, tmp_path: Path) -> None:
    plan = tmp_path / "tiny.yaml"
    plan.write_text(
        f"version: 1\nmodel: {model}\nbackend: cpu_avx2\nquantization: q4_k_m\n"
        "execution: {context: 64, step_tokens: 16, slots: 2}\n"
    )
    options = ("--backends", "cpu_avx2", "--threads", "1", "--chunks", "7", "--tokens", "20", "--json")
    ran = engine("verify", plan, "--compilers", "all", *options)
    assert ran.code == 0
    assert {cell["backend"] for cell in ran.json["cells"]} == {f"cpu_avx2 {name}" for name in installed()}
    assert len({cell["digest"] for cell in ran.json["cells"]}) == 1


def test_a_compiler_that_is_not_here_is_named(engine: Engine) -> None:
    ran = engine("verify", "storyteller-q4", "--compilers", "msvc", "--json")
    assert ran.code == 2
    assert "msvc" in ran.error["message"]
    assert ran.error["allowed"].startswith("all, ")
