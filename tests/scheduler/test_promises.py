"""What the scheduler promises under every policy, on random arrivals; no weights, no engine."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import scheduler as sched
from runtime.engine.memory import SlotMemory
from runtime.errors import EngineError
from runtime.scheduler.scheduler import PATIENCE

COST = sched.CostModel(flops_per_token=2_000_000, weight_bytes=1_000_000, kv_bytes_per_token=512)
STEP_NS = 1_000_000

policy_names = st.sampled_from(sched.SHIPPED_POLICIES)
tickets = st.lists(
    st.tuples(
        st.integers(1, 60),  # prompt
        st.integers(1, 12),  # new tokens
        policy_names,
        st.integers(0, 6),  # arrives this many steps after the one before
    ),
    min_size=1,
    max_size=24,
)


@dataclass
class Simulation:
    """Runs a scheduler to the end against a perfect engine and notes everything it did."""

    scheduler: sched.Scheduler
    arrivals: list[tuple[int, sched.Ticket]]  # (turn, ticket)
    cancels: dict[int, str] = field(default_factory=dict)  # turn → id
    now: int = 0
    steps: list[sched.Step] = field(default_factory=list)
    produced: dict[str, int] = field(default_factory=dict)
    prefilled: dict[str, int] = field(default_factory=dict)
    admitted: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    finished_in: dict[str, int] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    waits: dict[str, int] = field(default_factory=dict)  # steps since the last token of a decode
    longest_wait: int = 0

    def run(self) -> Simulation:
        pending = list(self.arrivals)
        tickets = {ticket.id: ticket for _, ticket in pending}
        for turn in range(20_000):
            while pending and pending[0][0] <= turn:
                self.scheduler.submit(pending.pop(0)[1], self.now)
            if (victim := self.cancels.get(turn)) and self.scheduler.cancel(victim, self.now):
                self.cancelled.add(victim)
            step = self.scheduler.schedule(self.now)
            if step is None:
                self.scheduler.check()
                if not pending:
                    return self
                continue
            if isinstance(step, sched.Hold):
                assert step.until_ns > self.now
                self.now += STEP_NS
                continue
            self.commit(step, tickets)
        raise AssertionError("the scheduler did not come to an end")

    def commit(self, step: sched.Step, tickets: dict[str, sched.Ticket]) -> None:
        decoding = {id for _, id, phase, _ in self.scheduler.residents() if phase is sched.Phase.DECODE}
        ended = []
        for part in step.parts:
            if part.phase is sched.Phase.PREFILL:
                assert part.start == self.prefilled.get(part.id, 0)
                self.prefilled[part.id] = part.start + part.count
                assert part.wanted == (self.prefilled[part.id] == tickets[part.id].prompt_tokens)
            else:
                assert part.count == 1
                assert self.prefilled[part.id] == tickets[part.id].prompt_tokens
            if part.wanted:
                self.produced[part.id] = self.produced.get(part.id, 0) + 1
                if self.produced[part.id] == tickets[part.id].max_new_tokens:
                    ended.append(part.id)
        for id in decoding:
            here = any(part.id == id for part in step.parts)
            self.waits[id] = 0 if here else self.waits.get(id, 0) + 1
            self.longest_wait = max(self.longest_wait, self.waits[id])
        self.steps.append(step)
        self.admitted += step.admitted
        self.now += STEP_NS
        self.scheduler.commit(step, ended, self.now)
        self.finished += ended
        self.finished_in |= dict.fromkeys(ended, step.number)


def simulation(
    rows: list[tuple[int, int, str, int]], slots: int, step_tokens: int, cancels: dict[int, str] | None = None
) -> Simulation:
    arrivals, turn = [], 0
    for index, (prompt, new, policy, gap) in enumerate(rows):
        turn += gap
        arrivals.append((turn, sched.Ticket(f"t{index}", prompt, new, policy)))
    scheduler = sched.Scheduler(
        memory=SlotMemory(slots), step_tokens=step_tokens, context=128, queue_limit=64, cost=COST
    )
    return Simulation(scheduler, arrivals, cancels or {})


@given(tickets, st.integers(1, 6), st.integers(1, 40))
def test_everyone_finishes_with_exactly_the_tokens_asked_for(rows, slots, step_tokens):
    run = simulation(rows, slots, step_tokens).run()
    assert sorted(run.finished) == sorted(ticket.id for _, ticket in run.arrivals)
    for _, ticket in run.arrivals:
        assert run.produced[ticket.id] == ticket.max_new_tokens
        assert run.prefilled[ticket.id] == ticket.prompt_tokens


@given(tickets, st.integers(1, 6), st.integers(1, 40))
def test_a_step_never_exceeds_its_tokens_nor_holds_a_sequence_twice(rows, slots, step_tokens):
    for step in simulation(rows, slots, step_tokens).run().steps:
        assert 1 <= step.tokens <= step_tokens
        assert len({part.id for part in step.parts}) == len(step.parts)
        assert len({part.slot for part in step.parts}) == len(step.parts) <= slots
        assert all(0 <= part.slot < slots and part.count >= 1 for part in step.parts)


@given(tickets, st.integers(1, 6), st.integers(1, 40), st.data())
def test_cancelling_anything_at_any_time_leaks_no_slot(rows, slots, step_tokens, data):
    victims = data.draw(
        st.dictionaries(st.integers(0, 80), st.sampled_from([f"t{i}" for i in range(len(rows))]))
    )
    run = simulation(rows, slots, step_tokens, victims).run()
    assert run.scheduler.idle
    assert sorted([*run.finished, *run.cancelled]) == sorted(t.id for _, t in run.arrivals)
    run.scheduler.check()


@given(tickets, st.integers(1, 6), st.integers(2, 40))
def test_a_decode_waits_a_bounded_number_of_steps_behind_any_prefill(rows, slots, step_tokens):
    run = simulation(rows, slots, step_tokens).run()
    if slots < step_tokens:
        assert run.longest_wait == 0
    else:
        assert run.longest_wait <= -(-slots // (step_tokens - 1))


@given(policy_names, st.integers(2, 12), st.integers(1, 4), st.integers(1, 32))
def test_equal_requests_are_admitted_and_finish_in_order_of_arrival(policy, count, slots, step_tokens):
    run = simulation([(9, 4, policy, 0)] * count, slots, step_tokens).run()
    order = [f"t{i}" for i in range(count)]
    assert run.admitted == order
    if step_tokens > slots:
        ends = [run.finished_in[id] for id in order]
        assert ends == sorted(ends)


@settings(deadline=None)
@given(policy_names, st.integers(0, 2**32))
def test_a_long_request_is_passed_over_a_bounded_number_of_times(policy, seed):
    """A stream of short requests that never ends cannot starve a long one."""
    rng = random.Random(seed)
    scheduler = sched.Scheduler(memory=SlotMemory(1), step_tokens=64, context=4096, queue_limit=64, cost=COST)
    run = Simulation(scheduler, [])
    tickets = {"long": sched.Ticket("long", 500, 30, policy)}
    for name in ("s0", "s1"):  # already there when the long one comes
        tickets[name] = sched.Ticket(name, 2, 2, policy)
        scheduler.submit(tickets[name], 0)
    scheduler.submit(tickets["long"], 0)
    for turn in range(2, 5_000):
        if scheduler.queued < 8:
            name = f"s{turn}"
            tickets[name] = sched.Ticket(name, rng.randint(1, 3), rng.randint(1, 2), policy)
            scheduler.submit(tickets[name], run.now)
        step = scheduler.schedule(run.now)
        if isinstance(step, sched.Step):
            run.commit(step, tickets)
        else:
            run.now += STEP_NS
        if "long" in run.finished:
            break
    assert "long" in run.finished
    assert run.admitted.index("long") <= 2 + PATIENCE == 18


@pytest.mark.parametrize("policy", ["default", "latency", "latency_energy_balanced"])
def test_a_short_prompt_behind_a_long_one_gets_its_token_within_two_steps(policy):
    scheduler = sched.Scheduler(memory=SlotMemory(4), step_tokens=256, context=8192, queue_limit=8, cost=COST)
    scheduler.submit(sched.Ticket("long", 4000, 8, policy), 0)
    first = scheduler.schedule(10**9)
    assert isinstance(first, sched.Step)
    scheduler.commit(first, [], 10**9)
    scheduler.submit(sched.Ticket("short", 40, 8, policy), 10**9)
    for taken in (1, 2):
        step = scheduler.schedule((1 + taken) * 10**9)
        assert isinstance(step, sched.Step)
        scheduler.commit(step, [], (1 + taken) * 10**9)
        if any(part.id == "short" and part.wanted for part in step.parts):
            return
    pytest.fail("the short prompt is still waiting")


def test_prefill_stays_small_while_somebody_decodes():
    """With 50 GFLOP/s and 10 GB/s a decode step of 100 MB lasts 10 ms, the time of 10 tokens' arithmetic:
    ``latency`` lets a step last twice as long, ``default`` four times."""
    cost = sched.CostModel(flops_per_token=50_000_000, weight_bytes=100_000_000)
    chunks = {}
    for policy in ("default", "latency"):
        scheduler = sched.Scheduler(
            memory=SlotMemory(2), step_tokens=128, context=4096, queue_limit=8, cost=cost
        )
        scheduler.submit(sched.Ticket("a", 1, 50, policy), 0)
        step = scheduler.schedule(0)
        scheduler.commit(step, [], 0)
        scheduler.submit(sched.Ticket("b", 1000, 50, policy), 0)
        step = scheduler.schedule(0)
        chunks[policy] = next(part.count for part in step.parts if part.id == "b")
    assert chunks == {"default": 39, "latency": 19}


@pytest.mark.parametrize(
    ("policy", "held_ms"), [("cost", 20), ("energy", 60), ("latency_energy_balanced", 5)]
)
def test_gathering_policies_hold_a_lone_request_for_a_bounded_time(policy, held_ms):
    scheduler = sched.Scheduler(memory=SlotMemory(2), step_tokens=16, context=64, queue_limit=8, cost=COST)
    scheduler.submit(sched.Ticket("a", 4, 4, policy), 1_000)
    hold = scheduler.schedule(1_000)
    assert hold == sched.Hold(1_000 + held_ms * 1_000_000, f"{policy} waits for company")
    scheduler.submit(sched.Ticket("b", 4, 4, policy), 2_000)
    step = scheduler.schedule(2_000)
    assert isinstance(step, sched.Step)
    assert step.admitted == ("a", "b")


def test_every_decision_is_explained():
    scheduler = sched.Scheduler(memory=SlotMemory(1), step_tokens=4, context=64, queue_limit=8, cost=COST)
    scheduler.submit(sched.Ticket("a", 6, 2), 0)
    scheduler.submit(sched.Ticket("b", 2, 1), 5)
    explained = {}
    for now in range(10, 100, 10):
        step = scheduler.schedule(now)
        if step is None:
            break
        last = {part.id for part in step.parts if part.phase is sched.Phase.DECODE or part.id == "b"}
        explained |= scheduler.commit(step, last, now)
    assert [(d.action, d.steps) for d in explained["a"]] == [
        ("queued", 1), ("admitted", 1), ("prefill", 1), ("prefill", 1), ("batched", 1), ("finished", 1),
    ]  # fmt: skip
    assert [(d.action, d.reason, d.steps) for d in explained["b"]] == [
        ("queued", "policy default", 1),
        ("delayed", "every slot is taken", 3),
        ("admitted", "first by default", 1),
        ("prefill", "default", 1),
        ("finished", "ended", 1),
    ]
    admitted = explained["b"][2].to_json(since_ns=5)
    assert (admitted["waited_ns"], admitted["at_ms"]) == (35, 35e-6)


def test_a_full_queue_and_a_context_too_small_are_refused():
    scheduler = sched.Scheduler(memory=SlotMemory(1), step_tokens=4, context=16, queue_limit=2, cost=COST)
    with pytest.raises(EngineError) as error:
        scheduler.submit(sched.Ticket("big", 10, 8), 0)
    assert error.value.code == "context_exceeded"
    scheduler.submit(sched.Ticket("fits", 10, 7), 0)
    scheduler.submit(sched.Ticket("b", 1, 1), 0)
    with pytest.raises(EngineError) as error:
        scheduler.submit(sched.Ticket("c", 1, 1), 0)
    assert error.value.code == "queue_full"
    with pytest.raises(EngineError) as error:
        sched.Scheduler(memory=SlotMemory(1), step_tokens=4, context=16, queue_limit=2, cost=COST).submit(
            sched.Ticket("d", 1, 1, "fastest"), 0
        )
    assert error.value.code == "unknown_scheduler_policy"
    assert "latency_energy_balanced" in error.value.allowed


def test_the_integrity_check_finds_a_lost_slot():
    scheduler = sched.Scheduler(memory=SlotMemory(2), step_tokens=4, context=16, queue_limit=2, cost=COST)
    scheduler.check()
    scheduler.memory.take()
    with pytest.raises(EngineError) as error:
        scheduler.check()
    assert error.value.code == "scheduler_integrity"


def test_a_broken_policy_from_elsewhere_is_caught():
    class Greedy:
        name = "test_greedy"

        def admission_key(self, waiting, view):
            return (0,)

        def hold_ns(self, view):
            return 0

        def prefill_tokens(self, budget, view):
            return budget * 10

        def divide(self, budget, prefilling):
            return {p.id: p.remaining for p in prefilling}

    if "test_greedy" not in sched.names():
        sched.register(Greedy())
    with pytest.raises(ValueError, match="registered already"):
        sched.register(Greedy())
    scheduler = sched.Scheduler(memory=SlotMemory(2), step_tokens=4, context=64, queue_limit=4, cost=COST)
    scheduler.submit(sched.Ticket("a", 20, 4, "test_greedy"), 0)
    with pytest.raises(EngineError) as error:
        scheduler.schedule(0)
    assert error.value.code == "scheduler_policy_broken"


def test_an_abandoned_step_can_be_scheduled_again():
    scheduler = sched.Scheduler(memory=SlotMemory(2), step_tokens=4, context=64, queue_limit=4, cost=COST)
    scheduler.submit(sched.Ticket("a", 6, 4), 0)
    step = scheduler.schedule(0)
    with pytest.raises(RuntimeError):
        scheduler.schedule(0)
    scheduler.abandon(step)
    again = scheduler.schedule(0)
    assert again.parts == step.parts


def test_the_roofline_of_the_cost_model():
    cost = sched.CostModel(
        flops_per_token=1_000_000, weight_bytes=4_000_000, flops_per_second=10**9, bytes_per_second=10**9
    )
    assert cost.step_ns(1) == 4_000_000  # memory
    assert cost.step_ns(10) == 10_000_000  # arithmetic
    assert cost.tokens_within(10_000_000) == 10
    assert cost.step_microjoules(1) is None


def test_a_step_beside_other_bundles_lasts_no_longer_than_its_turn():
    """10 tokens of arithmetic a 10 ms turn; an eighth of a step goes on whatever the turn allows."""
    cost = sched.CostModel(flops_per_token=50_000_000, weight_bytes=1_000_000)
    for turn_ns, tokens in ((None, 128), (40_000_000, 40), (1, 16)):
        scheduler = sched.Scheduler(
            memory=SlotMemory(2), step_tokens=128, context=4096, queue_limit=8, cost=cost
        )
        scheduler.submit(sched.Ticket("a", 1000, 5), 0)
        step = scheduler.schedule(0, turn_ns)
        assert isinstance(step, sched.Step)
        assert step.tokens == tokens
        said = dict(scheduler.explain("a")[-1].numbers)
        assert said.get("turn_ns") == turn_ns


def test_accepted_tokens_of_a_decode_are_counted():
    scheduler = sched.Scheduler(memory=SlotMemory(1), step_tokens=8, context=64, queue_limit=8, cost=COST)
    scheduler.submit(sched.Ticket("a", 2, 9), 0)
    scheduler.commit(scheduler.schedule(0), [], 0)
    step = scheduler.schedule(0)
    scheduler.commit(step, [], 0, {"a": 3})
    assert scheduler.residents() == ((0, "a", sched.Phase.DECODE, 5),)


def test_who_is_passed_over_is_passed_over_sixteen_times_and_told_so():
    scheduler = sched.Scheduler(memory=SlotMemory(1), step_tokens=64, context=4096, queue_limit=64, cost=COST)
    run = Simulation(scheduler, [])
    tickets = {"long": sched.Ticket("long", 500, 1, "latency")}
    tickets |= {f"s{i}": sched.Ticket(f"s{i}", 1, 1, "latency") for i in range(20)}
    for ticket in tickets.values():
        scheduler.submit(ticket, 0)
    while "long" not in run.admitted:
        run.commit(scheduler.schedule(run.now), tickets)
    assert run.admitted == [f"s{i}" for i in range(16)] + ["long"]
    assert [d.reason for d in scheduler.explain("long") if d.action == "admitted"] == [
        "passed over often enough"
    ]
