"""The run loop: prepare, forward, sample, emit, measure.

:class:`Engine` runs steps over sequences that others choose (the scheduler, or
:func:`generate` for a single one). It decides nothing: what may run together is
``EngineLimits``, what runs is the caller's, how it runs was compiled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.bundle.plan import ResolvedPlan
from runtime.bundle.reader import open_bundle
from runtime.engine.drafts import StepTimes
from runtime.engine.executable import NUMERIC_HINT, Executable, Floats, NumericError
from runtime.engine.memory import SlotMemory
from runtime.engine.pagestore import store_of
from runtime.engine.prefix import Prompt
from runtime.engine.request import check_request
from runtime.engine.sequence import LiveSequence
from runtime.engine.shares import Share, StepBuffers, most_of
from runtime.engine.tokenizer import Tokenizer
from runtime.engine.types import (
    EngineLimits,
    Phase,
    Request,
    SequenceLike,
    StepReport,
    StopReason,
    TokenEvent,
)
from runtime.engine.weights import Residence
from runtime.errors import EXIT_RUN, EngineError


class Engine:
    """The run loop over one executable; implements ``EngineLike``. One thread at a time."""

    def __init__(self, executable: Executable, tokenizer: Tokenizer) -> None:
        self.executable = executable
        self.tokenizer = tokenizer
        limits = executable.limits
        cached = executable.bundle.plan.execution.prefix_cache
        self.memory = SlotMemory(
            limits.slots,
            executable.page_groups,
            limits.page_blocks,
            executable.page,
            caching=cached != "off",
            store=store_of(executable.bundle, executable.page_groups) if cached == "disk" else None,
        )
        executable.use_tables(self.memory.tables)
        self._own_slots: set[int] = set()  # taken by the engine itself, not by a scheduler
        self._held: dict[int, LiveSequence] = {}
        self._buffers = StepBuffers(limits.step_tokens)
        self._times = StepTimes()
        speculation = executable.bundle.plan.speculation
        #: Most tokens that a sequence's decode may have beside its own; 0: nothing is drafted.
        drafts = 0 if speculation.kind == "none" else speculation.tokens
        self.draft_tokens = min(drafts, limits.step_tokens - 1)

    @classmethod
    def open(cls, path: Path, threads: int | None = None, residence: Residence = "pages") -> Engine:
        """Checks, loads and maps the bundle at ``path``; errors as ``Executable.open``."""
        bundle = open_bundle(path)
        tokenizer = Tokenizer.from_bundle(bundle)
        return cls(Executable.open(bundle, threads, residence=residence), tokenizer)

    @property
    def limits(self) -> EngineLimits:
        """What the bundle was compiled for."""
        return self.executable.limits

    @property
    def plan(self) -> ResolvedPlan:
        """The bundle's plan."""
        return self.executable.bundle.plan

    @property
    def free_slots(self) -> int:
        """Sequences that can still be admitted."""
        return self.memory.free

    @property
    def sequences(self) -> int:
        """Sequences that were admitted and not released."""
        return len(self._held)

    def close(self) -> None:
        """Cancels what is left and lets go of the executable."""
        for sequence in list(self._held.values()):
            self.release(sequence)
        self.memory.close()
        self.executable.close()

    # ---- the life of a sequence ------------------------------------------------

    def admit(self, request: Request, slot: int | None = None) -> LiveSequence:
        """Starts a sequence in ``slot``, or in one of its own; see ``EngineLike.admit``."""
        check_request(request, self.limits.n_vocab, self.limits.context)
        if slot is not None and (slot not in self.memory.held or slot in self._held):
            raise _invalid_work(f"slot {slot}", "one that its caller has taken from the engine's memory")
        taken = slot
        if taken is None:
            positions, prompt = sequence_needs(request, self.limits.context)
            self.memory.fetch(prompt)
            taken = self.memory.take(positions, prompt)
        try:
            sequence = LiveSequence(
                request, taken, self.limits.context, self.tokenizer, self.draft_tokens
            )
        except BaseException:
            if slot is None:
                self.memory.give(taken)
            raise
        if slot is None:
            self._own_slots.add(taken)
        self._held[taken] = sequence
        self._catch_up(sequence)
        return sequence

    def finish(self, sequence: SequenceLike, reason: StopReason, error: EngineError | None = None) -> str:
        """Ends a sequence from outside; see ``EngineLike.finish``."""
        live = self._own(sequence)
        if error is None:
            self._keep(live)
        return live.end(reason, time.monotonic_ns(), error)

    def release(self, sequence: SequenceLike) -> None:
        """Frees the slot; see ``EngineLike.release``. Harmless when repeated."""
        if sequence.slot < 0:
            return
        live = self._own(sequence)
        live.end(StopReason.CANCELLED, time.monotonic_ns())
        del self._held[live.slot]
        if live.slot in self._own_slots:
            self._own_slots.remove(live.slot)
            self.memory.give(live.slot)
        live.slot = -1

    def _own(self, sequence: SequenceLike) -> LiveSequence:
        live = self._held.get(sequence.slot)
        if live is not sequence or live is None:
            raise _invalid_work("a sequence that this engine does not hold", "one that it admitted")
        return live

    def _catch_up(self, live: LiveSequence) -> None:
        """Takes over what the memory has of a sequence's prompt from elsewhere."""
        length = self.memory.length(live.slot)
        if length > live.n_processed:
            live.reused_tokens += length - live.n_processed
            live.n_processed = length
            self.executable.resume(live.slot, length)

    def _keep(self, live: LiveSequence) -> None:
        """Leaves a sequence's last block to the prefix cache, while the slot is still its own."""
        if live.phase is not Phase.FINISHED and live.slot in self.memory.held:
            self.memory.keep(live.slot, live.ids)

    # ---- a step ----------------------------------------------------------------

    def step(self, work: Sequence[tuple[SequenceLike, int]]) -> StepReport:
        """One forward over ``work``; see ``EngineLike.step``."""
        started_ns = time.monotonic_ns()
        shares = self._prepare(work)
        buffers = self._buffers
        n = buffers.lay_out(shares)
        n_prefill = sum(share.count for share in shares if share.live.phase is Phase.PREFILL)
        before_ns, waited_ns = self.executable.forward_ns, self.executable.wait_ns
        failures: dict[int, EngineError] = {}  # by slot
        logits: Floats | None = None
        try:
            logits = self.executable.forward(
                buffers.slots[:n], buffers.positions[:n], buffers.tokens[:n], buffers.want[:n]
            )
        except NumericError as error:
            logits = error.logits
            failures = buffers.who_failed(error, shares)
            error.logits = None  # a view of the buffer that the next step overwrites
        except EngineError as error:
            failures = {share.live.slot: error for share in shares}
        forward_ns = self.executable.forward_ns - before_ns
        wait_ns = self.executable.wait_ns - waited_ns
        if n_prefill == 0:
            self._times.note(n, forward_ns)
        events = [
            event
            for share in shares
            if logits is not None and share.live.slot not in failures
            for event in self._take(share, logits, failures, (n, forward_ns) if n_prefill == 0 else None)
        ]
        ended_ns = time.monotonic_ns()
        lives = [share.live for share in shares]
        self._end_step(lives, failures, ended_ns)
        return StepReport(
            events=tuple(events),
            finished=tuple(live for live in lives if live.phase is Phase.FINISHED),
            n_prefill=n_prefill,
            n_decode=n - n_prefill,
            started_ns=started_ns,
            ended_ns=ended_ns,
            forward_ns=forward_ns,
            wait_ns=wait_ns,
            rows=tuple(share.rows for share in shares),
        )

    def _end_step(
        self, lives: Sequence[LiveSequence], failures: Mapping[int, EngineError], ended_ns: int
    ) -> None:
        """Ends what failed or is late; what ended well leaves its last block behind."""
        for live in lives:
            if (failure := failures.get(live.slot)) is not None:
                live.end(StopReason.ERROR, ended_ns, failure)
            elif live.phase is Phase.PREFILL and live.late(ended_ns):
                live.end(StopReason.MAX_SECONDS, ended_ns)
            if live.phase is Phase.FINISHED and live.error is None:
                self.memory.keep(live.slot, live.ids)

    def _prepare(self, work: Sequence[tuple[SequenceLike, int]]) -> list[Share]:
        """The work, checked, with drafts where they pay; raises ``invalid_work`` before any change."""
        shares = [Share(self._own(sequence), count) for sequence, count in work]
        for share in shares:
            self._catch_up(share.live)
        total = sum(share.count for share in shares)
        if not shares or total > self.limits.step_tokens:
            raise _invalid_work(f"a step of {total} tokens", f"1 to {self.limits.step_tokens} tokens")
        if len({share.live.slot for share in shares}) != len(shares):
            raise _invalid_work("a sequence that is in the step twice", "each sequence once")
        for share in shares:
            most = most_of(share.live, self.draft_tokens)
            if not 1 <= share.count <= most:
                raise _invalid_work(
                    f"{share.count} tokens of a sequence in {share.live.phase}", f"1 to {most}"
                )
        for share in shares:
            live = share.live
            if live.phase is Phase.DECODE and share.count > 1:
                room, share.count = min(share.count - 1, live.left - 1), 1
                share.drafts = live.propose(room, len(shares), self._times)
            self.memory.extend(live.slot, live.n_processed + share.rows)
        return shares

    def _take(
        self,
        share: Share,
        logits: Floats,
        failures: dict[int, EngineError],
        timed: tuple[int, int] | None,
    ) -> Iterator[TokenEvent]:
        """The tokens that a share gives: its own, and those drafted that the sampler would have chosen.

        ``timed``: rows and nanoseconds of a step without prompts.
        """
        live, kept = share.live, 0
        for i in range(1 + len(share.drafts) if share.row >= 0 else 0):
            row = logits[share.row + i]
            if i > 0 and not np.isfinite(row).all():
                failures[live.slot] = _not_finite()
                return
            event = self._choose_or_fail(live, row, failures)
            if event is None:
                return
            yield event
            if i == len(share.drafts) or event.token != share.drafts[i] or live.phase is Phase.FINISHED:
                break
            kept += 1
        live.n_processed += share.count + kept
        self.memory.settle(live.slot, live.ids, live.n_processed)
        if live.drafts is not None and timed is not None:
            live.drafts.settle(len(share.drafts), kept, *timed, self._times)

    def _choose_or_fail(
        self, live: LiveSequence, row: Floats, failures: dict[int, EngineError]
    ) -> TokenEvent | None:
        """The next token of a sequence; what its constraint or bias makes impossible ends it alone."""
        try:
            return self._choose(live, row)
        except EngineError as error:
            failures[live.slot] = error
            return None

    def _choose(self, live: LiveSequence, row: Floats) -> TokenEvent:
        """Samples the next token of a sequence from its row and says what came of it."""
        request, executable = live.request, self.executable
        live.note_logits(row)
        position = live.n_prompt + len(live.token_ids)
        history = live.history if live.penalised else None
        choice = executable.sample(
            row, request.sampling, position, history, live.bias, live.allowed(), live.breakers
        )
        top = executable.top_logprobs(row, request.logprobs) if request.logprobs else ()
        now_ns = time.monotonic_ns()
        ends = choice.token in self.tokenizer.eos_ids and not request.ignore_eos
        text = live.accept(choice.token, now_ns, ends)
        if live.late(now_ns):
            text += live.end(StopReason.MAX_SECONDS, now_ns)
        logprob = None if request.logprobs is None else choice.logprob
        return TokenEvent(live, len(live.token_ids) - 1, choice.token, text, now_ns, logprob, top)


