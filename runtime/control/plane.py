"""The control plane: executions from submission to record, over one executor.

Submission, cancellation and questions come from any thread. What ended is turned
into metrics and a record on the *recorder* thread, so that the disk never delays
a step; only then does the reply end. An execution that was acknowledged is
therefore in the records.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from runtime.control.execution import Execution
from runtime.control.executor import Executor
from runtime.control.outcome import make_outcome, record_of
from runtime.control.types import BundleInfo, Listener, Outcome, RecordStoreLike, RunSpec, ServedBundle
from runtime.engine.loop import sequence_needs
from runtime.engine.types import StepReport, StopReason
from runtime.errors import EXIT_RUN, EngineError
from runtime.metrics.energy import EnergyMeter
from runtime.scheduler import Step

log = logging.getLogger("engine.control")

#: Settled executions remembered in memory, so that a reply can be looked up at once.
REMEMBERED = 256


class ControlPlane:
    """Everything the API and the CLI may do with executions.

    ``settled`` is called on the recorder thread with every execution and its outcome
    (Prometheus metrics), ``stepped`` on the executor's with every step.
    """

    def __init__(
        self,
        *,
        records: RecordStoreLike,
        meter: EnergyMeter,
        queue_limit: int = 64,
        settled: Callable[[Execution, Outcome], None] | None = None,
        stepped: Callable[[str, Step, StepReport], None] | None = None,
    ) -> None:
        self.records = records
        self.meter = meter
        self.started_unix = int(time.time())
        self._settled_hook = settled
        self._bundles: dict[str, ServedBundle] = {}
        self._live: dict[str, Execution] = {}
        self._recent: OrderedDict[str, Execution] = OrderedDict()
        self._lock = threading.Lock()
        self._ended: queue.SimpleQueue[Execution | None] = queue.SimpleQueue()
        self.executor = Executor(
            meter=meter, finished=self._ended.put, observe=stepped, queue_limit=queue_limit
        )
        self._recorder = threading.Thread(target=self._record, name="engine-recorder", daemon=True)

    # ---- bundles ------------------------------------------------------------------

    def serve(self, bundle: ServedBundle) -> None:
        """Takes a loaded bundle into service."""
        self.executor.add(bundle)
        with self._lock:
            self._bundles[bundle.info.name] = bundle

    def retire(self, name: str, timeout: float = 5.0) -> None:
        """Takes a bundle out of service and frees it. Raises ``bundle_not_served``, ``bundle_busy``."""
        self.bundle(name)
        bundle = self.executor.retire(name, timeout)
        with self._lock:
            self._bundles.pop(name, None)
        bundle.close()

    def bundle(self, name: str) -> ServedBundle:
        """The served bundle of that name. Raises ``bundle_not_served``."""
        with self._lock:
            found = self._bundles.get(name)
        if found is None:
            raise EngineError("bundle_not_served", f"{name} is not served")
        return found

    def bundles(self) -> list[ServedBundle]:
        with self._lock:
            return list(self._bundles.values())

    def infos(self) -> list[BundleInfo]:
        return [bundle.info for bundle in self.bundles()]

    # ---- executions ------------------------------------------------------------------

    def start(self) -> None:
        """Starts the threads; bundles may be added before and after."""
        self._recorder.start()
        self.executor.start()

    def submit(self, spec: RunSpec, listener: Listener | None = None) -> Execution:
        """Queues an execution; raises what :meth:`Executor.submit` raises, and then nothing was queued."""
        if self.executor.failure is not None:
            raise self.executor.failure
        bundle = self.bundle(spec.bundle)
        _, prompt = sequence_needs(spec.request, bundle.info.plan.execution.context)
        bundle.engine.memory.fetch(prompt)  # here, where it keeps nobody else waiting
        execution = Execution(spec, bundle.info, listener=listener, prompt=prompt)
        with self._lock:
            self._live[execution.id] = execution
        try:
            self.executor.submit(execution)
        except EngineError:
            with self._lock:
                self._live.pop(execution.id, None)
            raise
        return execution

    def run(self, spec: RunSpec) -> Outcome:
        """Submits and waits for the outcome (not for the event loop)."""
        execution = self.submit(spec)
        execution.settled.wait()
        assert execution.outcome is not None
        return execution.outcome

    def cancel(self, execution_id: str) -> bool:
        """Cancels a live execution; False if there is none of that id."""
        with self._lock:
            execution = self._live.get(execution_id)
        if execution is None:
            return False
        self.executor.cancel(execution)
        return True

    def find(self, execution_id: str) -> Execution | None:
        """A live or recently settled execution."""
        with self._lock:
            return self._live.get(execution_id) or self._recent.get(execution_id)

    def live(self) -> list[Execution]:
        """Executions that have not settled, oldest first."""
        with self._lock:
            return list(self._live.values())

    # ---- the end ----------------------------------------------------------------------

    def drain(self, deadline_seconds: float) -> bool:
        """Refuses new executions and waits for the present ones; True if all ended in time."""
        self.executor.drain()
        return self.executor.wait_idle(deadline_seconds)

    def stop(self) -> None:
        """Cancels what is left, writes the last records, ends the threads, closes the bundles."""
        self.executor.stop()
        self._ended.put(None)
        if self._recorder.ident is not None:
            self._recorder.join()
        self.meter.close()

    def status(self) -> dict[str, Any]:
        """Counts of the moment, for ``/slots``, ``/metrics`` and ``engine top``."""
        return {
            "running": self.executor.running(),
            "waiting": self.executor.queued(),
            "watts": self.executor.power.watts(),
            "energy_source": self.meter.source,
            "energy_reason": self.meter.reason,
        }

    # ---- the recorder -------------------------------------------------------------------

    def _record(self) -> None:
        while (execution := self._ended.get()) is not None:
            try:
                outcome = self._settle(execution)
            except Exception as error:
                log.exception("execution %s could not be settled", execution.id)
                outcome = _unsettled(execution, error)
            with self._lock:
                self._live.pop(execution.id, None)
                self._recent[execution.id] = execution
                while len(self._recent) > REMEMBERED:
                    self._recent.popitem(last=False)
            execution.settle(outcome)
            if self._settled_hook is not None:
                try:
                    self._settled_hook(execution, outcome)
                except Exception:
                    log.exception("the hook for settled executions failed")

    def _settle(self, execution: Execution) -> Outcome:
        outcome = make_outcome(execution, self.meter.reason or "no meter")
        try:
            return replace(outcome, record_hash=self.records.append(record_of(execution, outcome)))
        except EngineError as error:
            # Unrecorded is unacknowledged: the reply says so instead of pretending.
            log.error("execution %s could not be recorded: %s", execution.id, error)
            return replace(outcome, stop_reason=StopReason.ERROR, error=error)


def _unsettled(execution: Execution, error: Exception) -> Outcome:
    cause = error if isinstance(error, EngineError) else None
    return Outcome(
        id=execution.id,
        bundle=execution.spec.bundle,
        text="",
        token_ids=(),
        prompt_tokens=len(execution.spec.request.prompt_ids),
        stop_reason=StopReason.ERROR,
        error=cause
        or EngineError(
            "internal_error", f"the execution could not be settled: {error!r}", exit_code=EXIT_RUN
        ),
        metrics={},
        diagnostics={},
        decisions=execution.decisions,
    )
