"""What the server counts, as Prometheus reads it: the control plane's hooks feed the metrics."""

from __future__ import annotations

from runtime.control.execution import Execution
from runtime.control.plane import ControlPlane
from runtime.control.types import Outcome
from runtime.engine.types import StepReport
from runtime.metrics.prometheus import CONTENT_TYPE, ServerMetrics
from runtime.scheduler import Step

__all__ = ["CONTENT_TYPE", "Telemetry"]


class Telemetry:
    """``settled`` and ``stepped`` are the hooks of :class:`ControlPlane`."""

    def __init__(self) -> None:
        self.metrics = ServerMetrics()

    def settled(self, execution: Execution, outcome: Outcome) -> None:
        """An execution has ended; times count from its arrival."""
        arrived = execution.created_ns
        admitted = execution.admitted_ns or execution.finished_ns or arrived
        self.metrics.finished(
            outcome.bundle,
            str(outcome.stop_reason),
            token_times=[(time - arrived) / 1e9 for time in outcome.token_ns],
            queue_seconds=(admitted - arrived) / 1e9,
            total_seconds=((execution.finished_ns or admitted) - arrived) / 1e9,
            drafted=outcome.drafted,
        )

    def stepped(self, plan: str, step: Step, report: StepReport) -> None:
        """A step has ended."""
        self.metrics.step(
            plan,
            tokens=step.tokens,
            prompt_tokens=report.n_prefill,
            generated=len(report.events),
            forward_seconds=report.forward_ns / 1e9,
        )

    def render(self, plane: ControlPlane) -> bytes:
        """The exposition, gauges as of now."""
        for lane, residents in plane.executor.slots():
            self.metrics.load(lane.name, running=len(residents), waiting=lane.scheduler.queued)
            memory = lane.bundle.engine.memory
            self.metrics.memory(
                lane.name,
                usage=memory.kv_usage,
                looked_up=memory.counts.tokens,
                reused=memory.counts.reused,
            )
        power = plane.executor.power
        self.metrics.energy(plane.meter.source, dict(power.ledger.totals))
        self.metrics.power(plane.meter.source, power.watts())
        return self.metrics.render()
