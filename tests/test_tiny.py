"""From a plan to tokens, on the project's own small model: the test to read first.

YAML → plan → graph → C → shared object → bundle → sentences, and the promises that hold
along the way: the same bits on every backend, nothing compiled twice, a quantization
changed by one word.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler import compile_plan
from runtime.bundle.machine import Machine
from runtime.bundle.reader import open_bundle
from runtime.engine.loop import Completion, Engine, generate
from runtime.engine.request import Request, Wishes

ROOT = Path(__file__).resolve().parent.parent
PROMPT = "Once upon a time"


def write_plan(folder: Path, backend: str, quantization: str) -> Path:
    path = folder / f"{backend}-{quantization}.yaml"
    path.write_text(f"""\
version: 1
model: {ROOT / "plans/models/storyteller-f16.gguf"}
backend: {backend}
quantization: {quantization}
limits: {{max_tokens: 24}}
execution: {{context: 256, slots: 2, step_tokens: 32, threads: 2}}
""")
    return path


def tell(bundle: Path, threads: int | None = None) -> Completion:
    engine = Engine.open(bundle, threads)
    try:
        ids = engine.tokenizer.encode(PROMPT)
        return generate(engine, Request.of_plan(engine.plan, ids))
    finally:
        engine.close()


def test_a_plan_becomes_tokens(tmp_path: Path) -> None:
    plan = write_plan(tmp_path, "reference", "q8_0")
    bundle = compile_plan(plan)
    opened = open_bundle(bundle)
    assert opened.manifest.quantization == "q8_0"
    assert {tensor.type for tensor in opened.manifest.tensors} == {"q8_0", "f32"}
    assert opened.plan.limits.max_tokens == 24

    before = (bundle / "engine.so").stat()
    assert compile_plan(plan) == bundle
    assert (bundle / "engine.so").stat().st_ino == before.st_ino  # found, not built again

    story = tell(bundle)
    assert story.sequence.error is None
    assert len(story.sequence.token_ids) == 24
    words = story.sequence.text.split()
    assert len(words) > 8
    assert sum(word.strip(".,!?\"'").isalpha() for word in words) > len(words) * 0.8
    assert story.forward_ns < story.finished_ns - story.started_ns

    alone = tell(bundle, threads=1)
    assert alone.sequence.token_ids == story.sequence.token_ids
    assert alone.sequence.logits_digest == story.sequence.logits_digest


@pytest.mark.parametrize("quantization", ["q8_0", "q4_k_m"])
def test_backends_agree_to_the_bit(tmp_path: Path, quantization: str) -> None:
    if "avx2" not in Machine.probe().features:
        pytest.skip("this CPU has no AVX2")
    digests = {
        backend: tell(compile_plan(write_plan(tmp_path, backend, quantization))).sequence.logits_digest
        for backend in ("reference", "cpu_avx2")
    }
    assert digests["reference"] == digests["cpu_avx2"]


def test_compiling_twice_gives_the_same_bytes_in_any_folder(tmp_path: Path) -> None:
    plan = write_plan(tmp_path, "reference", "q4_k_m")
    first, second = (compile_plan(plan, out=tmp_path / name) for name in ("one", "deep/er"))
    assert open_bundle(first).digest == open_bundle(second).digest
    assert (first / "engine.so").read_bytes() == (second / "engine.so").read_bytes()


def test_graph_and_code_come_without_a_c_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/nonexistent/cc")
    folder = compile_plan(write_plan(tmp_path, "cpu_avx2", "q6_k"), out=tmp_path / "c", emit_only=True)
    assert (folder / "graph.txt").read_text().startswith("weight ")
    assert any((folder / "kernels").glob("*.c"))
    assert not (folder / "engine.so").exists()


@pytest.mark.parametrize("sampling", ["{}", "{temperature: 0.7, seed: 9, repetition_penalty: 1.1}"])
def test_drafts_and_reused_pages_change_no_bit(tmp_path: Path, sampling: str) -> None:
    """A second turn over the pages of the first, with drafts, is the second turn computed afresh."""
    if "avx2" not in Machine.probe().features:
        pytest.skip("this CPU has no AVX2")
    plan = write_plan(tmp_path, "cpu_avx2", "q4_k_m")
    text = plan.read_text().replace("context: 256", "context: 1024")
    plan.write_text(text + f"speculation: {{kind: lookup, tokens: 6}}\nsampling: {sampling}\n")
    engine = Engine.open(compile_plan(plan), 1)
    try:
        first = engine.tokenizer.encode("Once upon a time there was a little dog. " * 30)
        for turn in range(2):
            fresh = generate(engine, Request.of_plan(engine.plan, first, Wishes(cache_prompt=False)))
            again = generate(engine, Request.of_plan(engine.plan, first))
            assert again.sequence.token_ids == fresh.sequence.token_ids
            assert again.sequence.logits_digest == fresh.sequence.logits_digest
            assert (again.sequence.reused_tokens > 256) == (turn > 0)
            first = [*first, *again.sequence.token_ids, *engine.tokenizer.encode(" The dog said:")]
        assert engine.memory.check() == []
    finally:
        engine.close()
