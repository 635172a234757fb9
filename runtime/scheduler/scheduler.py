"""Continuous batching in three verbs: ``schedule`` → (the caller runs the step) → ``commit``.

What holds under every policy:

* a step has at most ``step_tokens`` tokens and at most one part a sequence;
* every decoding sequence is in every step while ``slots < step_tokens``; otherwise those
  that waited longest go first, so none waits more than ``ceil(slots / (step_tokens - 1))`` steps;
* a resident prompt always advances within a bounded number of steps;
* a queued execution is passed over by at most ``PATIENCE`` later ones;
* nothing that was admitted is put back (no preemption).

The policy of the oldest execution present (queued or resident) governs a step.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from runtime.engine.memory import SlotMemory
from runtime.errors import EXIT_RUN, EngineError
from runtime.scheduler import policy as policies
from runtime.scheduler.cost import CostModel
from runtime.scheduler.types import Decision, Hold, Part, Phase, Step, Ticket

#: How many later arrivals may be admitted before a queued execution.
PATIENCE = 16
#: Decisions kept for one execution; the last place is overwritten beyond it.
MAX_DECISIONS = 256


@dataclass
class _Entry:
    """The scheduler's own state of one ticket."""

    ticket: Ticket
    order: int
    since_ns: int
    policy: policies.Policy
    slot: int = -1
    prefilled: int = 0
    generated: int = 0
    last_step: int = 0
    passed_over: int = 0
    decisions: list[Decision] = field(default_factory=list)
    repeats: int = 1  # steps that the last decision has held

    def explained(self) -> tuple[Decision, ...]:
        """Its decisions, oldest first."""
        if not self.decisions:
            return ()
        return (*self.decisions[:-1], replace(self.decisions[-1], steps=self.repeats))

    def note(self, now_ns: int, step: int, action: str, reason: str, *numbers: tuple[str, int]) -> None:
        """Adds a decision; the same choice in the next step only counts up."""
        last = self.decisions[-1] if self.decisions else None
        if last is not None and last.action == action and last.reason == reason and last.numbers == numbers:
            self.repeats += 1
            return
        if last is not None:
            self.decisions[-1] = replace(last, steps=self.repeats)
        if len(self.decisions) >= MAX_DECISIONS:
            self.decisions.pop()
        self.decisions.append(Decision(now_ns, step, action, reason, numbers))
        self.repeats = 1

    @property
    def phase(self) -> Phase:
        if self.slot < 0:
            return Phase.QUEUED
        return Phase.PREFILL if self.prefilled < self.ticket.prompt_tokens else Phase.DECODE

    @property
    def held_tokens(self) -> int:
        return self.prefilled + self.generated

    @property
    def undecoded(self) -> int:
        """Tokens that its decodes may still give: the first came with the prompt."""
        return self.ticket.max_new_tokens - 1 - self.generated


