"""One admitted request: its ids, its place in the KV cache, its text, its clock."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from runtime.engine.digest import LogitsDigest
from runtime.engine.drafts import Drafts, StepTimes
from runtime.engine.stopping import StopMatcher
from runtime.engine.tokenizer import Tokenizer
from runtime.engine.tokensets import TokenSet, breaker_set, token_set
from runtime.engine.types import Phase, Request, Sampling, StopReason
from runtime.errors import EngineError

Bias = tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]


class LiveSequence:
    """A sequence as :mod:`runtime.engine.loop` keeps it; see ``SequenceLike`` for its public side.

    ``budget``: tokens it may generate, the smaller of ``max_tokens`` and what the
    context leaves (the last token needs no place in the KV cache).
    """

    def __init__(
        self, request: Request, slot: int, context: int, tokenizer: Tokenizer, draft_tokens: int = 0
    ) -> None:
        self.request = request
        self.constraint = None if request.constraint is None else tokenizer.grammars.begin(request.constraint)
        self.slot = slot
        self.phase = Phase.PREFILL
        self.n_prompt = len(request.prompt_ids)
        self.n_processed = 0  # tokens in the KV cache
        self.reused_tokens = 0  # of these, those that were there before it
        self.budget = min(request.limits.max_tokens, context - self.n_prompt + 1)
        self.ids: npt.NDArray[np.int32] = np.zeros(self.n_prompt + self.budget, np.int32)
        self.ids[: self.n_prompt] = request.prompt_ids
        self.token_ids: list[int] = []
        self.token_ns: list[int] = []
        self.text = ""
        self.stop_reason: StopReason | None = None
        self.error: EngineError | None = None
        self.admitted_ns = time.monotonic_ns()
        self.finished_ns: int | None = None
        self.penalised = penalises(request.sampling)
        texts = request.sampling.dry_sequence_breakers
        self.breakers = breaker_set(tokenizer, texts) if request.sampling.dry_multiplier > 0 else None
        self._no_end = ~token_set(tokenizer.eos_ids, tokenizer.n_vocab)
        self.bias = _bias(request)
        limit = request.limits.max_seconds
        self.deadline_ns = None if limit is None else self.admitted_ns + round(limit * 1e9)
        # A text that continues a prompt keeps the space that its first word begins with.
        self._decoder = tokenizer.stream(skip_special=True, continuation=True)
        self._stops = StopMatcher(request.stop)
        self._digest = LogitsDigest()
        self.drafts = Drafts(draft_tokens) if draft_tokens else None

    @property
    def remaining_prefill(self) -> int:
        return self.n_prompt - self.n_processed if self.phase is Phase.PREFILL else 0

    @property
    def left(self) -> int:
        """Tokens that it may still generate."""
        return self.budget - len(self.token_ids)

    @property
    def drafted(self) -> tuple[int, int]:
        return (0, 0) if self.drafts is None else (self.drafts.drafted, self.drafts.kept)

    def propose(self, room: int, rows: int, times: StepTimes) -> list[int]:
        """Tokens to verify after its last, in a step of ``rows`` rows without them."""
        return [] if self.drafts is None else self.drafts.propose(self.history, room, rows, times)

    @property
    def logits_digest(self) -> str:
        return self._digest.hexdigest()

    @property
    def token_digests(self) -> list[str]:
        """The first 8 bytes (hex) of ``logits_digest`` as of each token."""
        return self._digest.by_row()

    @property
    def history(self) -> npt.NDArray[np.int32]:
        """All ids so far, prompt first."""
        return self.ids[: self.n_prompt + len(self.token_ids)]

    @property
    def unfinished(self) -> bool:
        """Whether it has fewer tokens than its ``min_tokens``."""
        return len(self.token_ids) < self.request.limits.min_tokens

    def allowed(self) -> TokenSet | None:
        """The tokens that may come next; None for all. Raises ``constraint_failed``."""
        mask = None if self.constraint is None else self.constraint.allowed()
        if not self.unfinished:
            return mask
        # Where a grammar is complete nothing else is left to choose.
        longer = self._no_end if mask is None else mask & self._no_end
        return longer if longer.any() else mask

    def late(self, now_ns: int) -> bool:
        """Whether its ``max_seconds`` have passed."""
        return self.deadline_ns is not None and now_ns >= self.deadline_ns

    def note_logits(self, row: npt.NDArray[np.float32]) -> None:
        """Takes a row that a token is sampled from into the digest."""
        self._digest.take(row)

    def accept(self, token: int, now_ns: int, ends: bool) -> str:
        """Appends a sampled token; returns the text it makes safe to show.

        ``ends``: it is an end-of-sequence token, which has no text. Finishes the
        sequence where a stop condition is met.
        """
        self.ids[self.n_prompt + len(self.token_ids)] = token
        self.token_ids.append(token)
        self.token_ns.append(now_ns)
        self.phase = Phase.DECODE
        if ends:
            return self.end(StopReason.END_OF_SEQUENCE, now_ns)
        text = self._show(self._decoder.push(token))
        if self.constraint is not None:
            self.constraint.accept(token)
            if self.constraint.complete:
                return text + self.end(StopReason.END_OF_SEQUENCE, now_ns)
        if self._stops.matched is not None:
            return text + self.end(StopReason.STOP_SEQUENCE, now_ns)
        if len(self.token_ids) >= self.budget:
            return text + self.end(StopReason.MAX_TOKENS, now_ns)
        return text

    def end(self, reason: StopReason, now_ns: int, error: EngineError | None = None) -> str:
        """Finishes the sequence; returns the text that had been held back."""
        if self.phase is Phase.FINISHED:
            return ""
        # Bytes of an unfinished character may still complete a stop sequence.
        text = self._show(self._decoder.flush()) + self._show_held()
        self.phase = Phase.FINISHED
        self.stop_reason, self.error, self.finished_ns = reason, error, now_ns
        return text

    def _show(self, text: str) -> str:
        shown = self._stops.push(text, len(self.token_ids) >= self.request.limits.min_tokens)
        self.text += shown
        return shown

    def _show_held(self) -> str:
        held = self._stops.flush()
        self.text += held
        return held


def penalises(sampling: Sampling) -> bool:
    """Whether any penalty looks at the history."""
    return (
        sampling.repetition_penalty != 1.0
        or sampling.presence_penalty != 0.0
        or sampling.frequency_penalty != 0.0
        or sampling.dry_multiplier > 0.0
    )


def _bias(request: Request) -> Bias | None:
    if not request.logit_bias:
        return None
    items = sorted(request.logit_bias.items())
    return np.array([token for token, _ in items], np.int32), np.array(
        [value for _, value in items], np.float32
    )
