"""Shares add up to the step; a cap is held by waiting, or ends the execution."""

from __future__ import annotations

import random
import time
from math import fsum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.metrics.energy import EnergyMeter
from runtime.metrics.energy_perf import open_event, parse_cpus
from runtime.metrics.energy_sysfs import read_power_limits
from runtime.metrics.limits import (
    WINDOW_SECONDS,
    EnergyGuard,
    PowerSample,
    joules_at,
    mean_watts,
    pace_seconds,
)
from runtime.metrics.shares import EnergyLedger, share_step
from tests.metrics.made import Made, made

__all__ = ["made"]


@given(
    st.floats(0, 1e9, allow_subnormal=False),
    st.lists(st.one_of(st.integers(0, 10**12), st.floats(0, 1e12)), min_size=1, max_size=40),
    st.randoms(use_true_random=False),
)
def test_the_shares_of_a_step_add_up_to_it_in_any_order(
    joules: float, works: list[float], order: random.Random
) -> None:
    shares = share_step(joules, works)
    assert all(share >= 0 for share in shares)
    assert fsum(shares) == joules
    order.shuffle(shares)
    assert sum(shares) == joules


def test_shares_follow_the_work() -> None:
    assert share_step(10.0, [3, 1, 0]) == [7.5, 2.5, 0.0]
    assert share_step(9.0, [0, 0, 0]) == [3.0, 3.0, 3.0]
    assert share_step(0.0, [1, 2]) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("joules", "works"), [(1.0, []), (-1.0, [1]), (1.0, [-1]), (float("nan"), [1]), (1.0, [float("inf")])]
)
def test_impossible_shares_are_refused(joules: float, works: list[float]) -> None:
    with pytest.raises(ValueError, match=r"share|finite"):
        share_step(joules, works)


def test_a_batch_is_charged_to_its_executions_and_idle_time_to_nobody(made: Made) -> None:
    made.zone("intel-rapl:0", "package-0", 20.0)
    ledger = EnergyLedger(made.meter())
    made.run(100.0)  # idle before
    ledger.open("a")
    made.run(1.0)
    ledger.step({"a": 256})
    ledger.open("b")
    made.run(1.0)
    ledger.step({"a": 1, "b": 3})
    a = ledger.close("a")
    made.run(1.0)
    ledger.step({"b": 1})
    b = ledger.close("b")
    made.run(100.0)  # idle after
    assert a.joules == pytest.approx(20.0 + 5.0)
    assert b.joules == pytest.approx(15.0 + 20.0)
    assert (a.seconds, b.seconds) == (2.0, 2.0)
    assert sum(ledger.totals.values()) == pytest.approx(60.0)
    assert a.domains["package-0"] == pytest.approx(25.0)


def test_a_ledger_without_a_meter_says_why(made: Made) -> None:
    ledger = EnergyLedger(made.meter())
    ledger.open("a")
    ledger.step({"a": 1})
    assert ledger.joules("a") is None
    reading = ledger.close("a")
    assert reading.joules is None
    assert "no energy counter" in (reading.reason or "")


def test_a_ledger_refuses_what_it_does_not_know(made: Made) -> None:
    ledger = EnergyLedger(made.meter())
    with pytest.raises(ValueError, match="no execution"):
        ledger.step({})
    ledger.open("a")
    for call in (lambda: ledger.open("a"), lambda: ledger.step({"z": 1})):
        with pytest.raises(ValueError, match="open"):
            call()


def test_spans_may_overlap(made: Made) -> None:
    made.zone("intel-rapl:0", "package-0", 20.0)
    meter = made.meter()
    first = meter.start()
    made.run(1.0)
    second = meter.mark()
    made.run(2.0)
    assert meter.read(first).joules == pytest.approx(60.0)
    assert meter.read(second).joules == pytest.approx(40.0)


def test_the_thread_samples_often_enough_for_the_counters_range(made: Made) -> None:
    made.zone("intel-rapl:0", "package-0", 20.0, range=65_532_610_987)
    assert made.meter().sample_seconds == 1.0
    made.zone("intel-rapl:1", "package-1", 20.0, range=200_000_000)  # 200 J: 0.2 s at the most
    assert made.meter().sample_seconds == pytest.approx(0.05)


