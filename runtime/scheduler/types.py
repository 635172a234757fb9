"""What the scheduler takes and gives: tickets in, steps out, decisions beside them.

All counts are tokens, all times nanoseconds of one monotonic clock that the
caller reads. Nothing here knows a model, a backend or a file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from runtime.engine.prefix import Prompt


class Phase(StrEnum):
    """Where a scheduled execution stands."""

    QUEUED = "queued"
    PREFILL = "prefill"
    DECODE = "decode"
    FINISHED = "finished"


@dataclass(frozen=True)
class Ticket:
    """One execution as the scheduler sees it.

    ``prompt_tokens`` >= 1 are prefilled; at most ``max_new_tokens`` >= 1 are then
    generated. ``policy`` names the declared scheduler policy of this execution.
    ``deadline_ns`` is when its time limit passes, or None. ``prompt``: as the prefix cache sees
    it, None where it is not cached.
    """

    id: str
    prompt_tokens: int
    max_new_tokens: int
    policy: str = "default"
    deadline_ns: int | None = None
    prompt: Prompt | None = field(default=None, compare=False)

    @property
    def positions(self) -> int:
        """Positions that it may come to hold; the last token is emitted, not stored."""
        return self.prompt_tokens + self.max_new_tokens - 1


@dataclass(frozen=True)
class Part:
    """The tokens of one sequence in a step.

    Prefill: prompt tokens ``[start, start + count)``. Decode: ``start`` is the number of
    tokens the sequence already holds; ``count`` is its last token and those drafted after
    it. ``wanted``: of how many rows, the last of the part, the logits are wanted: every
    one of a decode, one of the chunk that ends a prompt, none of another. How many tokens
    a decode gained is known when it has run: the ``accepted`` of :meth:`Scheduler.commit`.
    """

    id: str
    slot: int
    phase: Phase
    start: int
    count: int
    wanted: int


@dataclass(frozen=True)
class Step:
    """One call of the compiled forward: at most ``step_tokens`` tokens in all parts."""

    number: int
    parts: tuple[Part, ...]
    policy: str
    admitted: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        return sum(part.count for part in self.parts)


@dataclass(frozen=True)
class Hold:
    """Nothing is run before ``until_ns``, and why; a new ticket may end it earlier."""

    until_ns: int
    reason: str


@dataclass(frozen=True)
class Decision:
    """One explained choice about one execution.

    ``action``: ``queued``, ``delayed``, ``admitted``, ``prefill``, ``batched``,
    ``finished`` or ``cancelled``. ``steps`` counts how many consecutive steps the
    same choice held; ``numbers`` holds the integers it rests on.
    """

    at_ns: int
    step: int
    action: str
    reason: str
    numbers: tuple[tuple[str, int], ...] = ()
    steps: int = 1

    def to_json(self, since_ns: int = 0) -> dict[str, object]:
        """As records keep it; ``at_ms`` counts from ``since_ns``, the execution's arrival there."""
        return {
            "at_ms": (self.at_ns - since_ns) / 1e6,
            "step": self.step,
            "action": self.action,
            "reason": self.reason,
            "steps": self.steps,
            **dict(self.numbers),
        }
