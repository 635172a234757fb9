"""Executions from submission to record: life cycle, limits, cancellation, faults, draining."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from runtime.control.plane import ControlPlane
from runtime.control.records import RecordStore
from runtime.control.types import Outcome, RunSpec, TokenOut
from runtime.engine.request import Request, Wishes
from runtime.engine.types import StopReason
from runtime.errors import EngineError
from runtime.metrics.energy import EnergyMeter
from runtime.scheduler import SHIPPED_POLICIES
from tests.fake_service import (
    POISON,
    FakeEngine,
    FakeSequence,
    FakeTokenizer,
    expected_text,
    resolved_plan,
    served_bundle,
)


class Follower:
    """A listener that keeps everything it was told."""

    def __init__(self) -> None:
        self.events: list[TokenOut] = []
        self.outcomes: list[Outcome] = []
        self.first = threading.Event()

    def token(self, token: TokenOut) -> None:
        self.events.append(token)
        self.first.set()

    def done(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


def spec(prompt: str = "Once", bundle: str = "story", **changes: object) -> RunSpec:
    options = {k: changes.pop(k) for k in ("stop", "logprobs") if k in changes}
    kind = changes.pop("kind", "run")
    plan = resolved_plan(bundle, **changes)
    return RunSpec(
        bundle=bundle,
        prompt=prompt,
        request=Request.of_plan(plan, FakeTokenizer().encode(prompt), Wishes(**options)),
        plan=plan,
        kind=kind,
    )


@pytest.fixture
def records(tmp_path) -> Iterator[RecordStore]:
    tmp_path.chmod(0o700)
    with RecordStore(tmp_path / "records.sqlite") as store:
        yield store


@pytest.fixture
def make(records) -> Iterator[Callable[..., ControlPlane]]:
    planes = []

    def build(*engines: FakeEngine, meter: EnergyMeter | None = None, queue_limit: int = 64) -> ControlPlane:
        plane = ControlPlane(
            records=records,
            meter=meter or EnergyMeter("none", (), reason="no energy counter"),
            queue_limit=queue_limit,
        )
        for index, engine in enumerate(engines or (FakeEngine(),)):
            plane.serve(served_bundle("story" if index == 0 else f"story{index}", engine))
        plane.start()
        planes.append(plane)
        return plane

    yield build
    for plane in planes:
        plane.stop()


def test_an_execution_gives_its_text_its_metrics_and_a_record(make, records):
    plane, follower = make(), Follower()
    execution = plane.submit(spec("Once upon", limits__max_tokens=20), follower)
    assert execution.settled.wait(10)
    outcome = execution.outcome
    assert outcome.text == expected_text("Once upon", 20)
    assert "".join(e.text for e in follower.events) == outcome.text
    assert [e.index for e in follower.events] == list(range(20))
    assert follower.outcomes == [outcome]
    assert outcome.stop_reason is StopReason.MAX_TOKENS
    assert outcome.metrics["tokens_total"] == 20
    assert outcome.metrics["tokens_per_sec"] > 0
    assert outcome.metrics["watts_avg"] is None
    assert outcome.diagnostics["unknown"]["watts_avg"] == "no energy counter"
    record = records.get(execution.id)
    assert record["stop_reason"] == "max_tokens"
    assert record["plan_digest"] == execution.spec.plan.digest
    assert [d["action"] for d in record["decisions"]][:2] == ["queued", "admitted"]
    assert record["logits_digest"] == outcome.logits_digest
    assert records.head()["hash"] == outcome.record_hash


@pytest.mark.parametrize("policy", SHIPPED_POLICIES)
def test_eight_at_once_get_what_each_alone_would_get(make, policy):
    plane = make(FakeEngine(slots=4, step_tokens=16))
    prompts = ["a" * (1 + 13 * i) for i in range(8)]
    runs = [
        plane.submit(spec(p, limits__max_tokens=5 + i, scheduler_policy=policy))
        for i, p in enumerate(prompts)
    ]
    for i, run in enumerate(runs):
        assert run.settled.wait(20)
        assert run.outcome.text == expected_text(prompts[i], 5 + i)
    assert max(len(step) for step in plane.bundle("story").engine.steps) > 1


def test_several_bundles_take_turns(make):
    plane = make(FakeEngine(step_seconds=0.002), FakeEngine(step_seconds=0.002))
    long = plane.submit(spec("long", limits__max_tokens=300))
    other = plane.submit(spec("other", bundle="story1", limits__max_tokens=5))
    assert other.settled.wait(5)
    assert not long.settled.is_set()
    assert other.outcome.bundle == "story1"
    plane.cancel(long.id)
    assert long.settled.wait(5)


def test_cancelling_frees_the_slot_within_a_token_and_leaves_a_record(make, records):
    engine = FakeEngine(step_seconds=0.01)
    plane, follower = make(engine), Follower()
    execution = plane.submit(spec("go", limits__max_tokens=400), follower)
    assert follower.first.wait(5)
    steps = len(engine.steps)
    assert plane.cancel(execution.id)
    assert execution.settled.wait(5)
    assert len(engine.steps) <= steps + 2
    assert engine.free_slots == engine.limits.slots
    assert execution.outcome.stop_reason is StopReason.CANCELLED
    assert execution.outcome.text == expected_text("go", len(execution.outcome.token_ids))
    assert records.get(execution.id)["stop_reason"] == "cancelled"
    assert not plane.cancel(execution.id)


def test_cancelling_in_the_queue_never_admits(make, records):
    engine = FakeEngine(slots=1, step_seconds=0.01)
    plane = make(engine)
    first = plane.submit(spec("first", limits__max_tokens=50))
    second = plane.submit(spec("second"))
    plane.cancel(second.id)
    assert second.settled.wait(5)
    assert second.outcome.metrics["tokens_total"] == 0
    assert second.outcome.diagnostics["queue_ms"] > 0
    assert records.get(second.id)["stop_reason"] == "cancelled"
    assert first.settled.wait(10)
    assert first.outcome.stop_reason is StopReason.MAX_TOKENS


@pytest.mark.parametrize("cancel", [False, True])
def test_a_slot_that_is_not_given_back_is_found_once_idle(make, cancel):
    engine = FakeEngine(step_seconds=0.005)
    engine.release = lambda sequence: engine.finish(sequence, StopReason.CANCELLED)
    plane, follower = make(engine), Follower()
    execution = plane.submit(spec("go", limits__max_tokens=300 if cancel else 5), follower)
    assert follower.first.wait(5)
    if cancel:
        plane.cancel(execution.id)
    assert execution.settled.wait(5)
    deadline = time.monotonic() + 5
    while plane.executor.alive and time.monotonic() < deadline:
        time.sleep(0.001)
    with pytest.raises(EngineError) as error:
        plane.submit(spec("next"))
    assert error.value.code == "executor_failed"
    assert "1 of 4 slots are held" in error.value.message


def test_a_full_queue_refuses_and_forgets(make):
    engine = FakeEngine(slots=1)
    engine.gate = threading.Event()
    plane = make(engine, queue_limit=2)
    runs = [plane.submit(spec("a"))]
    while not engine.steps:
        time.sleep(0.001)
    runs += [plane.submit(spec("b")), plane.submit(spec("c"))]
    with pytest.raises(EngineError) as error:
        plane.submit(spec("d"))
    assert error.value.code == "queue_full"
    assert len(plane.live()) == 3
    engine.gate.set()
    assert all(run.settled.wait(5) for run in runs)


def test_max_seconds_and_stop_texts_end_with_their_reason(make):
    plane = make(FakeEngine(step_seconds=0.01))
    outcome = plane.run(spec("slow", limits__max_tokens=400, limits__max_seconds=0.05))
    assert outcome.stop_reason is StopReason.MAX_SECONDS
    text = expected_text("stop here", 20)
    outcome = plane.run(spec("stop here", limits__max_tokens=20, stop=(text[7:10],)))
    assert outcome.stop_reason is StopReason.STOP_SEQUENCE
    assert outcome.text == text[: text.index(text[7:10])]


def test_max_seconds_count_from_arrival_also_for_who_still_waits(make, records):
    engine = FakeEngine(slots=1, step_seconds=0.002)
    plane = make(engine)
    first = plane.submit(spec("a", limits__max_tokens=400))
    late = plane.submit(spec("b", limits__max_seconds=0.01))
    assert late.settled.wait(30)
    assert not first.settled.is_set()
    assert (late.outcome.stop_reason, late.outcome.token_ids) == (StopReason.MAX_SECONDS, ())
    assert records.get(late.id)["stop_reason"] == "max_seconds"
    plane.cancel(first.id)
    assert first.settled.wait(30)


def test_a_numeric_error_ends_one_execution_and_the_server_goes_on(make, records):
    plane = make(FakeEngine(step_seconds=0.005))
    good = plane.submit(spec("good", limits__max_tokens=30))
    bad = plane.submit(RunSpec("story", Request.of_plan(resolved_plan(), (1, POISON)), resolved_plan()))
    assert bad.settled.wait(5)
    assert bad.outcome.stop_reason is StopReason.ERROR
    assert bad.outcome.error.code == "numeric_error"
    assert records.get(bad.id)["error"]["path"] == "attention, layer 1"
    assert good.settled.wait(5)
    assert good.outcome.text == expected_text("good", 30)


def test_a_step_that_raises_ends_its_executions_only(make):
    engine = FakeEngine()
    engine.broken = RuntimeError("lost a thread")
    plane = make(engine)
    outcome = plane.run(spec("a"))
    assert (outcome.stop_reason, outcome.error.code) == (StopReason.ERROR, "engine_failure")
    assert plane.run(spec("b")).text == expected_text("b", 24)
    assert engine.free_slots == engine.limits.slots


def test_a_listener_that_raises_hurts_nobody(make):
    class Broken:
        def token(self, token: TokenOut) -> None:
            raise RuntimeError("gone")

        def done(self, outcome: Outcome) -> None:
            raise RuntimeError("gone")

    plane = make()
    execution = plane.submit(spec("a"), Broken())
    assert execution.settled.wait(5)
    assert execution.outcome.stop_reason is StopReason.MAX_TOKENS


def test_what_cannot_be_recorded_is_not_acknowledged(make, records):
    plane = make()
    records.close()
    outcome = plane.run(spec("a"))
    assert outcome.stop_reason is StopReason.ERROR
    assert outcome.error.code in ("records_unwritable", "internal_error")


def test_draining_refuses_new_work_and_finishes_the_old(make):
    engine = FakeEngine()
    engine.gate = threading.Event()
    plane = make(engine)
    executions = [plane.submit(spec("a", limits__max_tokens=20))]
    done = threading.Thread(target=lambda: plane.drain(10))
    done.start()
    refusal = None
    while refusal is None and len(executions) < 60:  # those that come before the drain are old work too
        try:
            executions.append(plane.submit(spec("b", limits__max_tokens=1)))
            time.sleep(0.05)
        except EngineError as error:
            refusal = error.code
    assert refusal == "shutting_down"
    engine.gate.set()
    done.join(10)
    for execution in executions:
        assert execution.settled.wait(1)
        assert execution.outcome.stop_reason is StopReason.MAX_TOKENS


def test_stopping_cuts_and_still_records(records):
    engine = FakeEngine(step_seconds=0.01)
    plane = ControlPlane(records=records, meter=EnergyMeter("none", (), reason="none here"))
    plane.serve(served_bundle("story", engine))
    plane.start()
    runs = [plane.submit(spec(f"p{i}", limits__max_tokens=400)) for i in range(6)]
    assert not plane.drain(0.05)
    plane.stop()
    assert engine.closed
    for run in runs:
        assert run.outcome.stop_reason is StopReason.CANCELLED
        assert records.get(run.id)["stop_reason"] == "cancelled"


def test_a_bundle_is_retired_once_idle(make):
    plane = make(FakeEngine(), FakeEngine(step_seconds=0.01))
    run = plane.submit(spec("a", bundle="story1", limits__max_tokens=400))
    with pytest.raises(EngineError) as error:
        plane.retire("story1", timeout=0.05)
    assert error.value.code == "bundle_busy"
    plane.cancel(run.id)
    plane.retire("story1")
    with pytest.raises(EngineError) as error:
        plane.submit(spec("a", bundle="story1"))
    assert error.value.code == "bundle_not_served"


def test_random_cancellations_lose_and_leak_nothing(make, records):
    engine = FakeEngine(slots=3, step_tokens=8, step_seconds=0.0005, eos=True)
    plane = make(engine)
    rng = random.Random(7)
    runs = []
    for i in range(60):
        follower = Follower()
        run = plane.submit(
            spec(f"prompt {i}" * rng.randint(1, 4), limits__max_tokens=rng.randint(1, 40)), follower
        )
        runs.append((run, follower))
        if rng.random() < 0.3:
            threading.Timer(rng.random() * 0.05, plane.cancel, (run.id,)).start()
        time.sleep(rng.random() * 0.002)
    for run, follower in runs:
        assert run.settled.wait(20)
        ids = [event.token for event in follower.events]
        assert ids == list(run.outcome.token_ids)
        whole = expected_text(run.spec.prompt, len(ids), eos=True)
        assert run.outcome.text == whole
        assert records.get(run.id)["stop_reason"] == str(run.outcome.stop_reason)
    assert engine.free_slots == 3
    assert records.head()["count"] == 60


def test_a_submission_in_the_middle_of_a_step_does_not_disturb_it(make):
    """What a step iterates over without the lock must be the executor's own."""
    looks, runs = [], []

    class Watched(FakeSequence):
        def __getattribute__(self, name: str) -> object:
            if name == "stop_reason" and len(looks) < 20:  # read of every active sequence, after a step
                looks.append(threading.Thread(target=lambda: runs.append(plane.submit(spec("other")))))
                looks[-1].start()
                looks[-1].join(0.05)
            return super().__getattribute__(name)

    class Engine(FakeEngine):
        def admit(self, request: Request, slot: int | None = None) -> FakeSequence:
            sequence = super().admit(request, slot)
            sequence.__class__ = Watched
            return sequence

    plane = make(Engine(slots=2))
    first = [plane.submit(spec("first")), plane.submit(spec("second"))]
    for run in first:
        assert run.settled.wait(20)
        assert run.outcome.error is None
    for look in looks:
        look.join()
    assert len(runs) == 20
    for run in runs:
        assert run.settled.wait(20)
        assert run.outcome.text == expected_text(run.spec.prompt, 24)


