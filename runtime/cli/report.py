"""What a finished execution says of itself: the official metrics, diagnostics, a table for people."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from runtime.bundle.format import bundle_notes
from runtime.bundle.plan import ResolvedPlan
from runtime.bundle.reader import Bundle
from runtime.cli.output import note, print_error, table
from runtime.engine.loop import Completion
from runtime.engine.tokenizer import Tokenizer
from runtime.engine.types import TokenEvent
from runtime.errors import EngineError
from runtime.metrics.diagnostics import Diagnostics, Facts, compute_diagnostics, waiting_notes
from runtime.metrics.official import OfficialMetrics, compute_metrics, metrics_envelope
from runtime.metrics.reading import EnergyReading
from runtime.version import ENGINE_VERSION


@dataclass(frozen=True)
class Report:
    """A completion with its metrics, ready to be shown. ``plan`` is the run's own, overrides applied.

    ``execution_id`` is that of its record, None where none was written. ``logprobs``: an entry a token,
    where they were asked for.
    """

    bundle: Bundle
    plan: ResolvedPlan
    completion: Completion
    metrics: OfficialMetrics
    diagnostics: Diagnostics
    execution_id: str | None = None
    logprobs: tuple[dict[str, Any], ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """The JSON of the requirements (section 4.8), and beside it the result and diagnostics."""
        sequence = self.completion.sequence
        body: dict[str, Any] = {"execution_id": self.execution_id}
        body |= metrics_envelope(
            self.metrics,
            engine_version=ENGINE_VERSION,
            model=self.plan.model,
            backend=self.plan.backend,
            quantization=self.plan.quantization.recipe,
        )
        body |= {
            "plan": {"name": self.plan.name, "digest": self.plan.digest},
            "bundle": {"name": self.bundle.path.name, "digest": self.bundle.digest},
            "result": sequence.text,
            "token_ids": list(sequence.token_ids),
            "stop_reason": str(sequence.stop_reason),
            "diagnostics": self.diagnostics.to_json(),
        }
        if self.logprobs is not None:
            body["logprobs"] = list(self.logprobs)
        if sequence.error is not None:
            body["error"] = sequence.error.to_json()
        return body

    def to_text(self) -> str:
        """The metrics as a small table; unknown values as ``-`` with the reason."""
        m, d = self.metrics, self.diagnostics
        plan, stop = self.plan, str(self.completion.sequence.stop_reason)
        what = f"{plan.model} {plan.quantization.recipe} {plan.backend}, {plan.execution.threads} threads"
        rates = f"decode {_number(d.decode_tokens_per_sec)}/s, prefill {_number(d.prefill_tokens_per_sec)}/s"
        energy = d.unknown.get("watts_avg", f"{_number(d.energy_joules)} J from {d.energy['source']}")
        rows: list[tuple[str, ...]] = [
            ("execution", stop, what),
            ("record", self.execution_id or "none", ""),
            ("tokens_total", str(m.tokens_total), f"after a prompt of {d.prompt_tokens}"),
            ("tokens_per_sec", _number(m.tokens_per_sec), rates),
            ("latency_total_ms", _number(m.latency_total_ms), f"first token after {_number(d.ttft_ms)} ms"),
            ("latency_p50_ms", _number(m.latency_p50_ms), f"p95 {_number(m.latency_p95_ms)} ms"),
            ("watts_avg", _number(m.watts_avg), energy),
            ("tokens_per_watt", _number(m.tokens_per_watt), "tokens per joule" if m.watts_avg else ""),
            ("memory_peak_mb", _number(m.memory_peak_mb), _traffic(d)),
        ]
        if m.op_time_ms:
            rows += [(f"op {name}", f"{ms:.1f}", "ms") for name, ms in m.op_time_ms.items() if ms > 0]
        rows.append(("logits_digest", (d.logits_digest or "-")[:16], ""))
        notes = d.extra.get("notes")
        said = "".join(f"\nnote: {text}" for text in notes) if isinstance(notes, list) else ""
        return table(rows, stream=sys.stderr) + said


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _traffic(d: Diagnostics) -> str:
    overhead = "" if d.runtime_overhead is None else f"overhead {d.runtime_overhead:.1%}"
    traffic = "" if d.gb_per_s is None else f"{d.gb_per_s:.1f} GB/s of weights and KV"
    share = d.barrier_wait_share
    waiting = f"threads waiting {share:.0%}" if share else ""
    return ", ".join(part for part in (traffic, overhead, waiting) if part)


def recorded(report: Report) -> Report:
    """Writes the execution's record; if that fails, says why on stderr, since its text is out already."""
    from runtime.control.record import record_completion
    from runtime.control.records import RecordStore

    record = record_completion(
        report.bundle,
        report.plan,
        report.completion,
        report.metrics.to_json(),
        report.diagnostics.to_json(),
    )
    try:
        with RecordStore() as store:
            store.append(record)
    except EngineError as error:
        note("this execution is not in the records:")
        print_error(error)
        return report
    return replace(report, execution_id=record["execution_id"])


