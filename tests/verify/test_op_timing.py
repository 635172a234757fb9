"""``observability.op_timing``: where a step's time goes, at no bit's cost; what the graph says of each op."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from compiler import lower_plan
from compiler.emit.cost import OpCost
from compiler.formats import packed_bytes
from runtime.cli import main
from runtime.cli.run import run_request
from runtime.cli.variants import Variants
from runtime.engine.executable import Executable
from runtime.engine.loop import Engine
from runtime.engine.request import Request
from runtime.engine.tokenizer import Tokenizer
from tests.tiny_models import write_llama


def run(plan: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    with pytest.raises(SystemExit) as ended:
        main(["run", str(plan), "--prompt", "time", "--max-tokens", "12", "--json", "--ignore-eos"])
    assert ended.value.code in (None, 0)
    body: dict[str, object] = json.loads(capsys.readouterr().out)
    return body


def test_a_timed_run_has_the_same_bits_and_its_times_by_kind_of_op(
    tiny_plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    timed = tiny_plan.with_name("timed.yaml")
    timed.write_text(tiny_plan.read_text() + "\nobservability: {op_timing: true}\n")
    plain, body = run(tiny_plan, capsys), run(timed, capsys)
    assert body["token_ids"] == plain["token_ids"]
    assert body["diagnostics"]["logits_digest"] == plain["diagnostics"]["logits_digest"]  # type: ignore[index]
    assert "op_time_ms" not in plain["metrics"]  # type: ignore[operator]
    times = body["metrics"]["op_time_ms"]  # type: ignore[index]
    assert {"embed", "linear", "linear_glu", "attention", "rms_norm", "barrier"} <= set(times)
    assert min(times.values()) >= 0
    assert times["linear"] > 0
    assert sum(times.values()) < body["metrics"]["latency_total_ms"]  # type: ignore[index]


def test_times_of_ops_add_up_to_the_time_of_the_forward(tiny_plan: Path) -> None:
    bundle = Variants(str(tiny_plan), quiet=True).bundle(observability={"op_timing": True})
    with Executable.open(bundle, 1) as executable:
        for position in range(0, 96, 32):
            executable.forward([0] * 32, range(position, position + 32), [3] * 32, [False] * 31 + [True])
        detailed, kinds, total = executable.detailed_op_times(), executable.op_times(), executable.forward_ns
    assert sum(detailed.values()) == sum(kinds.values())
    assert 0.8 * total < sum(kinds.values()) <= total
    assert kinds["barrier"] > 0
    parts = [ns for name, ns in detailed.items() if name.startswith("linear ")]
    assert len(parts) == 4
    assert sum(parts) == kinds["linear"]
    assert set(detailed) >= {op["op"] for op in bundle.manifest.details["cost"]["ops"]}


def test_a_conversation_has_the_times_of_each_answer_alone(tiny_plan: Path) -> None:
    bundle = Variants(str(tiny_plan), quiet=True).bundle(observability={"op_timing": True})
    engine = Engine(Executable.open(bundle, 1), Tokenizer.from_bundle(bundle))
    request = replace(Request.of_plan(bundle.plan, [1, 2, 3]), ignore_eos=True)
    try:
        for _ in range(3):
            metrics = run_request(engine, bundle.plan, request, stream=False, quiet=True).metrics
            assert metrics.op_time_ms is not None
            assert 0 < sum(metrics.op_time_ms.values()) < metrics.latency_total_ms
    finally:
        engine.close()


def costs(tmp_path: Path, quantization: str, **execution: object) -> tuple[OpCost, ...]:
    path = tmp_path / "tiny.gguf"
    if not path.exists():
        write_llama(path)
    settings = {"context": 256, "step_tokens": 32, "slots": 2, "threads": 1, **execution}
    plan = {"name": "costs", "model": str(path), "backend": "cpu_avx2", "quantization": quantization}
    return lower_plan({**plan, "execution": settings})[1].cost.ops


def test_costs_of_a_llama_by_op(tmp_path: Path) -> None:
    """Two layers of width 256, 4 heads over 2 of 64, ffn 512, a tied vocabulary of 272."""
    found = {op.op: op for op in costs(tmp_path, "q8_0")}
    assert list(found) == [
        "embed",
        "linear attn_q+attn_k+attn_v",
        "attention",
        "linear attn_output",
        "linear_glu ffn_gate+ffn_up",
        "linear ffn_down",
        "linear token_embd",
    ]
    qkv = 2 * (packed_bytes("q8_0", 256, 256) + 2 * packed_bytes("q8_0", 128, 256))
    assert found["linear attn_q+attn_k+attn_v"] == OpCost(
        "linear attn_q+attn_k+attn_v", "q8_0", "token", 2 * 512 * 256, qkv, qkv, 8
    )
    assert found["attention"] == OpCost("attention", "f16", "position", 2 * 4 * 128, 2 * 2 * 128 * 2)
    vocabulary = packed_bytes("q8_0", 272, 256)
    assert found["linear token_embd"] == OpCost(
        "linear token_embd", "q8_0", "wanted", 272 * 256, vocabulary, vocabulary, 8
    )
    assert (found["embed"].macs, found["embed"].most_bytes) == (0, vocabulary)


def test_an_op_of_two_formats_has_an_entry_for_each(tmp_path: Path) -> None:
    found = [op.type for op in costs(tmp_path, "q4_k_m") if op.op == "linear attn_q+attn_k+attn_v"]
    assert sorted(found, key=str) == ["q4_k", "q6_k"]
