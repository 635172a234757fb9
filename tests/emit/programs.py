"""The emitted C of tiny models as programs of their own, for the sanitizers."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from compiler import lower_plan
from compiler.model.reader import read_model
from compiler.quantize.weights import write_weights
from tests.tiny_models import write_llama, write_moe

HERE = Path(__file__).parent
INCLUDE = HERE.parents[1] / "kernels_c" / "include"
#: A dense model whose rows of 384 take the fallback formats, and one with experts.
MODELS = [("llama", "q4_k_m"), ("moe", "q8_0")]


def write_emitted(folder: Path, kind: str, quantization: str, backend: str) -> tuple[Path, list[str]]:
    """Writes C and weights into ``folder``; returns the weights and the flags that decide results."""
    model = folder / "model.gguf"
    write_llama(model, ffn=384) if kind == "llama" else write_moe(model)
    plan = {"name": "sanitized", "model": str(model), "backend": backend, "quantization": quantization}
    settings = {"context": 256, "step_tokens": 16, "slots": 2, "threads": 1}
    _, lowered = lower_plan({**plan, "execution": settings})
    for name, text in lowered.emitted.sources.items():
        (folder / name).write_text(text)
    write_weights(read_model(model), lowered.tensors, folder / "weights.bin")
    kept = ("-m", "-ffp", "-fno-math", "-fno-strict")
    return folder / "weights.bin", [flag for flag in lowered.backend.cflags if flag.startswith(kept)]


def build(harness: str, sources: Path, program: Path, flags: Sequence[str]) -> Path:
    """Compiles the C file ``harness`` of this folder, with what it includes from ``sources``, by gcc."""
    command = ["gcc", "-std=gnu11", "-D_GNU_SOURCE", "-O1", "-g", *flags, f"-I{sources}", f"-I{INCLUDE}"]
    command += [str(HERE / harness), "-pthread", "-o", str(program), "-lm"]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-4000:]
    return program
