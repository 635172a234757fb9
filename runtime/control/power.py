"""Energy while executions run: accounts, the trailing mean of power, and the limits on both.

``max_joules`` is compared with an execution's own share. ``max_watts`` caps what the
meter shows (packages and DRAM) while executions are active, as the mean that
:mod:`runtime.metrics.limits` defines. Without a meter both are unknown, and nothing
is stopped or paced.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING

from runtime.metrics.energy import EnergyMeter
from runtime.metrics.limits import (
    SETTLE_SECONDS,
    SLICE_SECONDS,
    WINDOW_SECONDS,
    PowerSample,
    mean_watts,
    pace_seconds,
)
from runtime.metrics.shares import EnergyLedger

if TYPE_CHECKING:
    from runtime.control.execution import Execution


class Power:
    """Driven by the executor's thread; :meth:`watts` may be read from others. Clock in nanoseconds."""

    def __init__(self, meter: EnergyMeter, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.meter = meter
        self.ledger = EnergyLedger(meter)
        self._clock = clock
        self._open: set[str] = set()
        self._samples: list[PowerSample] = []  # joules since the present activity began
        self._step = (0.0, 0.0)  # the most joules and seconds a recent step took
        self._idle_watts = 0.0

    @property
    def available(self) -> bool:
        return self.meter.available

    def open(self, execution: Execution) -> None:
        """An execution becomes active: its account begins here."""
        if not self._open:
            self._samples = [PowerSample(self._now(), 0.0)]
        self.ledger.open(execution.id)
        self._open.add(execution.id)

    def step(self, works: Mapping[str, int]) -> None:
        """A step has ended; its joules are shared by the tokens each execution had in it."""
        if not self._open or not self.available:
            return
        joules, seconds = self._charge({id: float(n) for id, n in works.items() if id in self._open})
        self._step = (max(joules, 0.9 * self._step[0]), max(seconds, 0.9 * self._step[1]))

    def waited(self) -> None:
        """A stretch of waiting has ended; its joules are shared evenly."""
        if self._open and self.available:
            joules, seconds = self._charge({})
            self._idle_watts = 0.8 * self._idle_watts + 0.2 * joules / max(seconds, 1e-9)

    def close(self, execution: Execution) -> None:
        """The execution's energy, kept on it; nothing if it was never active."""
        if execution.id in self._open:
            self._open.discard(execution.id)
            execution.energy = self.ledger.close(execution.id)

    def watts(self) -> float | None:
        """The trailing mean, or None without a meter or recent activity."""
        samples = list(self._samples)
        if not self.available or not samples or self._now() - samples[-1].seconds > WINDOW_SECONDS:
            return None
        return mean_watts(samples)

    def exceeded(self, execution: Execution) -> bool:
        """Whether the execution has to end with ``energy_limit`` now."""
        limits = execution.spec.request.limits
        if not self.available or execution.id not in self._open:
            return False
        joules = self.ledger.joules(execution.id)
        if limits.max_joules is not None and joules is not None and joules >= limits.max_joules:
            return True
        if execution.unholdable:
            return True
        if limits.max_watts is None or limits.on_limit != "stop":
            return False
        watts = mean_watts(self._samples)
        settled = self._samples[-1].seconds - self._samples[0].seconds >= SETTLE_SECONDS
        return settled and watts is not None and watts > limits.max_watts

    def pace(self, executions: Sequence[Execution]) -> float:
        """Seconds the next step has to wait for the strictest cap among its paced executions.

        At most SLICE_SECONDS, since waiting costs energy too: asked again afterwards.
        Those whose cap no waiting can hold are marked ``unholdable`` and not waited for.
        """
        paced = [
            (e.spec.request.limits.max_watts, e)
            for e in executions
            if e.spec.request.limits.max_watts is not None
            and e.spec.request.limits.on_limit == "pace"
            and not e.unholdable
        ]
        if not paced or not self.available or not self._samples:
            return 0.0
        wait = 0.0
        for cap, execution in paced:
            needed = pace_seconds(self._samples, cap, *self._step, self._idle_watts)
            if needed == inf:
                execution.unholdable = True
            else:
                wait = max(wait, needed)
        return min(wait, SLICE_SECONDS)

    def _charge(self, works: dict[object, float]) -> tuple[float, float]:
        """Shares what passed since the last charge; (joules, seconds) of it."""
        reading = self.ledger.step(works)
        last = self._samples[-1]
        seconds = max(self._now(), last.seconds)
        joules = reading.joules
        if joules is None:
            # A gap must not pass for rest: the limits take it that the power went on. Not published.
            joules = (mean_watts(self._samples) or 0.0) * (seconds - last.seconds)
        self._samples.append(PowerSample(seconds, last.joules + joules))
        while len(self._samples) > 2 and self._samples[1].seconds < seconds - 2 * WINDOW_SECONDS:
            del self._samples[0]
        return joules, seconds - last.seconds

    def _now(self) -> float:
        return self._clock() / 1e9
