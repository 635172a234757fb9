"""Bundles share the machine by time, not by steps."""

from __future__ import annotations

from runtime.control.turns import Turns


def test_time_is_shared_evenly_whatever_a_step_takes() -> None:
    turns, spent = Turns(), {"quick": 0, "slow": 0}
    for name in spent:
        turns.add(name)
    cost = {"quick": 3, "slow": 50}
    for _ in range(2000):
        name = turns.order(spent)[0]
        turns.take(name, cost[name])
        spent[name] += cost[name]
    assert abs(spent["quick"] - spent["slow"]) <= max(cost.values())


def test_who_was_idle_neither_waits_nor_makes_up_for_it() -> None:
    turns = Turns()
    for name in ("a", "b"):
        turns.add(name)
    for _ in range(100):
        assert turns.order(["a"]) == ["a"]
        turns.take("a", 10)
    steps = []
    for _ in range(20):
        steps.append(turns.order(["a", "b"])[0])
        turns.take(steps[-1], 10)
    assert abs(steps.count("a") - steps.count("b")) <= 1
    assert "b" in steps[:2]
