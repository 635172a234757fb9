"""What each policy says of a given view, and how it divides a step: the table of ``docs/service.md``."""

from __future__ import annotations

import pytest

from runtime import scheduler as sched
from runtime.scheduler.policy import Prefilling, View, Waiting, evenly, oldest_first, shortest_first

MS = 1_000_000
#: A token is a millisecond of arithmetic; the weights are read in ten.
COST = sched.CostModel(flops_per_token=50_000_000, weight_bytes=100_000_000)


def waiting(order: int, prompt: int, new: int) -> Waiting:
    return Waiting(f"t{order}", order, 0, prompt, new, None)


def view(**changes: object) -> View:
    usual = {
        "now_ns": 0, "slots": 4, "free_slots": 4, "step_tokens": 128, "decoding": 0, "kv_tokens": 0,
        "waiting": (), "prefilling": (), "cost": COST,
    }  # fmt: skip
    return View(**{**usual, **changes})  # type: ignore[arg-type]


def order_of(policy: str, *queue: Waiting) -> list[str]:
    seen, chosen = view(waiting=queue), sched.get(policy)
    return [w.id for w in sorted(queue, key=lambda w: (*chosen.admission_key(w, seen), w.order))]


QUEUE = (waiting(0, 400, 40), waiting(1, 10, 2), waiting(2, 2000, 1), waiting(3, 10, 40))


@pytest.mark.parametrize("policy", ["default", "cost", "latency_energy_balanced"])
def test_first_come_first_served(policy: str) -> None:
    assert order_of(policy, *QUEUE) == ["t0", "t1", "t2", "t3"]


def test_latency_takes_the_least_expected_work() -> None:
    """A step of prompt is 128 tokens, a token to generate a step of its own: 43, 2, 16 and 40 steps."""
    assert order_of("latency", *QUEUE) == ["t1", "t2", "t3", "t0"]
    seen = view(waiting=QUEUE)
    keys = [sched.get("latency").admission_key(w, seen)[0] for w in QUEUE]
    assert keys == [p * COST.flops_per_token // 128 + n * COST.flops_per_token
                    for p, n in ((400, 40), (10, 2), (2000, 1), (10, 40))]  # fmt: skip
    for flops, key in ((0, 5), (1, 12)):
        one = view(waiting=QUEUE, step_tokens=1, cost=sched.CostModel(flops_per_token=flops, weight_bytes=1))
        assert sched.get("latency").admission_key(waiting(0, 7, 5), one) == (key,)


def test_energy_takes_those_as_long_as_the_oldest() -> None:
    assert order_of("energy", waiting(0, 1, 40), waiting(1, 1, 90), waiting(2, 1, 39), waiting(3, 1, 42)) == [
        "t0", "t2", "t3", "t1",
    ]  # fmt: skip
    assert order_of("energy", waiting(5, 1, 9), waiting(2, 1, 40), waiting(3, 1, 39)) == ["t2", "t3", "t5"]


@pytest.mark.parametrize(
    ("policy", "gathered_ms"),
    [("default", 0), ("latency", 0), ("cost", 20), ("energy", 60), ("latency_energy_balanced", 5)],
)
def test_how_long_admissions_wait_for_company(policy: str, gathered_ms: int) -> None:
    chosen = sched.get(policy)
    assert chosen.hold_ns(view(waiting=QUEUE[:3])) == gathered_ms * MS
    for full in (view(waiting=QUEUE), view(waiting=QUEUE[:3], free_slots=3), view(waiting=QUEUE, slots=3)):
        assert chosen.hold_ns(full) == 0
    held_beside = 0 if policy == "latency_energy_balanced" else gathered_ms * MS
    assert chosen.hold_ns(view(waiting=QUEUE[:2], decoding=1)) == held_beside
    assert chosen.hold_ns(view(waiting=QUEUE[:2], prefilling=(Prefilling("a", 0, 3),))) == held_beside


