"""The meter, the shares and the limits at their bounds, number by number; no file, no thread, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

import pytest

from runtime.metrics.energy import EnergyMeter, difference
from runtime.metrics.limits import (
    SLICE_SECONDS,
    WINDOW_SECONDS,
    EnergyGuard,
    PowerSample,
    joules_at,
    mean_watts,
    pace_seconds,
)
from runtime.metrics.official import compute_metrics, percentile
from runtime.metrics.reading import EnergyReading
from runtime.metrics.shares import EnergyLedger, share_step

SECOND = 1_000_000_000


@dataclass
class Count:
    """A counter that a test turns by hand; ``broken``: it cannot be read."""

    kind: str = "package"
    domain: str = "package-0"
    joules_per_count: float = 1.0
    count_range: int | None = None
    count: int = 0
    broken: bool = False
    closed: int = 0

    def read(self) -> int:
        if self.broken:
            raise OSError("no")
        return self.count

    def close(self) -> None:
        self.closed += 1


@dataclass
class Machine:
    """Counters and a clock."""

    counters: tuple[Count, ...] = field(default_factory=lambda: (Count(),))
    now: int = 5 * SECOND

    def meter(self, **more: object) -> EnergyMeter:
        return EnergyMeter("made", self.counters, clock=lambda: self.now, sampling=False, **more)  # type: ignore[arg-type]

    def run(self, seconds: float, *counts: int) -> None:
        """Time passes, and each counter goes on by so much."""
        self.now += round(seconds * SECOND)
        for counter, more in zip(self.counters, counts, strict=False):
            counter.count += more


# ---- one difference ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "modulus", "before", "after", "seconds", "counts"),
    [
        ("package", None, 3, 10, 1.0, 7),
        ("package", None, 3, 3, 1.0, 0),
        ("package", None, 3, 2, 1.0, None),  # backwards, and nothing to wrap around
        ("package", None, 0, 1050, 1.0, 1050),  # 1000 W and what a refresh may be late
        ("package", None, 0, 1051, 1.0, None),
        ("dram", None, 0, 525, 1.0, 525),  # 500 W
        ("dram", None, 0, 526, 1.0, None),
        ("package", 1000, 990, 5, 0.5, 15),  # wrapped once
        ("package", 1000, 3, 1000, 0.99, 997),
        ("package", 1000, 990, 1001, 0.5, None),  # beyond what it can show
        ("package", 1000, 990, -1, 0.5, None),
        ("package", 1000, 3, 0, 0.99, 997),
        ("package", 1000, 3, 9, 0.999, 6),
        ("package", 1000, 3, 9, 1.0, None),  # at 1000 W it may have wrapped whole
        ("dram", 1000, 3, 9, 1.999, 6),
        ("dram", 1000, 3, 9, 2.0, None),
    ],
)
def test_a_difference_is_known_or_not(
    kind: str, modulus: int | None, before: int, after: int, seconds: float, counts: int | None
) -> None:
    assert difference(Count(kind, count_range=modulus), before, after, seconds) == counts


def test_counts_are_weighed_in_joules() -> None:
    coarse = Count(joules_per_count=2.0, count_range=500)
    assert difference(coarse, 0, 525, 1.0) is None  # not a count of this counter
    assert difference(coarse, 0, 400, 0.9) == 400  # 800 J in 0.9 s
    assert difference(coarse, 0, 400, 0.7) is None  # at most 750 J
    assert difference(coarse, 0, 1, 1.0) is None  # 1000 J are a whole turn


# ---- the meter -----------------------------------------------------------------------


def test_how_often_it_samples() -> None:
    def period(*counters: Count) -> float:
        return Machine(counters).meter().sample_seconds

    assert period(Count()) == 1.0
    assert period(Count(count_range=2000)) == 0.5  # 2 s to a wrap at 1000 W, a quarter of it
    assert period(Count("dram", count_range=400), Count(count_range=2000)) == 0.2
    assert period(Count(count_range=1), Count()) == 0.005
    assert period(Count(joules_per_count=1e-6, count_range=10**12)) == 1.0


def test_a_meter_has_counters_or_a_reason() -> None:
    with pytest.raises(ValueError, match="reason"):
        EnergyMeter("made", ())
    none = EnergyMeter("made", (), reason="none here", fix="buy one")
    assert (none.source, none.available, none.domains, none.fix) == ("none", False, (), "buy one")
    none.start()
    assert none.read() == EnergyReading(None, 0.0, "none", reason="none here")
    with pytest.raises(ValueError, match="not started"):
        Machine().meter().read()


def test_spans_and_their_parts() -> None:
    made = Machine((Count(), Count("dram", "package-0/dram")))
    meter = made.meter()
    begin = meter.start()
    made.run(2.0, 40, 6)
    reading = meter.read()
    assert (reading.joules, reading.seconds, reading.watts) == (46.0, 2.0, 23.0)
    assert dict(reading.domains) == {"package-0": 40.0, "package-0/dram": 6.0}
    assert (reading.gaps, reading.reason, reading.source) == ((), None, "made")
    part, mark = meter.advance(begin)
    assert part == reading
    made.run(1.0, 20, 0)
    assert meter.delta(mark).joules == 20.0
    assert meter.read(begin).joules == 66.0
    meter.close()
    assert [counter.closed for counter in made.counters] == [1, 1]


def test_a_package_that_stands_still_measures_nothing_and_its_memory_may() -> None:
    made = Machine((Count(), Count(domain="package-1"), Count("dram", "package-0/dram")))
    meter = made.meter()
    meter.start()
    made.run(0.25, 5, 0, 0)
    reading = meter.read()
    assert (reading.joules, reading.seconds) == (None, 0.25)
    assert reading.reason == "package-1 did not move in 250 ms"
    assert meter.delta().joules == 5.0
    made.run(0.25, 0, 5, 0)
    assert meter.read().joules == 10.0


def test_fine_counts_are_added_up_before_they_are_joules() -> None:
    made = Machine((Count(joules_per_count=0.25, count_range=8000),))
    meter = made.meter()
    assert meter.sample_seconds == 0.5
    meter.start()
    for _ in range(3):
        made.run(1.0, 7)
        meter.mark()
    assert meter.read().joules == 5.25


def test_the_latest_gaps_are_remembered() -> None:
    made = Machine()
    meter = made.meter()
    meter.start()
    for turn in range(2 * 4100):
        made.run(1.0, 10 + 5000 * (turn % 2))
        meter.mark()
    gaps = meter.read().gaps
    assert (len(gaps), gaps[-1]) == (4096, (8199.0, 8200.0))


def test_no_time_is_no_reading() -> None:
    made = Machine()
    meter = made.meter()
    meter.start()
    assert (meter.read().joules, meter.read().reason) == (None, "the span took no measurable time")
    made.now += 1
    made.counters[0].count = 0
    assert meter.delta().seconds == 1e-9


def test_a_failed_sample_is_a_gap_from_the_last_good_one_to_the_next() -> None:
    made = Machine()
    meter = made.meter()
    meter.start()
    made.run(1.0, 10)
    meter.mark()
    made.counters[0].broken = True
    for _ in range(2):
        made.run(1.0, 10)
        meter.mark()
    during = meter.read()
    assert (during.joules, during.seconds, during.gaps) == (10.0, 1.0, ((1.0, 3.0),))
    assert during.reason == "a counter could not be read: no"
    made.counters[0].broken = False
    made.run(1.0, 10)
    meter.mark()
    made.run(4.0, 40)
    reading = meter.read()
    assert (reading.joules, reading.seconds, reading.gaps) == (50.0, 5.0, ((1.0, 4.0),))
    assert reading.complete_joules is None
    later = meter.mark()
    made.run(1.0, 10)
    clean = meter.read(later)
    assert (clean.joules, clean.gaps, clean.reason) == (10.0, (), None)


def test_a_jump_is_a_gap_and_gaps_that_touch_are_one() -> None:
    made = Machine((Count(), Count("dram", "package-0/dram")))
    meter = made.meter()
    meter.start()
    for jump in (0, 5000, 5000, 0, 5000):
        made.run(1.0, 10, 3 + jump)
        meter.mark()
    reading = meter.read()
    assert reading.gaps == ((1.0, 3.0), (4.0, 5.0))
    assert (reading.joules, reading.seconds) == (26.0, 2.0)
    assert reading.reason == "package-0/dram jumped: reset, or wrapped more than once"
    assert (reading.gap_seconds, reading.coverage) == (3.0, 0.4)
    assert meter.read(meter.mark()).gaps == ()


def test_a_counter_that_could_not_be_read_at_the_start_leaves_a_gap() -> None:
    made = Machine()
    made.counters[0].broken = True
    meter = made.meter()
    meter.start()
    made.run(1.0, 10)
    assert meter.read().gaps == ((0.0, 1.0),)
    made.counters[0].broken = False
    made.run(1.0, 10)
    meter.mark()
    made.run(2.0, 10)
    assert (meter.read().joules, meter.read().gaps) == (10.0, ((0.0, 2.0),))
    assert meter.read().watts is None


# ---- shares --------------------------------------------------------------------------


def test_what_cannot_be_divided_goes_to_the_largest_remainders_then_to_the_earlier() -> None:
    units = 2**52  # of a joule: its last places. Thirds leave one of them, ninths two.
    assert [share * units for share in share_step(1.0, [1, 1, 1])] == [units // 3 + 1, units // 3, units // 3]
    assert [share * units for share in share_step(1.0, [1, 5, 3])] == [
        units // 9 + 1, units * 5 // 9 + 1, units // 3,
    ]  # fmt: skip
    assert share_step(3.0, [0, 0, 0, 0]) == [0.75] * 4
    assert share_step(5.0, [0, 3, 2]) == [0.0, 3.0, 2.0]


def test_a_ledger_charges_whoever_is_open() -> None:
    made = Machine((Count(), Count("dram", "package-0/dram")))
    ledger = EnergyLedger(made.meter())
    ledger.open("a")
    ledger.open("b")
    made.run(1.0, 12, 4)
    assert ledger.step({}).joules == 16.0  # nobody had work: evenly
    made.run(1.0, 8, 0)
    ledger.step({"b": 3.0, "a": 1.0})
    assert (ledger.joules("a"), ledger.joules("b")) == (10.0, 14.0)
    made.run(1.0, 8, 0)  # after the last step: nobody's
    a = ledger.close("a")
    assert (a.joules, a.seconds, dict(a.domains)) == (10.0, 3.0, {"package-0": 8.0, "package-0/dram": 2.0})
    assert ledger.close("b").joules == 14.0
    assert dict(ledger.totals) == {"package-0": 20.0, "package-0/dram": 4.0}
    with pytest.raises(ValueError, match="no execution"):
        ledger.step({})
    ledger.open("c")
    made.run(1.0, 5, 0)
    reading = ledger.close("c")
    assert (reading.joules, reading.reason) == (None, "shorter than the counter's refresh")
    assert (reading.seconds, reading.source) == (1.0, "made")


# ---- limits --------------------------------------------------------------------------

SAMPLES = [PowerSample(0.0, 0.0), PowerSample(4.0, 40.0), PowerSample(6.0, 100.0)]


def test_joules_at_a_moment() -> None:
    assert [joules_at(SAMPLES, s) for s in (-1, 0, 1, 4, 5, 6, 7)] == [0, 0, 10, 40, 70, 100, 100]
    assert joules_at(SAMPLES[1:], 0) == 40


def test_the_mean_of_a_window() -> None:
    assert mean_watts(SAMPLES[:1]) is None
    assert mean_watts(SAMPLES[:2]) == 10.0
    assert mean_watts(SAMPLES) == pytest.approx(100 / 6)
    assert mean_watts(SAMPLES, window=2.0) == 30.0
    assert mean_watts(SAMPLES, window=3.0) == pytest.approx(70 / 3)
    assert mean_watts([PowerSample(1.0, 1.0), PowerSample(1.0, 2.0)]) is None
    long = [PowerSample(0.0, 0.0), PowerSample(10.0, 10.0), PowerSample(20.0, 210.0)]
    assert mean_watts(long) == 20.0  # the last ten seconds


def test_how_long_a_step_waits() -> None:
    start = [PowerSample(0.0, 0.0)]
    assert pace_seconds(start, 20.0, 20.0, 1.0, 5.0) == 0.0  # exactly the cap
    # w + 1 seconds at 20 W hold 40 J and 5 W of waiting: 40 + 5 w = 20 (w + 1).
    assert pace_seconds(start, 20.0, 40.0, 1.0, 5.0) == pytest.approx(1.34)
    assert pace_seconds(start, 20.0, 40.0, 1.0, 0.0) == pytest.approx(1.0)
    assert pace_seconds(start, 20.0, 40.0, 1.0, 20.0) == inf
    assert pace_seconds(start, 20.0, 40.0, 1.0, 25.0) == inf
    assert pace_seconds(start, 20.0, 201.0, 1.0, 0.0) == inf  # more than a window may hold
    assert pace_seconds(start, 20.0, 200.0, 1.0, 0.0) == pytest.approx(9.0)
    ran = [PowerSample(0.0, 0.0), PowerSample(10.0, 200.0)]  # 20 W for a whole window
    assert pace_seconds(ran, 20.0, 20.0, 1.0, 0.0) == 0.0
    assert pace_seconds(ran, 20.0, 21.0, 1.0, 0.0) == pytest.approx(0.05)
    assert pace_seconds(ran, 20.0, 200.0, 1.0, 0.0) == pytest.approx(9.0)  # all of it is forgotten by then
    assert pace_seconds(ran, 20.0, 180.0, 1.0, 2.0) == pytest.approx(8.89)
    assert pace_seconds(ran, 20.0, 10.0, 1.0, 5.0, window=2.0) == 0.0


def guarded(made: Machine, **limits: object) -> tuple[EnergyGuard, list[float]]:
    """A guard over the machine, and how long it slept; nothing is drawn meanwhile."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        made.run(seconds)

    guard = EnergyGuard(made.meter(), clock=lambda: made.now / SECOND, sleep=sleep, **limits)  # type: ignore[arg-type]
    return guard, slept


