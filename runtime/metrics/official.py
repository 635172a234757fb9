"""The official metrics of an execution, and the JSON they travel in.

Names, units and formulas are section 4 of the requirements; nothing outside
:class:`OfficialMetrics` is official. Everything else that is worth knowing goes
into :class:`Diagnostics`, which stands beside the metrics, never among them.

An unknown value is None (``null`` in JSON) and ``Diagnostics.unknown`` says
why; it is never 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runtime.metrics.reading import EnergyReading

NS_PER_MS = 1_000_000
NS_PER_SECOND = 1_000_000_000


@dataclass(frozen=True)
class OfficialMetrics:
    """The metrics of one execution. Times come from the monotonic clock.

    The execution's time is its *active* period: from the moment the scheduler
    admitted it to its end. Waiting in the queue is not part of it
    (``diagnostics.queue_ms``).
    """

    tokens_total: int  # tokens generated; the prompt's do not count
    tokens_per_sec: float | None  # tokens_total / total execution time
    latency_total_ms: float  # total execution time
    latency_p50_ms: float | None  # percentiles of the latency per token, see token_latencies_ns
    latency_p95_ms: float | None
    watts_avg: float | None  # joules / seconds of the active period
    tokens_per_watt: float | None  # tokens_per_sec / watts_avg
    memory_peak_mb: float | None  # megabytes of 10^6 bytes
    op_time_ms: Mapping[str, float] | None = None  # by kind of op, where the plan asks for it

    def to_json(self) -> dict[str, object]:
        """The ``metrics`` object; ``op_time_ms`` only where it was asked for."""
        body: dict[str, object] = {
            "tokens_total": self.tokens_total,
            "tokens_per_sec": self.tokens_per_sec,
            "latency_total_ms": self.latency_total_ms,
            "latency_p50_ms": self.latency_p50_ms,
            "latency_p95_ms": self.latency_p95_ms,
            "watts_avg": self.watts_avg,
            "tokens_per_watt": self.tokens_per_watt,
            "memory_peak_mb": self.memory_peak_mb,
        }
        if self.op_time_ms is not None:
            body["op_time_ms"] = dict(self.op_time_ms)
        return body


def token_latencies_ns(started_ns: int, token_times_ns: Sequence[int]) -> list[int]:
    """The latency of every generated token: the time since the one before it.

    The first token's begins where the execution does, so it holds the prefill,
    and the latencies add up to the time of the last token.
    """
    previous = started_ns
    latencies = []
    for time_ns in token_times_ns:
        latencies.append(time_ns - previous)
        previous = time_ns
    return latencies


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The nearest-rank percentile: the least value that ``percent`` of all do not exceed.

    It is always one of the values (no interpolation). None of no values.
    """
    if not values:
        return None
    if not 0 < percent <= 100:
        raise ValueError(f"percent must lie in (0, 100], not {percent}")
    rank = math.ceil(percent * len(values) / 100)
    return sorted(values)[max(rank, 1) - 1]


def compute_metrics(
    *,
    started_ns: int,
    finished_ns: int,
    token_times_ns: Sequence[int],
    energy: EnergyReading | None,
    op_times_ns: Mapping[str, int] | None = None,
    memory_peak_bytes: int | None = None,
) -> OfficialMetrics:
    """The official metrics from the clock, the meter and the backend.

    ``started_ns`` … ``finished_ns`` is the active period, ``token_times_ns`` when
    each generated token was emitted, ascending, all on one monotonic clock.
    Raises ValueError if the times contradict each other.
    """
    total_ns = finished_ns - started_ns
    latencies = token_latencies_ns(started_ns, token_times_ns)
    if total_ns < 0 or any(ns < 0 for ns in latencies) or (latencies and token_times_ns[-1] > finished_ns):
        raise ValueError("token times must ascend between started_ns and finished_ns")
    tokens = len(token_times_ns)
    rate = tokens / (total_ns / NS_PER_SECOND) if total_ns > 0 else None
    watts = energy.watts if energy is not None else None
    p50, p95 = percentile(latencies, 50), percentile(latencies, 95)
    return OfficialMetrics(
        tokens_total=tokens,
        tokens_per_sec=rate,
        latency_total_ms=total_ns / NS_PER_MS,
        latency_p50_ms=None if p50 is None else p50 / NS_PER_MS,
        latency_p95_ms=None if p95 is None else p95 / NS_PER_MS,
        watts_avg=watts,
        tokens_per_watt=rate / watts if rate is not None and watts else None,
        memory_peak_mb=None if memory_peak_bytes is None else memory_peak_bytes / 1e6,
        op_time_ms=None
        if op_times_ns is None
        else {op: ns / NS_PER_MS for op, ns in sorted(op_times_ns.items())},
    )


def metrics_envelope(
    metrics: OfficialMetrics, *, engine_version: str, model: str, backend: str, quantization: str
) -> dict[str, object]:
    """The JSON of section 4.8: what ran, and its official metrics."""
    return {
        "engine_version": engine_version,
        "model": model,
        "backend": backend,
        "quantization": quantization,
        "metrics": metrics.to_json(),
    }