def test_the_sampling_thread_runs_and_ends() -> None:
    class Ticking:
        """Its time passes 10 ms a sample, however busy the machine is."""

        domain, kind, joules_per_count, count_range = "package-0", "package", 1e-6, 20_000_000
        now, reads = 0, 0

        def clock(self) -> int:
            self.now += 10_000_000
            return self.now

        def read(self) -> int:
            self.reads += 1
            return self.now // 20 % 20_000_000  # 50 W, wraps every 0.4 s

        def close(self) -> None:
            pass

    counter = Ticking()
    meter = EnergyMeter("made", [counter], clock=counter.clock)
    meter.start()
    deadline = time.monotonic() + 30
    while counter.reads < 60:  # nobody but the thread reads here; past the first wrap
        assert time.monotonic() < deadline, counter.reads
        time.sleep(0.01)
    reading = meter.read()
    meter.close()
    assert reading.seconds > 0.5
    assert reading.watts == pytest.approx(50.0)
    reads = counter.reads
    time.sleep(0.03)
    assert counter.reads == reads


def test_the_kernel_is_asked_as_perf_wants_to_be() -> None:
    try:
        descriptor = open_event(1, 0, 0)  # PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK
    except OSError as error:
        pytest.skip(f"perf events are not permitted here: {error}")
    with open(descriptor, "rb", buffering=0) as event:
        first = int.from_bytes(event.read(8), "little")
        time.sleep(0.01)
        assert int.from_bytes(event.read(8), "little") > first
    with pytest.raises(OSError, match=r"."):
        open_event(0x7FFFFFFF, 0, 0)


def test_cpu_lists() -> None:
    assert parse_cpus("0,28") == [0, 28]
    assert parse_cpus("0-2,5") == [0, 1, 2, 5]
    for text in ("", "a", "1-", "0,,1"):
        with pytest.raises(ValueError, match="CPUs"):
            parse_cpus(text)


def test_power_limits_are_read(made: Made) -> None:
    made.zone("intel-rapl:0", "package-0")
    made.zone("intel-rapl:1", "psys")
    for zone in (0, 1):
        made.write(f"class/powercap/intel-rapl:{zone}/constraint_0_name", "long_term")
        made.write(f"class/powercap/intel-rapl:{zone}/constraint_0_power_limit_uw", 65_000_000)
        made.write(f"class/powercap/intel-rapl:{zone}/constraint_0_time_window_us", 28_000_000)
        made.write(f"class/powercap/intel-rapl:{zone}/enabled", 1)
    (limit,) = read_power_limits(made.root)
    assert (limit.name, limit.watts, limit.window_seconds, limit.enabled) == ("long_term", 65.0, 28.0, True)


# ---- limits -------------------------------------------------------------------


class Bench:
    """A made machine that draws ``idle`` watts, and ``busy`` in a step of ``step`` seconds."""

    def __init__(self, made: Made, idle: float, busy: float, step: float) -> None:
        self.made, self.idle, self.busy, self.step = made, idle, busy, step
        self.zone = made.zone("intel-rapl:0", "package-0", busy)
        self.meter = made.meter()
        self.truth = [PowerSample(0.0, 0.0)]
        self.begin = made.now_ns

    def pass_time(self, seconds: float, watts: float) -> None:
        self.zone.watts = watts
        self.made.run(seconds)
        last = self.truth[-1]
        at = (self.made.now_ns - self.begin) / 1e9
        self.truth.append(PowerSample(at, last.joules + watts * seconds))

    def guard(self, **limits: object) -> EnergyGuard:
        return EnergyGuard(
            self.meter,
            clock=lambda: self.made.now_ns / 1e9,
            sleep=lambda seconds: self.pass_time(seconds, self.idle),
            **limits,  # type: ignore[arg-type]
        )

    def run(self, guard: EnergyGuard, seconds: float) -> int:
        """Steps until ``seconds`` have passed or the guard says stop; how many."""
        steps = 0
        while (self.made.now_ns - self.begin) / 1e9 < seconds:
            guard.before_step()
            self.pass_time(self.step, self.busy)
            steps += 1
            if guard.exceeded():
                break
        return steps

    def highest_mean(self) -> float:
        """Of every 10 s window that ends at a moment of the truth."""
        return max(
            (s.joules - joules_at(self.truth, s.seconds - WINDOW_SECONDS)) / WINDOW_SECONDS
            for s in self.truth
            if s.seconds >= WINDOW_SECONDS
        )