def test_joules_are_reached_when_they_are_used_up() -> None:
    made = Machine()
    guard, _ = guarded(made, max_joules=10.0)
    seen = []
    for counts in (9, 1, 0):
        made.run(0.1, counts)
        seen.append(guard.exceeded())
    assert seen == [False, True, True]
    assert guard.finish().joules == 10.0
    assert not guarded(Machine())[0].exceeded()


def test_a_mean_is_judged_from_the_first_second_on_and_only_above_the_cap() -> None:
    made = Machine()
    guard, slept = guarded(made, max_watts=20.0)
    made.run(0.9, 90)
    guard.before_step()
    assert not guard.exceeded()
    made.run(0.1)
    assert guard.exceeded()  # 90 J in a second
    made = Machine()
    guard, _ = guarded(made, max_watts=20.0)
    made.run(1.0, 20)
    assert not guard.exceeded()  # the cap itself is kept
    made.run(1.0, 21)
    assert guard.exceeded()
    assert slept == []


def test_pacing_sleeps_in_slices_until_the_step_fits() -> None:
    made = Machine()
    guard, slept = guarded(made, max_watts=20.0, on_limit="pace")
    guard.before_step()
    assert slept == [], "nothing is known of a step yet"
    made.run(1.0, 30)
    assert not guard.exceeded()
    guard.before_step()
    # 60 J in 2 s and the wait: a second of it, in tenths.
    assert sum(slept) == pytest.approx(1.0)
    assert max(slept) == SLICE_SECONDS
    assert guard.paced_seconds == pytest.approx(1.0)
    assert not guard.exceeded()