@pytest.mark.parametrize(
    ("policy", "beside"),
    [("default", 38), ("latency", 18), ("cost", 100), ("energy", 100), ("latency_energy_balanced", 50)],
)
def test_how_much_of_a_step_prompts_get_beside_two_decodes(policy: str, beside: int) -> None:
    """Ten milliseconds of reading allow 20 or 40 tokens of arithmetic, two of them the decodes'."""
    chosen = sched.get(policy)
    assert chosen.prefill_tokens(100, view()) == 100
    assert chosen.prefill_tokens(100, view(decoding=2)) == beside
    assert chosen.prefill_tokens(1, view(decoding=2)) == 1
    # A second of reading, so that a hundredth of it counts.
    long = view(decoding=2, cost=sched.CostModel(flops_per_token=50_000_000, weight_bytes=10**10))
    assert chosen.prefill_tokens(8192, long) == {
        "default": 3998, "latency": 1998, "latency_energy_balanced": 4096,
    }.get(policy, 8192)  # fmt: skip
    assert chosen.prefill_tokens(5, view(decoding=2)) == (2 if policy == "latency_energy_balanced" else 5)


@pytest.mark.parametrize("policy", ["default", "latency"])
def test_prompts_get_an_eighth_of_a_step_whatever_the_estimate_says(policy: str) -> None:
    slow = sched.CostModel(flops_per_token=5_000_000_000, weight_bytes=1)
    chosen = sched.get(policy)
    assert chosen.prefill_tokens(100, view(decoding=1, cost=slow)) == 16
    assert chosen.prefill_tokens(100, view(decoding=1, cost=slow, step_tokens=7)) in (1, 3)
    read = sched.CostModel(flops_per_token=50_000_000, weight_bytes=100_000_000, kv_bytes_per_token=1_000_000)
    more = chosen.prefill_tokens(100, view(decoding=2, cost=read, kv_tokens=100))
    assert more == {"default": 78, "latency": 38}[policy], "the cache is read as well"


PROMPTS = (Prefilling("a", 0, 50), Prefilling("b", 1, 4), Prefilling("c", 2, 30))


@pytest.mark.parametrize(
    ("budget", "oldest", "even", "shortest"),
    [
        (60, {"a": 50, "b": 4, "c": 6}, {"a": 28, "b": 4, "c": 28}, {"a": 26, "b": 4, "c": 30}),
        (10, {"a": 10}, {"a": 4, "b": 3, "c": 3}, {"a": 2, "b": 4, "c": 4}),
        (2, {"a": 2}, {"a": 1, "c": 1}, {"a": 1, "b": 1}),
        (1, {"a": 1}, {"a": 1}, {"b": 1}),
        (99, {"a": 50, "b": 4, "c": 30}, {"a": 50, "b": 4, "c": 30}, {"a": 50, "b": 4, "c": 30}),
    ],
)
def test_how_a_step_is_divided(budget: int, oldest: dict, even: dict, shortest: dict) -> None:
    assert oldest_first(budget, PROMPTS) == oldest
    assert evenly(budget, PROMPTS) == even
    assert shortest_first(budget, PROMPTS) == shortest
    for policy, divided in (
        ("default", even), ("latency", shortest), ("cost", oldest), ("energy", oldest),
        ("latency_energy_balanced", even),
    ):  # fmt: skip
        assert sched.get(policy).divide(budget, PROMPTS) == divided


def test_the_roofline_to_the_nanosecond() -> None:
    cost = sched.CostModel(
        flops_per_token=3, weight_bytes=7, kv_bytes_per_token=2, flops_per_second=2 * 10**9,
        bytes_per_second=10**9, microjoules_per_step=100, microjoules_per_token=7,
    )  # fmt: skip
    assert (cost.step_bytes(0), cost.step_bytes(5)) == (7, 17)
    assert [cost.step_ns(n, kv) for n, kv in ((1, 0), (5, 0), (1, 5), (20, 5))] == [7, 7, 17, 30]
    assert [cost.tokens_within(ns) for ns in (0, 1, 3, 29, 30)] == [0, 0, 2, 19, 20]
    assert cost.step_microjoules(3) == 121
    assert sched.CostModel(flops_per_token=0, weight_bytes=1).tokens_within(1) == 1 << 30
    half = sched.CostModel(flops_per_token=1, weight_bytes=1, microjoules_per_step=5)
    assert half.step_microjoules(1) is None
    assert (half.flops_per_second, half.bytes_per_second) == (50 * 10**9, 10 * 10**9)
