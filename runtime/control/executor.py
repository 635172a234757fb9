"""The one thread that runs steps: schedule → run → commit, bundle after bundle.

All served bundles share the machine's cores, so their steps run one at a time,
turn by turn. That also makes energy attributable: a joule belongs to the step
during which it was spent. Whatever needs the disk (records) or a client's
attention happens on other threads.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from runtime.control.execution import Execution
from runtime.control.lane import Lane
from runtime.control.power import Power
from runtime.control.turns import TURN_NS, Turns
from runtime.control.types import ServedBundle
from runtime.engine.types import StepReport, StopReason
from runtime.errors import EXIT_RUN, EngineError
from runtime.metrics.energy import EnergyMeter
from runtime.scheduler import Hold, Phase, Step

log = logging.getLogger("engine.executor")


class Executor:
    """Owns the engines of the served bundles. ``finished`` is called on the executor's
    thread with every execution that ended, complete but for its record."""

    def __init__(
        self,
        *,
        meter: EnergyMeter,
        finished: Callable[[Execution], None],
        observe: Callable[[str, Step, StepReport], None] | None = None,
        queue_limit: int = 64,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.power = Power(meter, clock)
        self.failure: EngineError | None = None
        self._finished = finished
        self._observe = observe
        self._queue_limit = queue_limit
        self._clock = clock
        self._lanes: dict[str, Lane] = {}
        self._turns = Turns()
        self._wake = threading.Condition()  # guards lanes, schedulers and the flags below
        self._draining = False
        self._stopping = False
        self._thread = threading.Thread(target=self._main, name="engine-executor", daemon=True)

    # ---- called from any thread -----------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def add(self, bundle: ServedBundle) -> None:
        """Serves a loaded bundle from now on. Raises ``bundle_served_already``."""
        with self._wake:
            if bundle.info.name in self._lanes:
                raise EngineError("bundle_served_already", f"{bundle.info.name} is served already")
            self._lanes[bundle.info.name] = Lane(bundle, self._queue_limit)
            self._turns.add(bundle.info.name)

    def retire(self, name: str, timeout: float | None = None) -> ServedBundle:
        """Takes a bundle out of service once its executions have ended. Raises ``bundle_busy``."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._wake:
            lane = self._lanes[name]
            lane.retiring = True
            while lane.executions:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    lane.retiring = False
                    raise EngineError("bundle_busy", f"{name} still has executions", hint="try again later")
                self._wake.wait(0.05 if left is None else min(left, 0.05))
            del self._lanes[name]
            self._turns.remove(name)
            return lane.bundle

    def submit(self, execution: Execution) -> None:
        """Queues an execution. Raises ``shutting_down``, ``bundle_not_served``, ``queue_full``,
        ``context_exceeded``, ``unknown_scheduler_policy``, ``executor_failed``."""
        with self._wake:
            if self.failure is not None:
                raise self.failure
            if self._draining:
                raise EngineError(
                    "shutting_down", "the server is stopping", hint="try another server, or later"
                )
            lane = self._lanes.get(execution.spec.bundle)
            if lane is None or lane.retiring:
                raise EngineError("bundle_not_served", f"{execution.spec.bundle} is not served")
            lane.submit(execution, self._clock())
            self._wake.notify_all()

    def cancel(self, execution: Execution, reason: StopReason = StopReason.CANCELLED) -> None:
        """Asks for an execution to end; it does before the next step begins."""
        with self._wake:
            if execution.cancel_reason is None:
                execution.cancel_reason = reason
            self._wake.notify_all()

    def lanes(self) -> list[Lane]:
        """The served bundles, in the order they were added or last ran."""
        with self._wake:
            return [self._lanes[name] for name in sorted(self._lanes)]

    def slots(self) -> list[tuple[Lane, tuple[tuple[int, str, Phase, int], ...]]]:
        """Every served bundle with its occupied slots: (slot, execution, phase, tokens held)."""
        with self._wake:
            return [(lane, lane.scheduler.residents()) for lane in self._lanes.values()]

    def queued(self) -> int:
        with self._wake:
            return sum(lane.scheduler.queued for lane in self._lanes.values())

    def running(self) -> int:
        with self._wake:
            return sum(lane.scheduler.running for lane in self._lanes.values())

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and self.failure is None

    def drain(self) -> None:
        """Refuses new executions from now on."""
        with self._wake:
            self._draining = True
            self._wake.notify_all()

    def wait_idle(self, timeout: float) -> bool:
        """Whether everything ended within ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        with self._wake:
            while any(lane.executions for lane in self._lanes.values()):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._wake.wait(min(left, 0.05))
            return True

    def stop(self) -> None:
        """Cancels what is left, ends the thread and closes the engines."""
        with self._wake:
            self._draining = True
            self._stopping = True
            self._wake.notify_all()
        if self._thread.ident is not None:
            self._thread.join()
        for lane in self._lanes.values():
            lane.bundle.close()

    # ---- the thread --------------------------------------------------------------------

    def _main(self) -> None:
        try:
            while self._turn():
                pass
        except Exception as error:  # a defect in here must not leave clients hanging
            log.exception("the executor failed")
            with self._wake:
                self.failure = EngineError(
                    "executor_failed",
                    f"the executor failed: {error!r}",
                    hint="restart the server and report this",
                    exit_code=EXIT_RUN,
                )
                for lane in self._lanes.values():
                    for execution in list(lane.executions.values()):
                        self._end_without_engine(lane, execution, self.failure)
                self._wake.notify_all()

    def _turn(self) -> bool:
        """One round: cancellations, then one step of the first bundle that has one. False: stop."""
        with self._wake:
            self._cancel_wanted()
            if self._stopping and not any(lane.executions for lane in self._lanes.values()):
                return False
            now = self._clock()
            chosen: tuple[Lane, Step] | None = None
            earliest: int | None = None
            busy = [name for name, lane in self._lanes.items() if not lane.scheduler.idle]
            turn_ns = TURN_NS if len(busy) > 1 else None
            for name in self._turns.order(busy):
                lane = self._lanes[name]
                step = self._schedule(lane, now, turn_ns)
                if isinstance(step, Step):
                    chosen = (lane, step)
                    self._turns.take(name, lane.estimate_ns(step))
                    break
                if isinstance(step, Hold):
                    earliest = step.until_ns if earliest is None else min(earliest, step.until_ns)
            if chosen is None:
                if earliest is None:
                    for lane in self._lanes.values():
                        lane.check()
                    self._wake.wait()
                else:
                    self._wake.wait(max(0, earliest - now) / 1e9)
                return True
        self._run(*chosen)
        return True

    def _schedule(self, lane: Lane, now: int, turn_ns: int | None) -> Step | Hold | None:
        """A lane's next step; a policy that breaks its contract ends that lane's executions only."""
        try:
            return lane.scheduler.schedule(now, turn_ns)
        except EngineError as error:
            for execution in list(lane.executions.values()):
                self._fail(lane, execution, error)
            return None

    def _run(self, lane: Lane, step: Step) -> None:
        """Runs one step of one bundle and settles what it ended."""
        self._admit(lane, step)
        in_step = [lane.executions[part.id] for part in step.parts if part.id in lane.executions]
        self._pace(in_step)
        work = lane.work(step)
        if not work:
            with self._wake:
                lane.scheduler.abandon(step)
            return
        try:
            report = lane.bundle.engine.step(work)
        except Exception as error:
            self._fail_step(lane, step, error)
            return
        lane.account(step, report)
        for other in self._lanes.values():
            if other is not lane:
                other.stood_by(report.ended_ns - report.started_ns)
        gained = lane.deliver(report)
        self.power.step(lane.rows(step, report))
        for execution in in_step:
            if execution.sequence is not None and self.power.exceeded(execution):
                lane.bundle.engine.finish(execution.sequence, StopReason.ENERGY_LIMIT)
        ended = lane.ended()
        if self._observe is not None:
            self._observe(lane.name, step, report)
        with self._wake:
            finished = [execution.id for execution in ended]
            explained = lane.scheduler.commit(step, finished, self._clock(), gained)
            for execution in ended:
                execution.decisions = explained.get(execution.id, ())
                self._close(lane, execution)
            if not lane.executions:
                lane.check()
            self._wake.notify_all()

    def _admit(self, lane: Lane, step: Step) -> None:
        for id in step.admitted:
            execution = lane.executions.get(id)
            if execution is None:
                continue
            self.power.open(execution)
            try:
                lane.admit(execution, lane.scheduler.slot(id), self._clock())
            except EngineError as error:
                self._end_without_engine(lane, execution, error)

    def _pace(self, executions: list[Execution]) -> None:
        """Waits between steps to keep power under a cap; a cancellation ends the wait."""
        while (wait := self.power.pace(executions)) > 0:
            began = self._clock()
            with self._wake:
                cut = self._wake.wait_for(
                    lambda: self._stopping or any(e.cancel_reason for e in executions), wait
                )
            self.power.waited()
            for execution in executions:
                execution.paced_ns += self._clock() - began
            if cut:
                return

    def _cancel_wanted(self) -> None:
        """Ends what was cancelled, and what has had its ``max_seconds``, queued or resident."""
        now = self._clock()
        for lane in self._lanes.values():
            for execution in list(lane.executions.values()):
                reason = execution.cancel_reason
                if reason is None and self._stopping:
                    reason = StopReason.CANCELLED
                if reason is None and execution.late(now):
                    reason = StopReason.MAX_SECONDS
                if reason is None:
                    continue
                execution.stop_reason = reason
                if execution.sequence is not None:  # while it has its slot, whose pages it leaves behind
                    lane.bundle.engine.finish(execution.sequence, reason)
                execution.decisions = lane.scheduler.cancel(execution.id, self._clock(), str(reason))
                self._close(lane, execution)
            self._wake.notify_all()

    def _fail_step(self, lane: Lane, step: Step, error: Exception) -> None:
        """A step that raised: its executions end with an error, the server goes on."""
        log.exception("a step of %s failed", lane.name)
        cause = (
            error
            if isinstance(error, EngineError)
            else EngineError("engine_failure", f"the step failed: {error!r}", exit_code=EXIT_RUN)
        )
        with self._wake:
            lane.scheduler.abandon(step)
            for part in step.parts:
                execution = lane.executions.get(part.id)
                if execution is not None:
                    self._fail(lane, execution, cause)
            self._wake.notify_all()

    def _fail(self, lane: Lane, execution: Execution, cause: EngineError) -> None:
        execution.decisions = lane.scheduler.cancel(execution.id, self._clock(), cause.code)
        if execution.sequence is not None:
            lane.bundle.engine.finish(execution.sequence, StopReason.ERROR, cause)
        execution.stop_reason, execution.error = StopReason.ERROR, cause
        self._close(lane, execution)

    def _end_without_engine(self, lane: Lane, execution: Execution, error: EngineError) -> None:
        with self._wake:
            execution.decisions = lane.scheduler.cancel(execution.id, self._clock(), error.code)
            execution.stop_reason, execution.error = StopReason.ERROR, error
            execution.sequence = None
            self._close(lane, execution)

    def _close(self, lane: Lane, execution: Execution) -> None:
        """The last the executor does for an execution: slot and energy account are closed."""
        lane.remove(execution, self._clock)
        self.power.close(execution)
        self._finished(execution)