def test_a_step_that_no_waiting_can_hold_ends_the_execution() -> None:
    made = Machine()
    guard, slept = guarded(made, max_watts=20.0, on_limit="pace")
    made.run(1.0, 201)
    assert not guard.exceeded()
    guard.before_step()
    assert slept == []
    assert guard.exceeded()
    assert WINDOW_SECONDS == 10.0


def test_the_samples_that_are_kept_reach_a_window_further_back_than_the_mean() -> None:
    made = Machine()
    guard, _ = guarded(made, max_watts=900.0)
    for _ in range(30):
        made.run(1.0, 10)
        assert not guard.exceeded()
    assert [sample.seconds - 5.0 for sample in guard._samples] == list(range(9, 31))
    made.run(100.0, 10)
    guard.exceeded()
    assert [sample.seconds - 5.0 for sample in guard._samples] == [30.0, 130.0]


def test_a_gap_goes_on_at_the_mean_and_before_any_mean_at_nothing() -> None:
    made = Machine()
    guard, _ = guarded(made, max_joules=900.0)
    seen = []
    for broken, counts in ((True, 0), (False, 0), (False, 24), (True, 0)):
        made.counters[0].broken = broken
        made.run(1.0, counts)
        guard.exceeded()
        seen.append(guard._samples[-1].joules)
    assert seen == [0.0, 0.0, 24.0, 32.0]  # 24 J in 3 s


