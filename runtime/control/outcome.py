"""From an ended execution to its official metrics, its diagnostics and its record."""

from __future__ import annotations

import resource
from typing import Any

from runtime.control.execution import Execution
from runtime.control.record import Identity, Result, build_record
from runtime.control.types import Outcome
from runtime.engine.types import StopReason
from runtime.metrics.diagnostics import Facts, compute_diagnostics, waiting_notes
from runtime.metrics.official import compute_metrics
from runtime.metrics.reading import EnergyReading


def peak_memory_bytes() -> int:
    """The most memory this process has had resident (getrusage: kilobytes on Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def execution_memory_bytes(execution: Execution) -> int:
    """What an execution had in use at its largest: its bundle's weights and arena, and its own KV cache.

    The process's memory is that of all bundles and executions together, a diagnostic.
    """
    sequence, info = execution.sequence, execution.info
    # The last token is emitted, not stored.
    generated = max(0, len(sequence.token_ids) - 1) if sequence is not None else 0
    tokens = len(execution.spec.request.prompt_ids) + generated
    slots, context = info.plan.execution.slots, info.plan.execution.context
    per_token = info.kv_bytes / (slots * context)
    return info.weights_bytes + info.arena_bytes + round(tokens * per_token)


def make_outcome(execution: Execution, no_energy: str) -> Outcome:
    """Everything a reply and a record say of an execution that has ended.

    ``no_energy`` is the reason given where no energy was measured.
    """
    sequence, bundle = execution.sequence, execution.info
    finished_ns = execution.finished_ns or execution.created_ns
    admitted_ns = execution.admitted_ns
    started_ns = admitted_ns if admitted_ns is not None else finished_ns
    token_ids = tuple(sequence.token_ids) if sequence is not None else ()
    token_ns = tuple(sequence.token_ns) if sequence is not None else ()
    energy = execution.energy or EnergyReading.none(
        no_energy if admitted_ns is not None else "the execution never became active"
    )
    metrics = compute_metrics(
        started_ns=started_ns,
        finished_ns=max(finished_ns, token_ns[-1] if token_ns else finished_ns),
        token_times_ns=token_ns,
        energy=energy,
        op_times_ns=execution.op_times_ns,
        memory_peak_bytes=execution_memory_bytes(execution),
    )
    facts = Facts(
        started_ns=started_ns,
        finished_ns=finished_ns,
        token_times_ns=token_ns,
        energy=energy,
        prompt_tokens=len(execution.spec.request.prompt_ids),
        reused_tokens=execution.reused_tokens,
        drafted=execution.drafted,
        logits_digest=sequence.logits_digest if sequence is not None and token_ids else None,
        **_facts_of_steps(execution, len(token_ids)),
    )
    return Outcome(
        id=execution.id,
        bundle=bundle.name,
        text=sequence.text if sequence is not None else "",
        token_ids=token_ids,
        prompt_tokens=len(execution.spec.request.prompt_ids),
        stop_reason=execution.stop_reason or StopReason.CANCELLED,
        error=execution.error,
        metrics=metrics.to_json(),
        diagnostics=compute_diagnostics(metrics, facts).to_json(),
        decisions=execution.decisions,
        logits_digest=facts.logits_digest,
        token_ns=token_ns,
        started_ns=started_ns,
        reused_tokens=execution.reused_tokens,
        drafted=execution.drafted,
    )


def _facts_of_steps(execution: Execution, generated: int) -> dict[str, Any]:
    """What the executor counted while an execution ran, as fields of :class:`Facts`."""
    admitted_ns = execution.admitted_ns
    until_ns = admitted_ns if admitted_ns is not None else execution.finished_ns or execution.created_ns
    alone = execution.shared_steps == 0 and execution.paced_ns == 0
    waited = (execution.wait_ns, execution.forward_ns)
    mean_context = len(execution.spec.request.prompt_ids) + generated // 2
    notes = waiting_notes(waited, execution.info.plan.execution.threads)
    return {
        "waited": waited,
        "forward_ns": execution.forward_ns if alone and admitted_ns is not None else None,
        "bytes_per_token": execution.info.cost.step_bytes(mean_context) or None,
        "queue_ms": (until_ns - execution.created_ns) / 1e6,
        "extra": {
            "steps": execution.steps,
            "shared_steps": execution.shared_steps,
            "paced_ms": execution.paced_ns / 1e6,
            "other_plans_ms": execution.others_ns / 1e6,
            "process_memory_peak_mb": peak_memory_bytes() / 1e6,
            "notes": [*execution.spec.notes, *notes],
        },
    }


def record_of(execution: Execution, outcome: Outcome) -> dict[str, Any]:
    """The complete record of an ended execution."""
    bundle = execution.info
    identity = Identity(
        execution_id=execution.id,
        created_unix_ns=execution.created_unix_ns,
        bundle=bundle.identity["bundle"],
        model=bundle.identity["model"],
        backend=bundle.backend,
        quantization=bundle.quantization,
        compiler=bundle.identity["compiler"],
    )
    result = Result(
        text=outcome.text,
        token_ids=outcome.token_ids,
        token_digests=getattr(execution.sequence, "token_digests", ()),
        logits_digest=outcome.logits_digest,
        stop_reason=outcome.stop_reason,
        error=outcome.error,
        metrics=outcome.metrics,
        diagnostics=outcome.diagnostics,
        decisions=[decision.to_json(execution.created_ns) for decision in outcome.decisions],
    )
    return build_record(identity, execution.spec, result)