class MadeCounter:
    """A counter that runs with the clock at a wattage the test sets."""

    domain, kind, joules_per_count, count_range = "package-0", "package", 1e-6, None

    def __init__(self, watts: Callable[[], float]) -> None:
        self.watts = watts
        self.joules = 0.0
        self.last = time.monotonic()

    def read(self) -> int:
        now = time.monotonic()
        self.joules += self.watts() * (now - self.last)
        self.last = now
        return int(self.joules * 1e6)

    def close(self) -> None:
        pass


class StepCounter:
    """A counter that moves by half a joule a step, however long the step takes."""

    domain, kind, joules_per_count, count_range = "package-0", "package", 0.5, None

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine

    def read(self) -> int:
        return len(self.engine.steps)

    def close(self) -> None:
        pass


def test_energy_is_shared_in_a_batch_and_adds_up(make):
    meter = EnergyMeter("powercap", [MadeCounter(lambda: 20.0)], sampling=False)
    plane = make(FakeEngine(step_seconds=0.03), meter=meter)
    runs = [plane.submit(spec(f"p{i}", limits__max_tokens=20)) for i in range(3)]
    assert all(run.settled.wait(10) for run in runs)
    joules = [run.outcome.diagnostics["energy_joules"] for run in runs]
    total = sum(plane.executor.power.ledger.totals.values())
    assert sum(joules) == pytest.approx(total)
    longest = max(run.outcome.metrics["latency_total_ms"] for run in runs) / 1e3
    assert total == pytest.approx(20 * longest, rel=0.15)
    for run in runs:
        m = run.outcome.metrics
        assert m["tokens_per_watt"] == pytest.approx(m["tokens_per_sec"] / m["watts_avg"])


