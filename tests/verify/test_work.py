"""What a step moves and multiplies, by op: counted by hand here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compiler.formats import packed_bytes
from runtime.cli.target import bundle_of
from runtime.laboratory.work import OpWork, Step, attended, total, work_by_op


@pytest.mark.parametrize("window", [0, 1, 3, 5, 100])
@pytest.mark.parametrize(("depth", "tokens"), [(0, 1), (0, 7), (4, 1), (4, 6), (2, 3)])
def test_positions_attended_to(depth: int, tokens: int, window: int) -> None:
    seen = (position + 1 for position in range(depth, depth + tokens))
    by_hand = sum(min(n, window) if window else n for n in seen)
    assert attended(Step(tokens, depth), window) == by_hand


def test_work_of_a_tiny_llama(tiny_plan: Path) -> None:
    """Two layers of width 256, 4 heads over 2 of 64, ffn 512, q8_0, f16 cache, a tied vocabulary of 272."""
    manifest = bundle_of(str(tiny_plan), quiet=True).manifest
    found = work_by_op(manifest, [Step(5, 10, wanted=1)])
    ffn = 2 * 2 * packed_bytes("q8_0", 512, 256)
    assert found["linear_glu ffn_gate+ffn_up"] == OpWork(
        "linear_glu ffn_gate+ffn_up", ("q8_0",), ffn, {8: 5 * 2 * 2 * 512 * 256}
    )
    vocabulary = packed_bytes("q8_0", 272, 256)
    assert found["linear token_embd"] == OpWork("linear token_embd", ("q8_0",), vocabulary, {8: 272 * 256})
    assert found["embed"].bytes == 5 * vocabulary // 272
    assert found["attention"] == OpWork(
        "attention", ("f16",), 2 * 15 * 2 * 128 * 2, {0: 2 * 4 * 128 * (11 + 12 + 13 + 14 + 15)}
    )


def test_one_decoded_token_costs_what_the_manifest_says_of_decode(tiny_plan: Path) -> None:
    manifest = bundle_of(str(tiny_plan), quiet=True).manifest
    cost = manifest.details["cost"]
    for depth in (0, 9):
        work = total(work_by_op(manifest, [Step(1, depth)]))
        assert work is not None
        assert work.bytes == cost["weight_bytes"] + (depth + 1) * cost["kv_bytes_per_token"]
        assert 2 * work.macs_by_bits[8] == cost["flops_per_token"]


def test_experts_are_read_once_however_many_tokens_use_them() -> None:
    entry = {"op": "x", "type": "q8_0", "rows": "token", "bytes": 20, "most_bytes": 80}
    made: Any = SimpleNamespace(details={"cost": {"ops": [entry]}})
    assert [work_by_op(made, [Step(n, 0)])["x"].bytes for n in (1, 3, 4, 9)] == [20, 60, 80, 80]
    assert total(work_by_op(SimpleNamespace(details={}), [Step(1, 0)])) is None  # type: ignore[arg-type]
