"""Each pass, before and after: fixtures/<pass>.txt, compared as text.

``pytest --update-golden`` writes what the passes give now; review the difference.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.graph import Graph, parse
from compiler.graph.ops import verify
from compiler.passes import Decisions, passes, run_passes
from compiler.passes.memory import arena_bytes, unshared_bytes, value_bytes

FIXTURES = Path(__file__).parent / "fixtures"
BLOCK = (FIXTURES / "decoder_block.txt").read_text()
#: q, k, gate and up in 4 bits, v in 6, a fallback for the rows of 384, the rest float.
DECISIONS = Decisions(
    {
        "token_embd.weight": "q6_k",
        "blk.0.attn_q.weight": "q4_k",
        "blk.0.attn_k.weight": "q4_k",
        "blk.0.attn_v.weight": "q6_k",
        "blk.0.attn_output.weight": "f16",
        "blk.0.ffn_gate.weight": "q4_k",
        "blk.0.ffn_up.weight": "q4_k",
        "blk.0.ffn_down.weight": "q5_0",
    },
    step_tokens=8,
    context=1024,
    slots=2,
    kv_cache="q8_0",
)
NAMES = [name for name, _ in passes()]


def up_to(name: str) -> tuple[Graph, Graph]:
    """The block before and after the pass of that name."""
    graph = verify(parse(BLOCK))
    for passed, function in passes():
        before, graph = graph, verify(function(graph, DECISIONS))
        if passed == name:
            return before, graph
    raise AssertionError(name)


@pytest.mark.parametrize("name", NAMES)
def test_pass_turns_the_block_into_its_fixture(name: str, request: pytest.FixtureRequest) -> None:
    _, after = up_to(name)
    fixture = FIXTURES / f"{name}.txt"
    if request.config.getoption("--update-golden"):
        fixture.write_text(after.to_text())
    assert after.to_text() == fixture.read_text()


@pytest.mark.parametrize("name", NAMES)
def test_a_pass_leaves_its_input_alone_and_is_a_function(name: str) -> None:
    before, after = up_to(name)
    text = before.to_text()
    again = verify(dict(passes())[name](before, DECISIONS))
    assert before.to_text() == text
    assert again == after


def test_values_that_live_at_once_do_not_share_bytes() -> None:
    """Recomputed from the placed text alone, by another rule than the pass's own."""
    graph = run_passes(verify(parse(BLOCK)), DECISIONS)
    made = graph.producer()
    spans: dict[str, tuple[int, int, int, int]] = {}
    for node in graph.nodes:
        if node.place is None or node.place < 0 or node.op == "slice":
            continue
        readers = [user for user in graph.nodes if _reads(made, user.inputs, node.output)]
        last = max([node.phase or 0, *(user.phase or 0 for user in readers)])
        size = value_bytes(node.type, DECISIONS, 1)
        if node.stride != node.type.columns:
            continue  # inside another value, by design
        spans[node.output] = (node.phase or 0, last, node.place, node.place + size)
    names = list(spans)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            fa, la, ba, ea = spans[a]
            fb, lb, bb, eb = spans[b]
            in_place = a in made[b].inputs and spans[a][2] == spans[b][2]
            meet = fa <= lb and fb <= la and ba < eb and bb < ea
            assert not meet or in_place, (a, b)


def _reads(made: dict, inputs: tuple[str, ...], name: str) -> bool:
    return any(i == name or (made[i].op == "slice" and _reads(made, made[i].inputs, name)) for i in inputs)


def test_the_arena_is_smaller_than_its_values() -> None:
    graph = verify(parse(BLOCK))
    placed = run_passes(graph, DECISIONS)
    assert 0 < arena_bytes(placed, DECISIONS) < unshared_bytes(graph, DECISIONS) / 2


def test_a_barrier_stands_between_a_projection_and_its_reader() -> None:
    graph = run_passes(verify(parse(BLOCK)), DECISIONS)
    made = graph.producer()
    for node in graph.nodes:
        for name in node.inputs:
            source = made[name]
            if source.op in ("linear", "linear_glu", "attention") and node.op != "slice":
                assert (node.phase or 0) > (source.phase or 0), str(node)