def test_max_joules_ends_with_energy_limit(make):
    engine = FakeEngine()
    meter = EnergyMeter("powercap", [StepCounter(engine)], sampling=False)
    plane = make(engine, meter=meter)
    outcome = plane.run(spec("a", limits__max_tokens=400, limits__max_joules=3.0))
    assert outcome.stop_reason is StopReason.ENERGY_LIMIT
    assert 3.0 <= outcome.diagnostics["energy_joules"] <= 3.5


def test_max_watts_with_stop_ends_with_energy_limit_once_it_can_be_judged(make):
    meter = EnergyMeter("powercap", [MadeCounter(lambda: 50.0)], sampling=False)
    plane = make(FakeEngine(step_seconds=0.01), meter=meter)
    outcome = plane.run(spec("a", limits__max_tokens=400, limits__max_watts=40.0))
    assert outcome.stop_reason is StopReason.ENERGY_LIMIT
    assert outcome.metrics["latency_total_ms"] >= 1000


def test_pace_keeps_the_mean_under_the_cap_and_changes_no_token(make):
    busy = threading.Event()
    engine = FakeEngine(step_seconds=0.02)
    inner = engine.step

    def step(work):
        busy.set()
        try:
            return inner(work)
        finally:
            meter.mark()  # the counter sees the end of the busy stretch
            busy.clear()

    engine.step = step
    meter = EnergyMeter("powercap", [MadeCounter(lambda: 60.0 if busy.is_set() else 5.0)], sampling=False)
    plane = make(engine, meter=meter)
    free = plane.run(spec("a", limits__max_tokens=40))
    paced = plane.run(spec("a", limits__max_tokens=40, limits__max_watts=30.0, limits__on_limit="pace"))
    assert free.metrics["watts_avg"] > 40
    assert paced.metrics["watts_avg"] <= 30.5
    assert paced.stop_reason is StopReason.MAX_TOKENS
    assert (paced.text, paced.logits_digest) == (free.text, free.logits_digest)
    assert paced.diagnostics["paced_ms"] > 0