def test_a_wait_is_for_a_step_as_long_as_those_before() -> None:
    made = Machine()
    guard, slept = guarded(made, max_watts=20.0, on_limit="pace")
    made.run(0.5, 15)
    assert not guard.exceeded()
    guard.before_step()
    assert sum(slept) == pytest.approx(0.5)  # 30 J in 1.5 s


# ---- official metrics ----------------------------------------------------------------


def test_times_may_touch_and_may_not_cross() -> None:
    def at(started: int, finished: int, *tokens: int) -> float | None:
        return compute_metrics(
            started_ns=started, finished_ns=finished, token_times_ns=tokens, energy=None
        ).tokens_per_sec

    assert at(7, 7) is None
    assert at(7, 8, 7, 7, 8) == 3 * SECOND
    for wrong in ((7, 6), (7, 9, 6), (7, 9, 8, 7), (7, 9, 10)):
        with pytest.raises(ValueError, match="ascend"):
            at(*wrong)


def test_units_are_the_requirements() -> None:
    metrics = compute_metrics(
        started_ns=0,
        finished_ns=4 * SECOND,
        token_times_ns=[SECOND, 3 * SECOND],
        energy=EnergyReading(40.0, 4.0, "made"),
        memory_peak_bytes=72_000_000,
        op_times_ns={"linear": 1_500_000, "attention": 1},
    )
    assert metrics.memory_peak_mb == 72.0
    assert dict(metrics.op_time_ms or {}) == {"attention": 1e-6, "linear": 1.5}
    assert (metrics.watts_avg, metrics.tokens_per_watt) == (10.0, 0.05)
    assert (metrics.latency_p50_ms, metrics.latency_p95_ms) == (1000.0, 2000.0)


def test_percentiles_are_of_the_nearest_rank() -> None:
    values = list(range(20, 0, -1))
    assert [percentile(values, p) for p in (1, 5, 6, 50, 95, 96, 100)] == [1, 1, 2, 10, 19, 20, 20]
    assert percentile([], 50) is None
    for percent in (0, -1, 101, 100.1):
        with pytest.raises(ValueError, match="percent"):
            percentile(values, percent)
