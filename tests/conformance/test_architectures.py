"""Every family agrees with llama.cpp's logits, in floats, on every backend, and with itself bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compiler.decoder import build_decoder
from compiler.decoder.families import families
from compiler.graph.interpret import Interpreter, Step
from compiler.model.reader import open_rows, read_model
from tests.conformance.conftest import nmse, plan_of, run_logits, runnable_backends

MODELS = (
    "gemma-dense",
    "gemma2-dense",
    "gemma3-dense",
    "granite-dense",
    "llama-dense",
    "llama-moe",
    "mistral3-dense",
    "olmo2-dense",
    "phi3-dense",
    "qwen2-dense",
    "qwen2moe-moe",
    "qwen3-dense",
    "qwen3moe-moe",
    "smollm3-dense",
    "stablelm-dense",
    "starcoder2-dense",
)
#: llama.cpp's logits were computed with float weights and a float cache.
TOLERANCE = 1e-6


def reference(shared_data: Path, name: str) -> tuple[Path, np.ndarray, np.ndarray]:
    folder = shared_data / "architectures"
    stored = np.load(folder / f"{name}.logits.npz")
    return folder / f"{name}.gguf", stored["tokens"], stored["logits"]


@pytest.mark.parametrize("name", MODELS)
def test_interpreter_agrees(name: str, shared_data: Path) -> None:
    path, tokens, logits = reference(shared_data, name)
    model = read_model(path)
    with open_rows(model) as rows:
        weights = {n: rows.float32(t) for n, t in model.tensors.items()}
    decoder = build_decoder(model, weights.__getitem__, 256)
    run = Interpreter(decoder.graph, {**weights, **decoder.constants})
    count = len(tokens)
    step = Step(tokens, np.arange(count), np.zeros(count, int), np.ones(count, bool))
    assert nmse(run.run(step), logits) <= TOLERANCE


@pytest.mark.parametrize("backend", runnable_backends())
@pytest.mark.parametrize("name", MODELS)
def test_floats_agree(name: str, backend: str, shared_data: Path, compiled: Callable[..., Path]) -> None:
    path, tokens, logits = reference(shared_data, name)
    bundle = compiled(plan_of(path, "f32", backend))
    assert nmse(run_logits(bundle, tokens), logits) <= TOLERANCE


@pytest.mark.parametrize("quantization", ["f32", "q8_0", "q4_k_m"])
@pytest.mark.parametrize("name", MODELS)
def test_bits_do_not_depend_on_how_they_are_computed(
    name: str, quantization: str, shared_data: Path, compiled: Callable[..., Path]
) -> None:
    """Threads, chunks, company in the step, and the backend: one digest."""
    path, tokens, _ = reference(shared_data, name)
    names = [p.values[0] for p in runnable_backends() if not p.marks[0].args[0]]
    first = compiled(plan_of(path, quantization, names[-1]))
    digest = run_logits(first, tokens).tobytes()
    other = tokens[::-1].tolist()
    for settings in (
        {"threads": 2},
        {"chunk": 1},
        {"chunk": 7, "threads": 2},
        {"chunk": 20, "companion": other},
    ):
        assert run_logits(first, tokens, **settings).tobytes() == digest, settings
    for backend in names[:-1]:
        bundle = compiled(plan_of(path, quantization, backend))
        assert run_logits(bundle, tokens, threads=2, chunk=20).tobytes() == digest, backend


def test_every_described_family_has_a_model_here() -> None:
    """The seventeenth is tested beside its own fixture (test_seventeenth_family.py)."""
    covered = {name.rsplit("-", 1)[0] for name in MODELS}
    assert covered <= set(families())
