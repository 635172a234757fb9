"""What flows between the run loop and whoever drives it: requests in, events out.

The scheduler drives an :class:`EngineLike`; it never sees the compiled object,
the weights or the tokenizer. A step is three verbs of the driver: choose the
work, ``step(work)`` it, act on the report.

Life of a sequence::

    admit ─▶ PREFILL ─(last prompt token processed, first token sampled)─▶ DECODE ─▶ FINISHED ─▶ release
                └──────────────── finish(reason) at any point ───────────────────────▶┘
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from runtime.engine.memory import SlotMemory
from runtime.engine.request import Constraint as Constraint
from runtime.engine.request import Limits as Limits
from runtime.engine.request import Request as Request
from runtime.engine.request import Sampling as Sampling
from runtime.errors import EngineError


class StopReason(StrEnum):
    """Why an execution ended. Recorded with it; these names are part of the contract."""

    END_OF_SEQUENCE = "end_of_sequence"
    STOP_SEQUENCE = "stop_sequence"
    MAX_TOKENS = "max_tokens"
    MAX_SECONDS = "max_seconds"
    ENERGY_LIMIT = "energy_limit"
    CANCELLED = "cancelled"
    ERROR = "error"


class Phase(StrEnum):
    """Where an admitted sequence stands."""

    PREFILL = "prefill"
    DECODE = "decode"
    FINISHED = "finished"


@dataclass(frozen=True)
class EngineLimits:
    """What the bundle was compiled for (``engine_limits`` of the C ABI)."""

    n_vocab: int
    n_layers: int
    context: int  # KV tokens a slot may hold
    slots: int  # sequences resident at once
    step_tokens: int  # most tokens of one step, all sequences together
    n_ops: int = 0
    page_groups: int = 1  # groups of layers that have pages of their own
    page_blocks: int = 1  # blocks of positions that a slot's table names pages for
    weights_bytes: int = 0
    arena_bytes: int = 0
    kv_bytes: int = 0


class SequenceLike(Protocol):
    """A sequence as its driver sees it. Read-only outside the engine."""

    @property
    def request(self) -> Request: ...
    @property
    def slot(self) -> int:
        """The KV slot it holds, 0 … slots - 1; -1 after ``release``."""

    @property
    def phase(self) -> Phase: ...
    @property
    def remaining_prefill(self) -> int:
        """Prompt tokens not yet processed; 0 once it decodes."""

    @property
    def reused_tokens(self) -> int:
        """Prompt tokens whose keys and values came from the prefix cache."""

    @property
    def drafted(self) -> tuple[int, int]:
        """Tokens that were drafted for it, and how many of these it kept."""

    @property
    def token_ids(self) -> Sequence[int]:
        """Generated ids in order, a final end-of-sequence token included."""

    @property
    def text(self) -> str:
        """The generated text so far, stop sequence excluded, held-back text excluded until it ends."""

    @property
    def stop_reason(self) -> StopReason | None: ...
    @property
    def error(self) -> EngineError | None:
        """The cause where ``stop_reason`` is ``error``."""

    @property
    def admitted_ns(self) -> int:
        """Monotonic clock at admission; likewise the other ``_ns``."""

    @property
    def token_ns(self) -> Sequence[int]:
        """When each generated token was ready."""

    @property
    def finished_ns(self) -> int | None: ...
    @property
    def logits_digest(self) -> str:
        """256-bit BLAKE2b (hex) over the float32 rows its tokens were sampled from, in order.

        Depends on the plan, the prompt and the sampled tokens; not on chunking,
        batching, threads or backend.
        """


@dataclass(frozen=True)
class TokenEvent:
    """One generated token.

    ``text`` is what became safe to show with it: whole characters only, and
    nothing that might still turn out to be part of a stop sequence. It may be
    empty, and the last event of a sequence carries what had been held back.
    The texts of all events, joined, are the sequence's ``text``.
    """

    sequence: SequenceLike
    index: int  # 0-based among the generated tokens
    token: int
    text: str
    time_ns: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class StepReport:
    """What one step did.

    ``events`` in the order of the work, one for each token that a sequence gained;
    ``finished``: the sequences that ended in this step (each still holds its slot until
    ``release``). ``wait_ns``: of ``forward_ns``, those that the calling thread waited for
    others. ``forward_ns`` is the time inside the compiled code. ``rows``: tokens of the step that each
    sequence had, in the order of the work, drafted ones included.
    """

    events: tuple[TokenEvent, ...]
    finished: tuple[SequenceLike, ...]
    n_prefill: int  # prompt tokens processed
    n_decode: int  # decode tokens processed
    started_ns: int
    ended_ns: int
    forward_ns: int
    wait_ns: int = 0
    rows: tuple[int, ...] = ()


class EngineLike(Protocol):
    """The run loop as the scheduler drives it; one thread at a time."""

    @property
    def limits(self) -> EngineLimits: ...

    @property
    def memory(self) -> SlotMemory:
        """Which slots are taken; a scheduler takes those of what it admits."""

    @property
    def draft_tokens(self) -> int:
        """Most tokens that a decode may have beside its own."""

    @property
    def free_slots(self) -> int: ...

    @property
    def sequences(self) -> int:
        """Sequences that were admitted and not released."""

    def admit(self, request: Request, slot: int | None = None) -> SequenceLike:
        """Starts a sequence in phase ``PREFILL``; computes nothing.

        ``slot``: one that the caller has taken from ``memory``, and gives back itself after
        ``release``; without it the engine takes one, and ``release`` gives it back.

        Errors: ``no_free_slot``, ``prompt_empty``, ``prompt_too_long`` (more than
        ``limits.context``), ``token_out_of_range``, ``invalid_request``.
        """

    def step(self, work: Sequence[tuple[SequenceLike, int]]) -> StepReport:
        """One forward over ``work``: (sequence, tokens), each sequence at most once.

        In ``PREFILL`` 1 … ``remaining_prefill`` prompt tokens; in ``DECODE`` 1, or up to
        ``draft_tokens`` more, as many as are drafted and kept; all together at most
        ``limits.step_tokens``. A sequence whose last prompt token, or whose decode token, is in the
        step gets its next token.

        A sequence whose logits are not finite finishes with ``error``; the others
        of the step go on. Raises ``invalid_work`` (nothing was computed).
        """

    def finish(self, sequence: SequenceLike, reason: StopReason, error: EngineError | None = None) -> str:
        """Ends a sequence from outside (cancelled, energy limit); returns the text still held back.

        No effect, and "", if it has already finished.
        """

    def release(self, sequence: SequenceLike) -> None:
        """Frees the slot of a finished sequence (or cancels it first); the object stays readable."""