class Scheduler:
    """Queue, slots and the next step of one served bundle. Driven by one thread.

    ``memory`` owns the slots: they are taken here at admission, and given back when a ticket
    leaves. ``step_tokens`` and ``context`` are the bundle's limits, ``queue_limit`` the most
    executions that may wait, ``draft_tokens`` the most that a decode may have beside its own. All
    methods are O(queue + slots).
    """

    def __init__(
        self,
        *,
        memory: SlotMemory,
        step_tokens: int,
        context: int,
        queue_limit: int,
        cost: CostModel,
        draft_tokens: int = 0,
    ) -> None:
        for name, value in (("step_tokens", step_tokens), ("context", context)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        self.memory = memory
        self.step_tokens = step_tokens
        self.context = context
        self.queue_limit = queue_limit
        self.cost = cost
        self.draft_tokens = draft_tokens
        self._queue: dict[str, _Entry] = {}  # by arrival
        self._resident: dict[str, _Entry] = {}  # by admission
        self._arrivals = 0
        self._steps = 0
        self._open: Step | None = None
        self._last_was_prefill = False

    # ---- what is there ---------------------------------------------------------

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def running(self) -> int:
        return len(self._resident)

    @property
    def idle(self) -> bool:
        return not self._queue and not self._resident

    def phase(self, id: str) -> Phase:
        """The phase of a ticket; ``FINISHED`` for one that is not here."""
        entry = self._queue.get(id) or self._resident.get(id)
        return entry.phase if entry else Phase.FINISHED

    def slot(self, id: str) -> int:
        """The slot of a resident ticket; KeyError for any other."""
        return self._resident[id].slot

    def residents(self) -> tuple[tuple[int, str, Phase, int], ...]:
        """(slot, id, phase, tokens held) of every occupied slot, by slot."""
        return tuple(sorted((e.slot, e.ticket.id, e.phase, e.held_tokens) for e in self._resident.values()))

    def explain(self, id: str) -> tuple[Decision, ...]:
        """Every decision about a ticket that is still here, oldest first."""
        entry = self._queue.get(id) or self._resident.get(id)
        return entry.explained() if entry else ()

    # ---- the verbs ---------------------------------------------------------------

    def submit(self, ticket: Ticket, now_ns: int) -> None:
        """Queues a ticket. Raises ``queue_full``, ``context_exceeded``, ``unknown_scheduler_policy``."""
        if ticket.id in self._queue or ticket.id in self._resident:
            raise ValueError(f"ticket {ticket.id!r} is here already")
        if ticket.prompt_tokens < 1 or ticket.max_new_tokens < 1:
            raise ValueError("a ticket has at least one prompt token and one token to generate")
        if ticket.positions > self.context:
            raise EngineError(
                "context_exceeded",
                f"{ticket.prompt_tokens} prompt tokens and {ticket.max_new_tokens} new ones "
                f"do not fit the context of {self.context}",
                path="limits.max_tokens",
                allowed=f"prompt + max_tokens - 1 <= {self.context}",
                hint="shorten the prompt, ask for fewer tokens, or compile the plan with a larger context, "
                "if the model was trained for one",
                exit_code=EXIT_RUN,
            )
        if len(self._queue) >= self.queue_limit:
            raise EngineError(
                "queue_full",
                f"{len(self._queue)} executions are waiting already",
                hint="try again later",
                exit_code=EXIT_RUN,
            )
        entry = _Entry(ticket, self._arrivals, now_ns, policies.get(ticket.policy))
        self._arrivals += 1
        self._queue[ticket.id] = entry
        entry.note(
            now_ns,
            self._steps,
            "queued",
            f"policy {ticket.policy}",
            ("ahead", len(self._queue) - 1),
            ("running", len(self._resident)),
        )

    def cancel(self, id: str, now_ns: int, reason: str = "cancelled") -> tuple[Decision, ...]:
        """Takes a ticket out in any phase and frees its slot. Returns its decisions.

        Between ``schedule`` and ``commit`` the open step keeps the part; commit then
        ignores it. A ticket that is not here gives ``()``.
        """
        entry = self._queue.pop(id, None)
        if entry is None:
            entry = self._resident.pop(id, None)
            if entry is None:
                return ()
            self.memory.give(entry.slot)
        entry.note(now_ns, self._steps, "cancelled", reason, ("held_tokens", entry.held_tokens))
        return entry.explained()

    def schedule(self, now_ns: int, turn_ns: int | None = None) -> Step | Hold | None:
        """The next step, how long to wait and why, or None when there is nothing to do.

        ``turn_ns``: how long a step may last by the cost model because others wait for the
        machine; prompts are then cut to that, though never below an eighth of a step's tokens.
        """
        if self._open is not None:
            raise RuntimeError("the step before has not been committed")
        if self.idle:
            return None
        governing = min((*self._queue.values(), *self._resident.values()), key=lambda e: e.order).policy
        admitted, hold = self._admit(governing, now_ns)
        if not self._resident:
            assert hold is not None  # somebody waits and every slot is free, so only a hold is left
            return hold
        parts = self._fill(governing, now_ns, turn_ns)
        self._steps += 1
        self._open = Step(self._steps, parts, governing.name, tuple(e.ticket.id for e in admitted))
        return self._open

    def commit(
        self,
        step: Step,
        finished: Collection[str],
        now_ns: int,
        accepted: Mapping[str, int] | None = None,
    ) -> dict[str, tuple[Decision, ...]]:
        """Takes a run step into account. ``finished``: sequences that ended with it;
        ``accepted``: tokens that each decode gained, 1 where it is not named.

        The slots of the finished are free afterwards; returns the decisions of each.
        """
        if step is not self._open:
            raise RuntimeError("only the step that schedule() gave last can be committed")
        self._open = None
        for part in step.parts:
            entry = self._resident.get(part.id)
            if entry is None or entry.slot != part.slot:
                continue  # cancelled while the step ran
            if part.phase is Phase.PREFILL:
                entry.prefilled += part.count
            else:
                entry.generated += (accepted or {}).get(part.id, 1)
            entry.last_step = step.number
        explained: dict[str, tuple[Decision, ...]] = {}
        for id in finished:
            entry = self._resident.pop(id, None)
            if entry is None:
                continue
            self.memory.give(entry.slot)
            entry.note(now_ns, self._steps, "finished", "ended", ("held_tokens", entry.held_tokens))
            explained[id] = entry.explained()
        return explained

    def abandon(self, step: Step) -> None:
        """Gives up an open step whose run failed; the state is as before it was scheduled,
        except that admitted tickets stay admitted."""
        if step is not self._open:
            raise RuntimeError("only the step that schedule() gave last can be abandoned")
        self._open = None

    def check(self) -> None:
        """Integrity: every taken slot is held by exactly one resident. Raises ``scheduler_integrity``."""
        held = [entry.slot for entry in self._resident.values()]
        problems = []
        if sorted(held) != sorted(self.memory.held):
            problems.append(f"slots of residents {sorted(held)}, taken {sorted(self.memory.held)}")
        if self._queue.keys() & self._resident.keys():
            problems.append("a ticket is queued and resident at once")
        if any(entry.slot >= 0 for entry in self._queue.values()):
            problems.append("a queued ticket holds a slot")
        if len(self._queue) > self.queue_limit:
            problems.append(f"{len(self._queue)} queued, {self.queue_limit} allowed")
        if problems:
            raise EngineError("scheduler_integrity", "; ".join(problems), exit_code=EXIT_RUN)

    # ---- how a step comes about -----------------------------------------------------

    def _view(self, now_ns: int, following: Collection[str] = ()) -> policies.View:
        residents = self._resident.values()
        return policies.View(
            now_ns=now_ns,
            slots=self.memory.slots,
            free_slots=self.memory.free,
            step_tokens=self.step_tokens,
            decoding=sum(e.phase is Phase.DECODE for e in residents),
            kv_tokens=sum(e.held_tokens for e in residents),
            waiting=tuple(
                policies.Waiting(
                    e.ticket.id,
                    e.order,
                    e.since_ns,
                    e.ticket.prompt_tokens,
                    e.ticket.max_new_tokens,
                    e.ticket.deadline_ns,
                )
                for e in self._queue.values()
            ),
            prefilling=tuple(
                policies.Prefilling(e.ticket.id, e.order, e.ticket.prompt_tokens - e.prefilled)
                for e in residents
                if e.phase is Phase.PREFILL and e.ticket.id not in following
            ),
            cost=self.cost,
        )

    def _admit(self, governing: policies.Policy, now_ns: int) -> tuple[list[_Entry], Hold | None]:
        admitted: list[_Entry] = []
        if not self._queue:
            return admitted, None
        if not self.memory.free:
            for entry in self._queue.values():
                self._note_full(entry, now_ns)
            return admitted, None
        view = self._view(now_ns)
        until = min(e.since_ns for e in self._queue.values()) + governing.hold_ns(view)
        if now_ns < until:
            reason = f"{governing.name} waits for company"
            for entry in self._queue.values():
                entry.note(now_ns, self._steps, "delayed", reason, ("waiting", len(self._queue)))
            return admitted, Hold(until, reason)
        keys = {w.id: (*governing.admission_key(w, view), w.order) for w in view.waiting}
        ranked = sorted(self._queue.values(), key=lambda e: keys[e.ticket.id])
        while self.memory.free and self._queue:
            overdue = next((e for e in self._queue.values() if e.passed_over >= PATIENCE), None)
            entry = overdue or next(e for e in ranked if e.slot < 0)
            if not self.memory.fits(entry.ticket.positions, entry.ticket.prompt):
                break  # nobody passes it by: what it waits for would be taken again and again
            for other in self._queue.values():
                if other.order >= entry.order:
                    break
                other.passed_over += 1
            del self._queue[entry.ticket.id]
            entry.slot = self.memory.take(entry.ticket.positions, entry.ticket.prompt)
            entry.prefilled = self.memory.length(entry.slot)
            entry.last_step = self._steps
            self._resident[entry.ticket.id] = entry
            admitted.append(entry)
            entry.note(
                now_ns,
                self._steps,
                "admitted",
                "passed over often enough" if overdue else f"first by {governing.name}",
                ("slot", entry.slot),
                ("waited_ns", now_ns - entry.since_ns),
                ("running", len(self._resident)),
                *((("reused_tokens", entry.prefilled),) if entry.prefilled else ()),
            )
        for entry in self._queue.values():
            self._note_full(entry, now_ns)
        return admitted, None

    def _note_full(self, entry: _Entry, now_ns: int) -> None:
        if self.memory.free:
            pages = sum(pool.in_use for pool in self.memory.pools)
            entry.note(now_ns, self._steps, "delayed", "too few pages are free", ("pages_in_use", pages))
        else:
            entry.note(now_ns, self._steps, "delayed", "every slot is taken", ("slots", self.memory.slots))

    def _follow(self, now_ns: int) -> set[str]:
        """Lets prompts take over what others have computed of them since, and names those that wait:
        the prompt that moves in every step is about to compute the same block."""
        prefilling = [e for e in self._resident.values() if e.phase is Phase.PREFILL]
        for entry in prefilling:
            length = self.memory.advance(entry.slot)
            if length > entry.prefilled:
                taken = ("reused_tokens", length - entry.prefilled)
                entry.prefilled = length
                entry.note(now_ns, self._steps, "reused", "another prompt begins the same", taken)
        if len(prefilling) < 2:
            return set()
        oldest = min(prefilling, key=lambda e: e.order)
        waiting = set()
        for entry in prefilling:
            name = self.memory.ahead(entry.slot)
            if entry is not oldest and name is not None and self.memory.will_hold(oldest.slot, name):
                waiting.add(entry.ticket.id)
                entry.note(now_ns, self._steps, "delayed", f"{oldest.ticket.id} computes the same prefix")
        return waiting

    def _fill(self, governing: policies.Policy, now_ns: int, turn_ns: int | None) -> tuple[Part, ...]:
        following = self._follow(now_ns)
        decoding = sorted(
            (e for e in self._resident.values() if e.phase is Phase.DECODE),
            key=lambda e: (e.last_step, e.order),
        )
        prefilling = len(decoding) < len(self._resident)
        # A place is kept for prompts, or a full house of decodes would starve them; with a
        # single token a step, prompts and decodes take turns.
        reserve = 0
        if prefilling and decoding:
            reserve = 1 if self.step_tokens > 1 or not self._last_was_prefill else 0
        decoding = decoding[: self.step_tokens - reserve]
        # Drafts take what is left where no prompt wants it, equally.
        spare = 0 if prefilling or not decoding else self.step_tokens // len(decoding) - 1
        parts = []
        for e in sorted(decoding, key=lambda e: e.slot):
            count = 1 + max(0, min(self.draft_tokens, spare, e.undecoded - 1))
            parts.append(Part(e.ticket.id, e.slot, Phase.DECODE, e.held_tokens, count, count))
        budget = self.step_tokens - sum(part.count for part in parts)
        chunks: dict[str, int] = {}
        if prefilling and budget:
            view = self._view(now_ns, following)
            wanted = max(1, min(budget, governing.prefill_tokens(budget, view)))
            if turn_ns is not None:
                within = max(self.cost.tokens_within(turn_ns) - len(parts), self.step_tokens // 8, 1)
                wanted = min(wanted, within)
            # The oldest prompt moves in every step that prefills at all, whatever the policy divides.
            oldest = min(view.prefilling, key=lambda p: p.order)
            chunks = dict(governing.divide(wanted, view.prefilling))
            if not chunks.get(oldest.id):
                chunks = {oldest.id: 1, **_without_one(chunks, wanted)}
            _check_chunks(chunks, wanted, view, governing.name)
        self._last_was_prefill = bool(chunks)
        for id, count in sorted(chunks.items(), key=lambda item: self._resident[item[0]].slot):
            if count:
                entry = self._resident[id]
                ends = entry.prefilled + count == entry.ticket.prompt_tokens
                parts.append(Part(id, entry.slot, Phase.PREFILL, entry.prefilled, count, int(ends)))
        for part in parts:
            self._resident[part.id].note(
                now_ns,
                self._steps,
                "batched" if part.phase is Phase.DECODE else "prefill",
                governing.name,
                ("sequences", len(parts)),
                ("tokens", part.count),
                *((("turn_ns", turn_ns),) if turn_ns is not None else ()),
            )
        return tuple(parts)


def _without_one(chunks: dict[str, int], budget: int) -> dict[str, int]:
    """The same chunks with one token less where they fill the budget."""
    if sum(chunks.values()) < budget:
        return chunks
    largest = max(chunks, key=lambda id: chunks[id])
    return {id: count - (id == largest) for id, count in chunks.items()}


def _check_chunks(chunks: dict[str, int], budget: int, view: policies.View, name: str) -> None:
    """A registered policy from elsewhere is held to its contract."""
    remaining = {p.id: p.remaining for p in view.prefilling}
    legal = all(0 <= count <= remaining.get(id, -1) for id, count in chunks.items())
    if not legal or not 0 < sum(chunks.values()) <= budget:
        raise EngineError(
            "scheduler_policy_broken",
            f"policy {name!r} divided {budget} prefill tokens as {chunks}, remaining {remaining}",
            exit_code=EXIT_RUN,
        )
