"""A layer that slides keeps its window of keys and values, not the context; what it gives stays the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compiler import lower_plan
from compiler.graph.states import PAGE
from runtime.bundle.reader import open_bundle
from runtime.engine.executable import Executable
from tests.conformance.conftest import nmse, plan_of, run_logits, runnable_backends
from tests.families.models import CASES, HEAD_DIM, KV_HEADS, tokens, write_case
from tests.families.test_words import interpreted

BASE = CASES["gemma3-window-base"]
#: Three layers with a window of 8, of which the third sees everything.
KEYS = {"context_length": 4096, "attention.sliding_window_pattern": 3}
CASE = replace(BASE, layers=3, metadata={**BASE.metadata, **KEYS})
CONTEXT, STEP, RING = 2048, 8, PAGE
#: Bytes that a position takes in a layer, in floats.
POSITION = KV_HEADS * 2 * HEAD_DIM * 4


def kv_bytes(path: Path, **execution: int | str) -> int:
    settings = {"context": CONTEXT, "slots": 1, "step_tokens": STEP, **execution}
    return lower_plan(plan_of(path, "f32", "reference", **settings))[1].memory["kv_bytes"]


def test_the_cache_of_a_sliding_layer_does_not_grow_with_the_context(tmp_path: Path) -> None:
    """It is the window and a step, in whole pages of positions, and one page as they may begin within one."""
    path = write_case(tmp_path / "m.gguf", CASE)
    assert kv_bytes(path) == POSITION * (CONTEXT + 2 * (RING + 256))
    assert kv_bytes(path, context=4096) == POSITION * (4096 + 2 * (RING + 256))
    assert kv_bytes(path, step_tokens=RING) == POSITION * (CONTEXT + 2 * (2 * RING + 256))
    assert kv_bytes(path, slots=3) == 3 * kv_bytes(path)
    assert kv_bytes(path, kv_cache="f16") == kv_bytes(path) // 2
    without = replace(CASE, metadata={**CASE.metadata, "attention.sliding_window": 0})
    assert kv_bytes(write_case(tmp_path / "n.gguf", without)) == POSITION * 3 * CONTEXT


@pytest.mark.parametrize("backend", runnable_backends())
def test_positions_far_past_the_window_and_the_end_of_the_ring(
    backend: str, tmp_path: Path, compiled: Callable[..., Path]
) -> None:
    """The ring wraps twice, in steps of any size and in company; the interpreter keeps every position."""
    path = write_case(tmp_path / "m.gguf", CASE)
    ids = tokens(CASE, 2 * RING + 40)
    bundle = compiled(plan_of(path, "f32", backend, context=CONTEXT, step_tokens=STEP))
    whole = run_logits(bundle, ids.tolist(), chunk=STEP)
    assert nmse(whole, interpreted(path, ids, CONTEXT)) <= 1e-9
    other = ids[::-1].tolist()
    for settings in ({"chunk": 1}, {"chunk": 3, "threads": 2}, {"chunk": 4, "companion": other}):
        assert run_logits(bundle, ids.tolist(), **settings).tobytes() == whole.tobytes(), settings


@pytest.mark.parametrize("backend", runnable_backends())
def test_a_slot_begun_anew_sees_nothing_of_what_its_ring_held(
    backend: str, tmp_path: Path, compiled: Callable[..., Path]
) -> None:
    path = write_case(tmp_path / "m.gguf", CASE)
    bundle = compiled(plan_of(path, "f32", backend, context=CONTEXT, step_tokens=STEP))
    first, second = tokens(CASE, RING + 60).tolist(), tokens(CASE, 90)[60:].tolist()
    with Executable.open(open_bundle(bundle), threads=1) as executable:

        def run(ids: list[int]) -> bytes:
            rows = []
            for at in range(0, len(ids), STEP):
                part = ids[at : at + STEP]
                n = len(part)
                rows.append(np.array(executable.forward([0] * n, range(at, at + n), part, [1] * n)))
            return np.concatenate(rows).tobytes()

        run(first)
        again = run(second)
    assert again == run_logits(bundle, second, chunk=STEP).tobytes()
