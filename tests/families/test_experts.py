"""Decoding a token touches the weights of the experts it is routed to, and no others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from compiler import lower_plan
from compiler.decoder import build_decoder
from compiler.graph.interpret import OPERATIONS, Interpreter, Step
from compiler.model.reader import open_rows, read_model
from tests.conformance.conftest import plan_of, run_logits, runnable_backends
from tests.tiny_models import write_moe

IDS = [17, 101]


def routed(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """The experts that each layer chooses for the tokens of IDS, by the interpreter."""
    chosen: list[set[int]] = []
    route = OPERATIONS["route"]

    def remember(*arguments: object) -> object:
        routing = route(*arguments)  # type: ignore[arg-type]
        chosen.append({int(expert) for expert in routing.ids.reshape(-1)})  # type: ignore[attr-defined]
        return routing

    monkeypatch.setitem(OPERATIONS, "route", remember)
    model = read_model(path)
    with open_rows(model) as rows:
        weights = {name: rows.float32(tensor) for name, tensor in model.tensors.items()}
    decoder = build_decoder(model, weights.__getitem__, 64)
    count = len(IDS)
    step = Step(np.array(IDS), np.arange(count), np.zeros(count, int), np.ones(count, bool))
    Interpreter(decoder.graph, {**weights, **decoder.constants}).run(step)
    return chosen


def poison(path: Path, keep: list[set[int]]) -> int:
    """Writes weights that overflow when multiplied into every expert that a layer does not keep."""
    poisoned = 0
    for tensor in gguf.GGUFReader(path, "r+").tensors:
        if "_exps" in tensor.name:
            layer = int(tensor.name.split(".")[1])
            for expert in set(range(len(tensor.data))) - keep[layer]:
                tensor.data[expert] = 3e38
                poisoned += 1
    return poisoned


@pytest.mark.parametrize("backend", runnable_backends())
@pytest.mark.parametrize("chunk", [1, 2])
def test_other_experts_are_not_touched(
    chunk: int, backend: str, tmp_path: Path, compiled: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_moe(tmp_path / "moe.gguf", experts=8)
    settings = {"context": 64, "step_tokens": 8}
    clean = run_logits(compiled(plan_of(path, "f32", backend, **settings)), IDS, chunk=chunk)
    keep = routed(path, monkeypatch)
    assert [2 <= len(chosen) <= 4 for chosen in keep] == [True, True]
    assert poison(path, keep) >= 2 * 3 * 4
    again = run_logits(compiled({**plan_of(path, "f32", backend, **settings), "name": "p"}), IDS, chunk=chunk)
    assert np.isfinite(again).all()
    assert again.tobytes() == clean.tobytes()
    # And the poison works: with one of the chosen experts poisoned, nothing finite is left.
    poison(path, [{next(iter(chosen))} for chosen in keep])
    bad = compiled({**plan_of(path, "f32", backend, **settings), "name": "q"})
    with pytest.raises(Exception, match=r"finite|NaN|infinit"):
        run_logits(bad, IDS, chunk=chunk)


def test_the_cost_of_a_token_counts_the_experts_it_uses(tmp_path: Path) -> None:
    def cost(experts: int, used: int) -> tuple[int, int]:
        path = write_moe(tmp_path / f"{experts}-{used}.gguf", experts=experts, used=used)
        lowered = lower_plan(plan_of(path, "q8_0", "reference", context=64))[1]
        return lowered.cost.weight_bytes, lowered.memory["weights_bytes"]

    few, many, more = cost(4, 2), cost(16, 2), cost(16, 4)
    router = 2 * 12 * 256 * 4  # two layers, twelve more rows of floats
    assert abs(many[0] - few[0] - router) <= 2 * 16 * 256 * 4
    assert many[1] > 3 * few[1]
    assert more[0] > 1.5 * few[0]