def test_the_slot_that_is_shown_is_the_slot_that_is_used(make):
    """A and B end in one step, then C comes: one record says which slots are free."""
    engine = FakeEngine(slots=3)
    engine.gate = threading.Event()
    plane = make(engine)
    pair = [plane.submit(spec("a", limits__max_tokens=2)), plane.submit(spec("b", limits__max_tokens=2))]
    long = plane.submit(spec("long", limits__max_tokens=40))
    engine.gate.set()
    assert all(run.settled.wait(5) for run in pair)
    engine.step_seconds = 0.005
    late = plane.submit(spec("c", limits__max_tokens=40))
    seen = 0
    while not late.settled.is_set():
        with plane.executor._wake:
            for lane, residents in plane.executor.slots():
                for slot, id, _, _ in residents:
                    sequence = lane.executions[id].sequence
                    if sequence is not None:
                        assert sequence.slot == slot
                        seen += 1
    assert long.settled.wait(5)
    assert seen > 0
    assert engine.memory.free == 3


def test_a_plans_decode_does_not_wait_for_anothers_whole_prompt(make):
    """Two bundles, one with a long prompt: its chunks are cut while the other decodes, and say so."""
    slow = FakeEngine(step_tokens=64, context=2000, step_seconds=0.001)
    other = FakeEngine(step_seconds=0.001)
    plane = make(slow, other)
    stream = plane.submit(spec("go", bundle=plane.infos()[1].name, limits__max_tokens=60))
    long = plane.submit(spec("x" * 1500, limits__max_tokens=2))
    assert stream.settled.wait(20)
    assert long.settled.wait(20)
    chunks = [d for d in long.outcome.decisions if d.action == "prefill"]
    assert any(dict(d.numbers).get("turn_ns") for d in chunks)
    assert long.outcome.diagnostics["other_plans_ms"] > 0


