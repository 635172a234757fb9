"""What is worth knowing of an execution beside its official metrics.

None of it is official: it is published under ``diagnostics``, and each unknown
value has its reason in ``diagnostics.unknown``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

from runtime.metrics.official import NS_PER_MS, NS_PER_SECOND, OfficialMetrics
from runtime.metrics.reading import SOURCE_NONE, EnergyReading

NO_TIME = "the execution took no measurable time"


@dataclass(frozen=True)
class Diagnostics:
    """Beside the metrics of one execution; field names are the JSON keys.

    ``reused_tokens``, of the prompt, came from the prefix cache and were not computed.
    ``drafted_tokens`` were guessed and verified, ``kept_tokens`` of them were right; latencies are those
    between emitted tokens, however many a step gave.
    ``bytes_per_token`` is what the backend reads from memory for a decoded
    token (weights and KV), ``gb_per_s`` that times the decode rate in 10^9 bytes.
    ``tokens_per_joule`` is generated tokens over joules: what
    ``tokens_per_watt`` is dimensionally, over the same period.
    ``runtime_overhead`` is the share (0 … 1) of the active period spent outside
    the compiled forward pass. ``barrier_wait_share`` is the share of the forward
    passes that the calling thread waited for the engine's other threads.
    """

    prompt_tokens: int
    reused_tokens: int
    drafted_tokens: int
    kept_tokens: int
    ttft_ms: float | None
    prefill_tokens_per_sec: float | None
    decode_tokens_per_sec: float | None
    bytes_per_token: int | None
    gb_per_s: float | None
    energy_joules: float | None
    tokens_per_joule: float | None
    runtime_overhead: float | None
    barrier_wait_share: float | None
    queue_ms: float | None
    logits_digest: str | None
    energy: Mapping[str, object]
    unknown: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, object] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """The ``diagnostics`` object; entries of ``extra`` stand beside the named ones."""
        body: dict[str, object] = {
            f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("unknown", "extra")
        }
        body["energy"] = dict(self.energy)
        body |= {key: value for key, value in self.extra.items() if key not in body}
        body["unknown"] = dict(self.unknown)
        return body


@dataclass(frozen=True)
class Facts:
    """What an execution's diagnostics are computed from; times in monotonic nanoseconds.

    ``forward_ns`` is the time spent inside the compiled forward pass for this execution;
    None in a batch, where a step serves several. ``waited``: nanoseconds that thread 0 waited
    for others, and those of the forward passes, over all of its steps. ``drafted``: tokens drafted,
    and kept.
    """

    started_ns: int
    finished_ns: int
    token_times_ns: Sequence[int]
    energy: EnergyReading | None
    prompt_tokens: int
    reused_tokens: int = 0
    drafted: tuple[int, int] = (0, 0)
    forward_ns: int | None = None
    waited: tuple[int, int] | None = None
    bytes_per_token: int | None = None
    queue_ms: float | None = None
    logits_digest: str | None = None
    extra: Mapping[str, object] = field(default_factory=dict)

    @property
    def first_ns(self) -> int | None:
        """Time to the first token."""
        return self.token_times_ns[0] - self.started_ns if self.token_times_ns else None

    @property
    def prefill_rate(self) -> float | None:
        """Prompt tokens computed a second to the first token, whose logits come out of the prefill."""
        computed = self.prompt_tokens - self.reused_tokens
        return computed * NS_PER_SECOND / self.first_ns if self.first_ns else None

    @property
    def decode_rate(self) -> float | None:
        """The *other* tokens a second, from the first to the last."""
        times = self.token_times_ns
        decode_ns = times[-1] - times[0] if len(times) > 1 else None
        return (len(times) - 1) * NS_PER_SECOND / decode_ns if decode_ns else None

    @property
    def overhead(self) -> float | None:
        """Share of the active period outside the compiled code."""
        total_ns = self.finished_ns - self.started_ns
        if self.forward_ns is None or total_ns <= 0:
            return None
        return max(0.0, 1 - self.forward_ns / total_ns)

    @property
    def wait_share(self) -> float | None:
        """Share of the forward passes in which thread 0 waited."""
        return self.waited[0] / self.waited[1] if self.waited is not None and self.waited[1] > 0 else None


def compute_diagnostics(metrics: OfficialMetrics, facts: Facts) -> Diagnostics:
    """Diagnostics of an execution, over the times that :func:`compute_metrics` took."""
    reading = facts.energy if facts.energy is not None else EnergyReading.none("energy was not measured")
    decode_rate, size = facts.decode_rate, facts.bytes_per_token
    joules = reading.complete_joules
    found = Diagnostics(
        prompt_tokens=facts.prompt_tokens,
        reused_tokens=facts.reused_tokens,
        drafted_tokens=facts.drafted[0],
        kept_tokens=facts.drafted[1],
        ttft_ms=None if facts.first_ns is None else facts.first_ns / NS_PER_MS,
        prefill_tokens_per_sec=facts.prefill_rate,
        decode_tokens_per_sec=decode_rate,
        bytes_per_token=size,
        gb_per_s=size * decode_rate / 1e9 if size and decode_rate else None,
        energy_joules=joules,
        tokens_per_joule=metrics.tokens_total / joules if joules else None,
        runtime_overhead=facts.overhead,
        barrier_wait_share=facts.wait_share,
        queue_ms=facts.queue_ms,
        logits_digest=facts.logits_digest,
        energy=energy_json(reading),
        extra=facts.extra,
    )
    return replace(found, unknown=_time_reasons(metrics, facts, found) | _energy_reasons(metrics, reading))


def _time_reasons(metrics: OfficialMetrics, facts: Facts, found: Diagnostics) -> dict[str, str]:
    """Why each value is unknown that is, those of energy aside."""
    unknown: dict[str, str] = {}
    if facts.first_ns is None:
        of_tokens = ("latency_p50_ms", "latency_p95_ms", "ttft_ms", "prefill_tokens_per_sec")
        unknown |= dict.fromkeys(of_tokens, "no token was generated")
    if found.decode_tokens_per_sec is None:
        unknown["decode_tokens_per_sec"] = "fewer than two tokens were generated"
    if metrics.tokens_per_sec is None:
        unknown["tokens_per_sec"] = NO_TIME
    if found.bytes_per_token is None:
        unknown["bytes_per_token"] = "the bundle does not say how many bytes a token reads"
    if found.gb_per_s is None:
        unknown["gb_per_s"] = unknown.get("bytes_per_token") or unknown["decode_tokens_per_sec"]
    if found.runtime_overhead is None:
        unknown["runtime_overhead"] = (
            "the steps were shared with other executions, or waited for a cap on power"
            if facts.forward_ns is None
            else unknown["tokens_per_sec"]
        )
    if found.barrier_wait_share is None:
        unknown["barrier_wait_share"] = "no step was run"
    if found.queue_ms is None:
        unknown["queue_ms"] = "the execution did not go through a queue"
    if found.logits_digest is None:
        unknown["logits_digest"] = "no logits were computed"
    if metrics.memory_peak_mb is None:
        unknown["memory_peak_mb"] = "the operating system did not say"
    return unknown


def _energy_reasons(metrics: OfficialMetrics, reading: EnergyReading) -> dict[str, str]:
    reason = reading.reason or "energy was not measured"
    unknown: dict[str, str] = {}
    if metrics.watts_avg is None:
        unknown["watts_avg"] = reason
    if metrics.tokens_per_watt is None:
        unknown["tokens_per_watt"] = NO_TIME if metrics.watts_avg else reason
    if reading.complete_joules is None:
        unknown["energy_joules"] = reason
    if not reading.complete_joules:
        unknown["tokens_per_joule"] = reason
    return unknown


#: From this share of waiting on, more threads may well cost more than they bring.
MOST_WAITING = 0.25


def waiting_notes(waited: tuple[int, int], threads: int) -> tuple[str, ...]:
    """A note where an execution's threads waited for each other for more than ``MOST_WAITING``."""
    share = waited[0] / waited[1] if waited[1] > 0 else 0.0
    if share <= MOST_WAITING or threads < 2:
        return ()
    return (
        f"the {threads} threads waited for each other {share:.0%} of the time: something else uses "
        "their CPUs, or two of these are one core; fewer threads may be faster",
    )


def energy_json(reading: EnergyReading) -> dict[str, object]:
    """Where the energy came from: ``{source, reason, domains, gaps, gap_seconds}``."""
    return {
        "source": reading.source,
        "reason": reading.reason or ("no meter" if reading.source == SOURCE_NONE else None),
        "domains": dict(reading.domains),
        "gaps": len(reading.gaps),
        "gap_seconds": reading.gap_seconds,
    }
