"""The official metrics have the requirements' names, units and formulas, and unknown is never 0."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.metrics.diagnostics import Facts, compute_diagnostics
from runtime.metrics.official import (
    OfficialMetrics,
    compute_metrics,
    metrics_envelope,
    percentile,
    token_latencies_ns,
)
from runtime.metrics.reading import EnergyReading

SECOND = 1_000_000_000
TIMES = [SECOND, SECOND + 100_000_000, SECOND + 300_000_000, SECOND + 400_000_000]


def metrics_of(energy: EnergyReading | None = None, times: list[int] = TIMES) -> OfficialMetrics:
    return compute_metrics(started_ns=0, finished_ns=2 * SECOND, token_times_ns=times, energy=energy)


def test_the_formulas_are_the_requirements() -> None:
    metrics = metrics_of(EnergyReading(joules=36.0, seconds=2.0, source="powercap"))
    assert metrics.tokens_total == 4
    assert metrics.tokens_per_sec == 2.0  # 4 tokens in 2 s
    assert metrics.latency_total_ms == 2000.0
    assert metrics.latency_p50_ms == 100.0
    assert metrics.latency_p95_ms == 1000.0  # the first token's, prefill included
    assert metrics.watts_avg == 18.0
    assert metrics.tokens_per_watt == pytest.approx(2.0 / 18.0)


def test_the_json_has_exactly_the_names_of_section_4() -> None:
    body = metrics_envelope(
        metrics_of(), engine_version="0.1.0", model="m", backend="cpu_avx2", quantization="q4_k_m"
    )
    assert list(body) == ["engine_version", "model", "backend", "quantization", "metrics"]
    assert list(json.loads(json.dumps(body))["metrics"]) == [
        "tokens_total",
        "tokens_per_sec",
        "latency_total_ms",
        "latency_p50_ms",
        "latency_p95_ms",
        "watts_avg",
        "tokens_per_watt",
        "memory_peak_mb",
    ]


def test_op_times_appear_only_where_they_were_asked_for() -> None:
    metrics = compute_metrics(
        started_ns=0, finished_ns=1, token_times_ns=[], energy=None, op_times_ns={"matmul": 2_500_000}
    )
    assert metrics.to_json()["op_time_ms"] == {"matmul": 2.5}


def test_without_a_meter_energy_is_null_and_the_reason_is_said() -> None:
    reading = EnergyReading.none("no RAPL counter: this is a virtual machine")
    metrics = metrics_of(reading)
    assert metrics.watts_avg is None
    assert metrics.tokens_per_watt is None
    diagnostics = compute_diagnostics(
        metrics,
        Facts(started_ns=0, finished_ns=2 * SECOND, token_times_ns=TIMES, energy=reading, prompt_tokens=8),
    ).to_json()
    assert diagnostics["energy"] == {
        "source": "none",
        "reason": "no RAPL counter: this is a virtual machine",
        "domains": {},
        "gaps": 0,
        "gap_seconds": 0,
    }
    for key in ("watts_avg", "tokens_per_watt", "energy_joules", "tokens_per_joule"):
        assert "virtual machine" in diagnostics["unknown"][key]


def test_every_null_has_a_reason() -> None:
    for times in ([], TIMES[:1], TIMES):
        metrics = metrics_of(times=times)
        diagnostics = compute_diagnostics(
            metrics,
            Facts(started_ns=0, finished_ns=2 * SECOND, token_times_ns=times, energy=None, prompt_tokens=8),
        ).to_json()
        nulls = {key for key, value in (metrics.to_json() | diagnostics).items() if value is None}
        assert nulls <= set(diagnostics["unknown"])


def test_an_execution_without_tokens_has_no_latencies_and_a_rate_of_zero() -> None:
    metrics = metrics_of(times=[])
    assert (metrics.tokens_total, metrics.tokens_per_sec) == (0, 0.0)
    assert metrics.latency_p50_ms is None


def test_energy_of_a_span_measured_in_part_is_no_total_and_below_the_coverage_no_mean() -> None:
    half = EnergyReading(joules=10.0, seconds=1.0, source="powercap", gaps=((0.5, 1.5),), reason="EIO")
    assert half.watts is None
    assert half.complete_joules is None
    most = EnergyReading(joules=19.0, seconds=1.9, source="powercap", gaps=((0.5, 0.6),), reason="EIO")
    assert most.watts == pytest.approx(10.0)
    assert most.complete_joules is None


def test_diagnostics_split_prefill_from_decode() -> None:
    diagnostics = compute_diagnostics(
        metrics_of(),
        Facts(
            started_ns=0,
            finished_ns=2 * SECOND,
            token_times_ns=TIMES,
            energy=EnergyReading(joules=2.0, seconds=2.0, source="perf"),
            prompt_tokens=8,
            forward_ns=19 * SECOND // 10,
            bytes_per_token=800_000_000,
        ),
    )
    assert diagnostics.ttft_ms == 1000.0
    assert diagnostics.prefill_tokens_per_sec == 8.0
    assert diagnostics.decode_tokens_per_sec == pytest.approx(3 / 0.4)
    assert diagnostics.gb_per_s == pytest.approx(0.8 * 7.5)
    assert diagnostics.runtime_overhead == pytest.approx(0.05)
    assert diagnostics.tokens_per_joule == 2.0


def test_contradictory_times_are_refused() -> None:
    for started, finished, times in ((5, 4, []), (0, 10, [3, 2]), (5, 10, [4]), (0, 10, [11])):
        with pytest.raises(ValueError, match="ascend"):
            compute_metrics(started_ns=started, finished_ns=finished, token_times_ns=times, energy=None)


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=60), st.integers(1, 100))
def test_a_percentile_is_the_least_value_that_covers_its_share(values: list[int], percent: int) -> None:
    found = percentile(values, percent)
    assert found in values
    assert sum(v <= found for v in values) * 100 >= percent * len(values)
    assert sum(v < found for v in values) * 100 < percent * len(values)


@given(st.lists(st.integers(0, 10**9), max_size=50))
def test_latencies_add_up_to_the_time_of_the_last_token(steps: list[int]) -> None:
    times, now = [], 17
    for step in steps:
        now += step
        times.append(now)
    assert sum(token_latencies_ns(17, times)) == now - 17