def test_an_execution_accounts_for_its_own_memory(make):
    plane = make(FakeEngine())
    one, two = plane.run(spec("a" * 10)), plane.run(spec("a" * 400, limits__max_tokens=2))
    info = plane.infos()[0]
    per_token = info.kv_bytes / (info.plan.execution.slots * info.plan.execution.context)
    for outcome in (one, two):
        tokens = outcome.prompt_tokens + len(outcome.token_ids) - 1
        expected = info.weights_bytes + info.arena_bytes + round(tokens * per_token)
        assert outcome.metrics["memory_peak_mb"] == expected / 1e6
    assert two.diagnostics["process_memory_peak_mb"] > two.metrics["memory_peak_mb"]


@pytest.mark.parametrize("tokens", [1, 3])
def test_what_a_decode_gained_is_what_the_scheduler_counts(make, tokens):
    """The first of ten tokens comes with the prompt; nine are gained by decodes, one or more at a time."""
    engine = FakeEngine()
    engine.tokens_a_decode = tokens
    run = make(engine).submit(spec("a", limits__max_tokens=10))
    assert run.settled.wait(5)
    ended = run.outcome.decisions[-1]
    assert ended.action == "finished"
    assert dict(ended.numbers)["held_tokens"] == len(run.spec.request.prompt_ids) + 9
    assert sum(n for step in engine.steps for _, n in step) == len(run.spec.request.prompt_ids) + 9 // tokens
