"""One execution between request and record: its state, and who follows it.

The executor's thread writes it; other threads read. Every field that is read
elsewhere is either set before the execution is shared, replaced whole, or only
grows, so no lock is needed to look at it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from threading import Event

from runtime.control.record import new_execution_id
from runtime.control.types import BundleInfo, Listener, Outcome, RunSpec, TokenOut
from runtime.engine.prefix import Prompt
from runtime.engine.types import SequenceLike, StopReason
from runtime.errors import EngineError
from runtime.metrics.reading import EnergyReading
from runtime.scheduler import Decision, Phase


@dataclass
class Execution:
    """``queued → prefill → decode → finished``; times in monotonic nanoseconds, ``created_unix_ns`` aside."""

    spec: RunSpec
    info: BundleInfo
    id: str = field(default_factory=new_execution_id)
    created_unix_ns: int = field(default_factory=time.time_ns)
    created_ns: int = field(default_factory=time.monotonic_ns)
    listener: Listener | None = None
    prompt: Prompt | None = None  # as the prefix cache sees it, with what the disk has of it
    phase: Phase = Phase.QUEUED
    sequence: SequenceLike | None = None
    outcome: Outcome | None = None
    settled: Event = field(default_factory=Event)

    # Written by the executor while it runs.
    cancel_reason: StopReason | None = None
    forward_ns: int = 0
    wait_ns: int = 0
    step_ns: int = 0
    steps: int = 0
    shared_steps: int = 0
    paced_ns: int = 0
    others_ns: int = 0  # in which other bundles had the machine
    unholdable: bool = False  # its power cap is below what mere waiting draws
    error: EngineError | None = None
    stop_reason: StopReason | None = None
    admitted_ns: int | None = None
    finished_ns: int | None = None
    decisions: tuple[Decision, ...] = ()
    energy: EnergyReading | None = None
    op_times_ns: dict[str, int] | None = None

    @property
    def deadline_ns(self) -> int | None:
        """When its ``max_seconds``, counted from its arrival, have passed."""
        seconds = self.spec.request.limits.max_seconds
        return None if seconds is None else self.created_ns + round(seconds * 1e9)

    @property
    def reused_tokens(self) -> int:
        """Prompt tokens that came from the prefix cache."""
        return 0 if self.sequence is None else self.sequence.reused_tokens

    @property
    def drafted(self) -> tuple[int, int]:
        """Tokens that were drafted for it, and how many of these it kept."""
        return (0, 0) if self.sequence is None else self.sequence.drafted

    def late(self, now_ns: int) -> bool:
        """Whether its ``max_seconds`` have passed."""
        return (deadline := self.deadline_ns) is not None and now_ns >= deadline

    def deliver(self, token: TokenOut) -> None:
        """Hands a new token to whoever follows; a listener that fails loses itself, not the execution."""
        if self.listener is not None:
            try:
                self.listener.token(token)
            except Exception:
                self.listener = None

    def settle(self, outcome: Outcome) -> None:
        """Publishes the outcome, once; the record has been written by now."""
        self.outcome = outcome
        self.phase = Phase.FINISHED
        self.settled.set()
        if self.listener is not None:
            try:
                self.listener.done(outcome)
            except Exception:
                self.listener = None

    def summary(self) -> dict[str, object]:
        """What a live execution shows of itself before its record exists."""
        sequence = self.sequence
        return {
            "execution_id": self.id,
            "bundle": self.spec.bundle,
            "kind": self.spec.kind,
            "status": str(self.phase),
            "scheduler_policy": self.spec.policy,
            "prompt_tokens": len(self.spec.request.prompt_ids),
            "reused_tokens": self.reused_tokens,
            "drafted_tokens": self.drafted[0],
            "kept_tokens": self.drafted[1],
            "tokens_total": len(sequence.token_ids) if sequence is not None else 0,
            "created": self.created_unix_ns // 1_000_000_000,
            "age_seconds": (time.monotonic_ns() - self.created_ns) / 1e9,
            "running_seconds": None
            if self.admitted_ns is None
            else (time.monotonic_ns() - self.admitted_ns) / 1e9,
        }
