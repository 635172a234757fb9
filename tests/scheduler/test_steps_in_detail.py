"""Single steps of the scheduler, number by number; what holds on random arrivals is in ``test_promises``."""

from __future__ import annotations

import pytest

from runtime import scheduler as sched
from runtime.engine.memory import SlotMemory
from runtime.scheduler.scheduler import MAX_DECISIONS

COST = sched.CostModel(flops_per_token=50_000_000, weight_bytes=1_000_000)  # a token a millisecond


def scheduler(slots: int = 2, step_tokens: int = 128, queue_limit: int = 8) -> sched.Scheduler:
    return sched.Scheduler(
        memory=SlotMemory(slots), step_tokens=step_tokens, context=4096, queue_limit=queue_limit, cost=COST
    )


def step_of(made: sched.Scheduler, turn_ns: int | None = None) -> sched.Step:
    """The next step, run and committed; nothing ends with it."""
    step = made.schedule(0, turn_ns)
    assert isinstance(step, sched.Step)
    made.commit(step, [], 0)
    return step


def shares(step: sched.Step) -> dict[str, tuple[str, int]]:
    return {part.id: (part.phase.value, part.count) for part in step.parts}


def test_steps_are_numbered_from_one_and_decisions_bear_the_number_of_the_step_before() -> None:
    made = scheduler()
    made.submit(sched.Ticket("a", 4, 9), 0)
    assert [step_of(made).number for _ in range(3)] == [1, 2, 3]
    assert [(d.action, d.step) for d in made.explain("a")] == [
        ("queued", 0), ("admitted", 0), ("prefill", 0), ("batched", 1),
    ]  # fmt: skip


def test_who_is_queued_is_told_how_many_are_ahead_and_running() -> None:
    made = scheduler(slots=1)
    made.submit(sched.Ticket("a", 4, 9), 0)
    step_of(made)
    for name in ("b", "c"):
        made.submit(sched.Ticket(name, 4, 9), 0)
    told = [dict(made.explain(name)[0].numbers) for name in ("a", "b", "c")]
    assert told == [{"ahead": ahead, "running": running} for ahead, running in ((0, 0), (0, 1), (1, 1))]
    phases = [made.phase(name) for name in ("a", "b", "nobody")]
    assert phases == [sched.Phase.DECODE, sched.Phase.QUEUED, sched.Phase.FINISHED]
    assert (made.queued, made.running, made.idle) == (2, 1, False)


@pytest.mark.parametrize(("prompt", "new"), [(0, 4), (4, 0), (0, 0), (-1, 4)])
def test_a_ticket_without_a_prompt_or_without_anything_to_say_is_a_mistake(prompt: int, new: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        scheduler().submit(sched.Ticket("a", prompt, new), 0)


def test_a_ticket_is_here_once() -> None:
    made = scheduler()
    made.submit(sched.Ticket("a", 4, 4), 0)
    with pytest.raises(ValueError, match="here already"):
        made.submit(sched.Ticket("a", 4, 4), 0)
    step_of(made)
    with pytest.raises(ValueError, match="here already"):
        made.submit(sched.Ticket("a", 4, 4), 0)


def test_what_is_kept_of_a_long_story_is_its_beginning_and_its_end() -> None:
    made = scheduler(slots=1, step_tokens=1)
    made.submit(sched.Ticket("a", 400, 1), 0)
    for turn in range(300):
        step_of(made, turn_ns=turn)
    told = made.explain("a")
    assert len(told) == MAX_DECISIONS == 256
    assert [dict(d.numbers).get("turn_ns") for d in told[1:4]] == [None, 0, 1]
    assert dict(told[-1].numbers)["turn_ns"] == 299


def test_a_turn_holds_the_decodes_too_and_gives_prompts_a_token_at_least() -> None:
    made = scheduler()
    made.submit(sched.Ticket("a", 1, 90), 0)
    step_of(made)
    made.submit(sched.Ticket("b", 900, 5, "cost"), 0)
    # 40 ms are 40 tokens, a decode's among them; default keeps the step within its own bound first.
    made.cost = sched.CostModel(flops_per_token=50_000_000, weight_bytes=1_000_000_000)
    assert shares(step_of(made, turn_ns=40_000_000)) == {"a": ("decode", 1), "b": ("prefill", 39)}
    small = scheduler(step_tokens=4)
    small.submit(sched.Ticket("a", 20, 5), 0)
    assert shares(step_of(small, turn_ns=1)) == {"a": ("prefill", 1)}
    assert shares(step_of(small)) == {"a": ("prefill", 4)}


def test_with_one_token_a_step_prompts_and_decodes_take_turns() -> None:
    made = scheduler(step_tokens=1)
    made.submit(sched.Ticket("a", 1, 90), 0)
    made.submit(sched.Ticket("b", 90, 5), 0)
    order = [next(iter(shares(step_of(made)).items())) for _ in range(5)]
    assert order[0] == ("a", ("prefill", 1))
    assert order[1:] == [("a", ("decode", 1)), ("b", ("prefill", 1))] * 2


def test_a_place_is_kept_for_prompts_in_a_full_house() -> None:
    made = scheduler(slots=3, step_tokens=2)
    for name in ("a", "b", "c"):
        made.submit(sched.Ticket(name, 1, 90), 0)
    for _ in range(2):
        step_of(made)  # two prompts, then a decode and the third
    seen = [set(shares(step_of(made))) for _ in range(4)]
    assert seen == [{"b", "a"}, {"c", "a"}, {"b", "a"}, {"c", "a"}], "who waited longest, then who came first"
