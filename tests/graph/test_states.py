"""What a layer remembers is a declaration: sizes, places and how far a sequence goes back follow from it."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from compiler.graph import Graph, parse
from compiler.graph.ops import InvalidGraph, verify
from compiler.graph.states import (
    PAGE,
    Part,
    State,
    fixed_bytes,
    kv_state,
    page_groups,
    parse_state,
    rewindable,
)
from compiler.passes import Decisions
from compiler.passes.states import states

BLOCK = (Path(__file__).parent / "fixtures" / "decoder_block.txt").read_text()
DECISIONS = Decisions({}, step_tokens=32, context=4096, slots=3, kv_cache="q8_0")
CONV = State("s.2.conv", "fixed", (Part("x", 3, 40),), rewind="snapshot")
SSM = State("s.2.ssm", "fixed", (Part("h", 8, 16), Part("d", 8, 1)), rewind="no")


def placed(*declared: State) -> dict[str, State]:
    graph = Graph((), {}, "%0", {state.name: state for state in declared})
    return dict(states(graph, DECISIONS).states)


@pytest.mark.parametrize("state", [kv_state(3, 4, 64, 48, 0), kv_state(3, 4, 64, 48, 512), CONV, SSM])
def test_a_state_is_read_back_from_its_line(state: State) -> None:
    assert parse_state(str(state)) == state
    (after,) = placed(state).values()
    assert parse_state(str(after)) == after != state


def test_keys_and_values_take_bytes_by_position_and_in_pages() -> None:
    (kv,) = placed(kv_state(0, 4, 64, 48, 0)).values()
    assert kv.token_bytes == 4 * (64 + 4) + 4 * (48 + 4)
    assert kv.page_bytes == PAGE * kv.token_bytes
    assert kv.cleared == "overwritten"
    parts = sum(kv.part_bytes(name) + kv.scale_bytes(name) for name in ("k", "v"))
    assert parts == kv.page_bytes


def test_a_page_is_a_block_of_attention() -> None:
    header = Path(__file__).resolve().parents[2] / "kernels_c" / "include" / "activations.h"
    assert f"#define ATTENTION_BLOCK {PAGE}\n" in header.read_text("utf-8")


def test_a_window_is_a_ring_that_a_step_fits_in() -> None:
    (ring,) = placed(kv_state(0, 1, 8, 8, 512)).values()
    assert ring.positions == 768  # 512 + 32, in whole pages
    assert ring.slack == 256
    (short,) = placed(kv_state(0, 1, 8, 8, 100_000)).values()
    assert short.positions == DECISIONS.context


def test_a_fixed_state_takes_the_same_bytes_at_every_position() -> None:
    after = placed(kv_state(0, 2, 8, 8, 0), CONV, SSM)
    assert (after["s.2.conv"].slot_stride, after["s.2.ssm"].slot_stride) == (512, 576)
    assert after["s.2.conv"].token_bytes == after["s.2.conv"].page_bytes == 0
    assert after["s.2.conv"].cleared == "zero"
    assert after["s.2.conv"].type == "f32"  # whatever the cache's element type is


def test_fixed_states_stand_one_after_the_other_with_all_their_slots() -> None:
    after = [s for s in placed(kv_state(0, 2, 8, 8, 0), CONV, SSM).values() if s.kind == "fixed"]
    assert after[0].offset == 0
    for before, state in pairwise(after):
        assert state.offset == (before.offset or 0) + 3 * before.slot_stride
    assert fixed_bytes({s.name: s for s in after}, 3) == (after[-1].offset or 0) + 3 * after[-1].slot_stride


def test_layers_that_look_back_equally_far_share_pages() -> None:
    far, near = [kv_state(i, 2, 8, 8, 0) for i in (0, 3)], [kv_state(i, 1, 8, 8, 512) for i in (1, 2)]
    after = placed(far[0], *near, far[1], CONV)
    everything, window = page_groups(after, DECISIONS.context)
    assert (everything.window, everything.held) == (0, 16)
    assert everything.page_bytes == 2 * after["s.0.kv"].page_bytes
    assert [after[f"s.{i}.kv"].offset for i in (0, 3)] == [0, after["s.0.kv"].page_bytes]
    assert (window.window, window.held) == (512, 4)  # 512 + 32 in 3 pages, which may begin within one
    assert [after[f"s.{i}.kv"].offset for i in (1, 2)] == [0, after["s.1.kv"].page_bytes]


def test_slots_share_as_many_pages_as_the_plan_says() -> None:
    (group,) = page_groups(placed(kv_state(0, 2, 8, 8, 0)), DECISIONS.context)
    assert DECISIONS.pages_of(group) == 3 * 16
    assert replace(DECISIONS, kv_pages=20).pages_of(group) == 20
    assert replace(DECISIONS, kv_pages=100).pages_of(group) == 3 * 16


@pytest.mark.parametrize(
    ("others", "positions"), [((), 4096), ((kv_state(1, 1, 8, 8, 512),), 256), ((CONV,), 0), ((SSM,), 0)]
)
def test_a_sequence_goes_back_as_far_as_every_state_can(others: tuple[State, ...], positions: int) -> None:
    assert rewindable(placed(kv_state(0, 2, 8, 8, 0), *others), 4096) == positions


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("state s.0.kv layer 0\n%9", "state s.1.kv layer 0\n%9", "s.1.kv is not declared"),
        ("window=0} state s.0.kv", "window=0}", "no state"),
        ("window=0}", "window=7}", "looks back 7 positions, its state 0"),
        ("k[2,64] v[2,64]", "k[4,64] v[2,64]", "of other heads"),
        (
            "state s.0.kv:",
            f"{kv_state(9, 1, 1, 1, 0)}\nstate s.0.kv:",
            "uses the state s.9",
        ),
    ],
)
def test_verify_names_a_wrong_state(before: str, after: str, complaint: str) -> None:
    assert before in BLOCK
    with pytest.raises(InvalidGraph, match=re.escape(complaint)):
        verify(parse(BLOCK.replace(before, after)))


def test_a_kind_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"s\.2\.conv: one of paged, fixed"):
        parse_state(str(replace(CONV, kind="floating")))
