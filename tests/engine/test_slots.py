"""Slots have one owner: nothing is held twice, nothing is lost, whoever takes and gives in whatever order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.engine.memory import SlotMemory
from runtime.errors import EngineError


@given(st.integers(1, 6), st.lists(st.integers(-1, 5), max_size=40))
def test_every_slot_is_free_or_held_by_one(slots: int, moves: list[int]) -> None:
    """A move takes a slot (-1) or gives one back; a plain set says what must then be so."""
    memory, held = SlotMemory(slots), set[int]()
    for move in moves:
        if move >= 0:
            if move in held:
                memory.give(move)
                held.remove(move)
            else:
                with pytest.raises(ValueError, match="not taken"):
                    memory.give(move)
        elif len(held) < slots:
            taken = memory.take()
            assert taken == min(set(range(slots)) - held)
            held.add(taken)
        else:
            with pytest.raises(EngineError, match=f"all {slots} slots"):
                memory.take()
        assert memory.held == held
        assert memory.free == slots - len(held)


def test_there_is_at_least_one_slot() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        SlotMemory(0)
