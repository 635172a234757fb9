"""What each sequence has in a step, and how that is laid out as the compiled code wants it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from runtime.engine.executable import NumericError
from runtime.engine.sequence import LiveSequence
from runtime.engine.types import Phase
from runtime.errors import EngineError


@dataclass
class Share:
    """The tokens of one sequence in a step: ``count`` of its own, then ``drafts`` to verify.

    ``first``: its first token's index in the step; ``row``: its first row of logits, -1 where none
    is wanted; from there one for its last own token and one for each draft.
    """

    live: LiveSequence
    count: int
    drafts: list[int] = field(default_factory=list)
    first: int = 0
    row: int = -1

    @property
    def rows(self) -> int:
        """Tokens of the step that are this sequence's."""
        return self.count + len(self.drafts)

    @property
    def sampled(self) -> bool:
        """Whether a token is sampled for it."""
        return self.live.n_processed + self.count >= self.live.n_prompt


class StepBuffers:
    """The arrays of a step's tokens: int32 slot, position and token, and whether logits are wanted."""

    def __init__(self, step_tokens: int) -> None:
        self.slots, self.positions, self.tokens = (np.zeros(step_tokens, np.int32) for _ in range(3))
        self.want = np.zeros(step_tokens, np.uint8)

    def lay_out(self, shares: Sequence[Share]) -> int:
        """Writes the shares' tokens one after the other; returns how many there are."""
        n = rows = 0
        for share in shares:
            live, count, all = share.live, share.count, share.rows
            begin, end = live.n_processed, n + all
            self.slots[n:end] = live.slot
            if all == 1:
                self.positions[n] = begin
            else:
                self.positions[n:end] = np.arange(begin, begin + all)
            self.tokens[n : n + count] = live.ids[begin : begin + count]
            if share.drafts:
                self.tokens[n + count : end] = share.drafts
            self.want[n:end] = 0
            share.first, share.row = n, -1
            if share.sampled:
                self.want[n + count - 1 : end] = 1
                share.row = rows
                rows += 1 + len(share.drafts)
            n = end
        return n

    def who_failed(self, error: NumericError, shares: Sequence[Share]) -> dict[int, EngineError]:
        """The slots whose values are not finite; all of the step's if that cannot be told.

        A draft's are no failure: it may be a token that its sequence never comes to.
        """
        slots, drafted = set(), False
        for share in shares:
            begin, end = share.first, share.first + share.count
            if begin <= error.token_index < end:
                slots.add(share.live.slot)
            drafted |= end <= error.token_index < end + len(share.drafts)
            if error.logits is not None and share.row >= 0:
                rows = error.logits[share.row : share.row + 1 + len(share.drafts)]
                if not np.isfinite(rows[0]).all():
                    slots.add(share.live.slot)
                drafted |= not np.isfinite(rows[1:]).all()
        if not slots and not drafted:
            slots = {share.live.slot for share in shares}
        return dict.fromkeys(slots, error)


def most_of(live: LiveSequence, drafts: int) -> int:
    """Most tokens that a sequence may have in a step, where up to ``drafts`` may be guessed."""
    if live.phase is Phase.PREFILL:
        return live.remaining_prefill
    return 1 + drafts if live.phase is Phase.DECODE else 0