def make_report(
    bundle: Bundle,
    plan: ResolvedPlan,
    completion: Completion,
    energy: EnergyReading,
    *,
    paced_seconds: float = 0.0,
    op_times_ns: dict[str, int] | None = None,
    logprobs: tuple[dict[str, Any], ...] | None = None,
) -> Report:
    """Metrics and diagnostics of a completion that ran alone."""
    sequence = completion.sequence
    metrics = compute_metrics(
        started_ns=completion.started_ns,
        finished_ns=completion.finished_ns,
        token_times_ns=sequence.token_ns,
        energy=energy,
        op_times_ns=op_times_ns,
        memory_peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )
    diagnostics = compute_diagnostics(
        metrics,
        Facts(
            started_ns=completion.started_ns,
            finished_ns=completion.finished_ns,
            token_times_ns=sequence.token_ns,
            energy=energy,
            prompt_tokens=sequence.n_prompt,
            reused_tokens=sequence.reused_tokens,
            drafted=sequence.drafted,
            waited=(completion.wait_ns, completion.forward_ns),
            forward_ns=completion.forward_ns if paced_seconds == 0 else None,
            bytes_per_token=bytes_per_token(bundle, sequence.n_prompt + len(sequence.token_ids) // 2),
            logits_digest=sequence.logits_digest if sequence.token_ids else None,
            extra={
                "steps": completion.n_steps,
                "paced_ms": paced_seconds * 1000,
                "notes": [
                    *bundle_notes(bundle.manifest.details),
                    *waiting_notes((completion.wait_ns, completion.forward_ns), plan.execution.threads),
                ],
            },
        ),
    )
    return Report(bundle, plan, completion, metrics, diagnostics, logprobs=logprobs)


def logprobs_of(tokenizer: Tokenizer, events: Sequence[TokenEvent]) -> tuple[dict[str, Any], ...]:
    """Of each token its id, text, natural logarithm of its probability, and the likeliest beside it.

    Probabilities are the model's own: before penalties, bias and temperature.
    """

    def entry(token: int, logprob: float | None) -> dict[str, Any]:
        return {"id": token, "token": tokenizer.pieces([token])[0], "logprob": logprob}

    return tuple(
        {**entry(event.token, event.logprob), "top": [entry(*likely) for likely in event.top_logprobs]}
        for event in events
    )


def bytes_per_token(bundle: Bundle, context: int) -> int | None:
    """Bytes that decoding one token reads at a context length: weights and KV; ``None`` if unsaid."""
    cost = bundle.manifest.details.get("cost")
    if not isinstance(cost, dict) or not cost.get("weight_bytes"):
        return None
    return int(cost["weight_bytes"]) + context * int(cost.get("kv_bytes_per_token", 0))