@pytest.mark.parametrize("step", [0.02, 0.4])
@pytest.mark.parametrize(("idle", "busy", "cap"), [(5.0, 40.0, 25.0), (10.0, 200.0, 25.0), (0.0, 30.0, 29.0)])
def test_pace_holds_the_cap_in_every_ten_seconds_and_wastes_little_of_it(
    made: Made, idle: float, busy: float, cap: float, step: float
) -> None:
    bench = Bench(made, idle, busy, step)
    guard = bench.guard(max_watts=cap, on_limit="pace")
    bench.run(guard, 25.0)
    assert bench.highest_mean() <= cap * 1.001
    one_step = busy * step / WINDOW_SECONDS  # steps are not cut: what one of them weighs is left over
    assert bench.truth[-1].joules / bench.truth[-1].seconds >= 0.95 * cap - one_step
    assert guard.paced_seconds > 0


def test_pace_does_not_wait_below_the_cap(made: Made) -> None:
    bench = Bench(made, 5.0, 20.0, 0.05)
    guard = bench.guard(max_watts=25.0, on_limit="pace")
    assert bench.run(guard, 12.0) == 240
    assert guard.paced_seconds == 0


def test_a_cap_that_waiting_cannot_hold_ends_the_execution(made: Made) -> None:
    bench = Bench(made, 30.0, 60.0, 0.05)
    guard = bench.guard(max_watts=25.0, on_limit="pace")
    bench.run(guard, 60.0)
    assert bench.truth[-1].seconds < 60.0
    assert guard.exceeded()


def test_stop_ends_once_the_mean_has_passed_the_cap(made: Made) -> None:
    bench = Bench(made, 5.0, 40.0, 0.05)
    guard = bench.guard(max_watts=25.0, on_limit="stop")
    assert 20 <= bench.run(guard, 60.0) <= 21  # the first judged mean is that of a second
    assert guard.finish().watts == pytest.approx(40.0)


def test_joules_are_a_budget_with_or_without_pace(made: Made) -> None:
    for on_limit in ("stop", "pace"):
        bench = Bench(made, 5.0, 40.0, 0.05)
        assert bench.run(bench.guard(max_joules=10.0, on_limit=on_limit), 60.0) == 5  # 2 J a step


def test_without_a_meter_nothing_is_stopped_or_paced(made: Made) -> None:
    guard = EnergyGuard(made.meter(), max_watts=1.0, max_joules=1.0, on_limit="pace", sleep=pytest.fail)
    guard.before_step()
    assert not guard.exceeded()
    assert guard.finish().joules is None


def test_a_gap_does_not_pass_for_rest(made: Made) -> None:
    bench = Bench(made, 5.0, 40.0, 0.05)
    guard = bench.guard(max_watts=39.0, on_limit="stop")
    bench.pass_time(0.9, 38.0)
    assert not guard.exceeded()
    made.fail("intel-rapl:0")
    bench.pass_time(5.0, 500.0)
    assert not guard.exceeded()  # unknown: taken to have gone on at 38 W
    assert mean_watts(guard._samples) == pytest.approx(38.0)


@given(
    st.lists(st.tuples(st.floats(0.01, 3.0), st.floats(0.0, 100.0)), min_size=1, max_size=30),
    st.floats(1.0, 100.0),
    st.floats(0.0, 50.0),
    st.floats(0.001, 2.0),
    st.floats(0.0, 50.0),
)
def test_the_wait_is_enough_whatever_came_before(
    history: list[tuple[float, float]], cap: float, power: float, step: float, idle: float
) -> None:
    samples = [PowerSample(0.0, 0.0)]
    for seconds, watts in history:
        samples.append(PowerSample(samples[-1].seconds + seconds, samples[-1].joules + watts * seconds))
    wait = pace_seconds(samples, cap, power * step, step, idle)
    assert wait >= 0
    if wait != float("inf"):
        waited = PowerSample(samples[-1].seconds + wait, samples[-1].joules + idle * wait)
        after = PowerSample(waited.seconds + step, waited.joules + power * step)
        tail = [waited, after] if wait else [after]
        assert (mean_watts([*samples, *tail]) or 0.0) <= cap * 1.0001 + 1e-9
