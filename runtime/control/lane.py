"""One served bundle inside the executor: its scheduler, its sequences, one step at a time."""

from __future__ import annotations

from collections.abc import Callable

from runtime.control.execution import Execution
from runtime.control.types import ServedBundle, TokenOut
from runtime.engine.types import SequenceLike, StepReport, StopReason
from runtime.errors import EXIT_RUN, EngineError
from runtime.scheduler import Phase, Scheduler, Step, Ticket


class Lane:
    """Executions of one bundle.

    ``executions`` and the scheduler are shared with the threads that submit: they change, and are
    iterated over, under the executor's lock only. ``active`` are those that hold a sequence, by the
    identity of that sequence; it belongs to the executor's thread, which needs no lock for it.
    """

    def __init__(self, bundle: ServedBundle, queue_limit: int) -> None:
        limits = bundle.engine.limits
        self.bundle = bundle
        self.name = bundle.info.name
        self.scheduler = Scheduler(
            memory=bundle.engine.memory,
            step_tokens=limits.step_tokens,
            context=limits.context,
            queue_limit=queue_limit,
            cost=bundle.info.cost,
            draft_tokens=bundle.engine.draft_tokens,
        )
        self.executions: dict[str, Execution] = {}
        self.active: dict[int, Execution] = {}
        self.retiring = False

    def submit(self, execution: Execution, now_ns: int) -> None:
        """Queues an execution. Raises what :meth:`Scheduler.submit` raises."""
        spec = execution.spec
        tokens, most = len(spec.request.prompt_ids), spec.request.limits.max_tokens
        ticket = Ticket(execution.id, tokens, most, spec.policy, execution.deadline_ns, execution.prompt)
        self.scheduler.submit(ticket, now_ns)
        self.executions[execution.id] = execution

    def admit(self, execution: Execution, slot: int, now_ns: int) -> None:
        """Gives an admitted execution its sequence, in the slot that the scheduler took for it.

        Raises EngineError if the engine refuses it.
        """
        execution.sequence = self.bundle.engine.admit(execution.spec.request, slot)
        self.active[id(execution.sequence)] = execution
        execution.op_times_ns = self._op_times(execution)
        execution.admitted_ns = now_ns
        execution.phase = Phase.PREFILL

    def work(self, step: Step) -> list[tuple[SequenceLike, int]]:
        """The engine's view of a step: sequences with their tokens, those that are gone left out."""
        items = []
        for part in step.parts:
            sequence = self._sequence(part.id)
            if sequence is not None:
                items.append((sequence, part.count))
        return items

    def rows(self, step: Step, report: StepReport) -> dict[str, int]:
        """Tokens that each execution had in a step, drafted ones included, by id."""
        ids = [part.id for part in step.parts if self._sequence(part.id) is not None]
        return dict(zip(ids, report.rows, strict=True))

    def _sequence(self, id: str) -> SequenceLike | None:
        execution = self.executions.get(id)
        return None if execution is None else execution.sequence

    def estimate_ns(self, step: Step) -> int:
        """How long a step should take, by the static cost of the graph."""
        held = sum(part.start + part.count for part in step.parts)
        return self.bundle.info.cost.step_ns(step.tokens, held)

    def stood_by(self, ns: int) -> None:
        """A step of another bundle took the machine for ``ns``."""
        for execution in self.active.values():
            execution.others_ns += ns

    def account(self, step: Step, report: StepReport) -> None:
        """Adds a step's times to the executions that were in it."""
        forward = report.forward_ns
        for part in step.parts:
            execution = self.executions.get(part.id)
            if execution is None:
                continue
            execution.steps += 1
            execution.step_ns += report.ended_ns - report.started_ns
            execution.forward_ns += forward
            execution.wait_ns += report.wait_ns
            execution.shared_steps += len(step.parts) > 1
            if part.wanted:
                execution.phase = Phase.DECODE

    def deliver(self, report: StepReport) -> dict[str, int]:
        """Passes the step's tokens on to whoever follows each execution; how many each gained, by id."""
        gained: dict[str, int] = {}
        for event in report.events:
            execution = self.active[id(event.sequence)]
            execution.deliver(
                TokenOut(
                    event.index, event.token, event.text, event.time_ns, event.logprob, event.top_logprobs
                )
            )
            gained[execution.id] = gained.get(execution.id, 0) + 1
        return gained

    def ended(self) -> list[Execution]:
        """Executions whose sequence has stopped."""
        return [
            execution
            for execution in self.active.values()
            if execution.sequence is not None and execution.sequence.stop_reason is not None
        ]

    def _op_times(self, execution: Execution) -> dict[str, int] | None:
        """Nanoseconds in each kind of op since the engine was opened, where the plan asks for them."""
        executable = getattr(self.bundle.engine, "executable", None)
        if executable is None or not execution.spec.plan.observability.op_timing:
            return None
        times: dict[str, int] = executable.op_times()
        return times

    def remove(self, execution: Execution, clock: Callable[[], int]) -> None:
        """Takes an ended execution out and frees its slot; its state is complete afterwards."""
        sequence = execution.sequence
        if sequence is not None:
            self.active.pop(id(sequence), None)
            execution.stop_reason = sequence.stop_reason or execution.stop_reason or StopReason.CANCELLED
            execution.error = execution.error or sequence.error
            execution.finished_ns = sequence.finished_ns or clock()
            if execution.op_times_ns is not None:
                # Of shared steps nobody can say whose time an op took.
                before, after = execution.op_times_ns, self._op_times(execution) or {}
                alone = execution.shared_steps == 0
                execution.op_times_ns = {op: ns - before[op] for op, ns in after.items()} if alone else None
            self.bundle.engine.release(sequence)
        else:
            execution.finished_ns = clock()
        self.executions.pop(execution.id, None)

    def check(self) -> None:
        """Integrity while idle: no slot of the scheduler or the engine is held by anybody, nor any page."""
        self.scheduler.check()
        engine = self.bundle.engine
        held = max(engine.sequences, len(engine.memory.held))
        if held or self.executions or self.active:
            raise EngineError(
                "slot_leak",
                f"{self.name} is idle, yet {held} of {engine.memory.slots} slots are held "
                f"and {len(self.executions | self.active)} executions are open",
                exit_code=EXIT_RUN,
            )
        in_use = sum(pool.in_use for pool in engine.memory.pools)
        if complaints := [*([f"{in_use} pages are in use"] if in_use else []), *engine.memory.check()]:
            raise EngineError(
                "page_leak", f"{self.name} is idle, yet {'; '.join(complaints)}", exit_code=EXIT_RUN
            )