def sequence_needs(request: Request, context: int) -> tuple[int, Prompt | None]:
    """What a sequence of ``request`` asks of the memory: the positions that it may come to hold (the
    last token needs none), and its prompt, unless it is to be computed and forgotten."""
    n_prompt = len(request.prompt_ids)
    positions = min(n_prompt + request.limits.max_tokens - 1, context)
    return positions, Prompt(request.prompt_ids, request.cache_salt) if request.cache_prompt else None


@dataclass(frozen=True)
class Completion:
    """A finished single execution. Times in monotonic nanoseconds."""

    sequence: LiveSequence
    started_ns: int
    finished_ns: int
    forward_ns: int  # inside the compiled code
    n_steps: int
    wait_ns: int = 0  # of these, waiting for other threads


def generate(
    engine: Engine,
    request: Request,
    on_token: Callable[[TokenEvent], None] | None = None,
    *,
    interrupt: Callable[[], StopReason | None] | None = None,
    on_prefill: Callable[[int, int], None] | None = None,
) -> Completion:
    """Runs one request to its end, prefill in chunks of ``step_tokens``.

    ``on_token`` is called with each token as it comes; ``interrupt`` before every
    step, and ends the execution by returning a reason (Ctrl-C, an energy limit);
    ``on_prefill`` with (processed, all) prompt tokens. The slot is free afterwards;
    errors of the execution are in ``sequence.error``.
    """
    sequence = engine.admit(request)
    forward_ns = wait_ns = n_steps = 0
    try:
        while sequence.phase is not Phase.FINISHED:
            if interrupt is not None and (reason := interrupt()) is not None:
                held = engine.finish(sequence, reason)
                if held and on_token is not None:
                    on_token(_closing_event(sequence, held))
                break
            prefill = sequence.phase is Phase.PREFILL
            most = most_of(sequence, engine.draft_tokens)
            count = min(most, engine.limits.step_tokens)
            report = engine.step([(sequence, count)])
            forward_ns += report.forward_ns
            wait_ns += report.wait_ns
            n_steps += 1
            if prefill and on_prefill is not None:
                on_prefill(sequence.n_processed, sequence.n_prompt)
            if on_token is not None:
                for event in report.events:
                    on_token(event)
    finally:
        engine.release(sequence)
    finished_ns = sequence.finished_ns if sequence.finished_ns is not None else time.monotonic_ns()
    return Completion(sequence, sequence.admitted_ns, finished_ns, forward_ns, n_steps, wait_ns)


def _closing_event(sequence: LiveSequence, text: str) -> TokenEvent:
    last = len(sequence.token_ids) - 1
    return TokenEvent(sequence, last, sequence.token_ids[last], text, time.monotonic_ns())


def _invalid_work(what: str, allowed: str) -> EngineError:
    return EngineError("invalid_work", f"the step asks for {what}", allowed=allowed, exit_code=EXIT_RUN)


def _not_finite() -> EngineError:
    return EngineError(
        "numeric_error",
        "a value became NaN or infinite",
        hint=NUMERIC_HINT,
        exit_code=EXIT_RUN,
    )
