"""Energy while executions run: accounts, the trailing mean of power, and the limits on both.

``max_joules`` is compared with an execution's own share. ``max_watts`` is a cap on what
the meter shows (packages and DRAM) while the execution is active, as a mean over the
last ten seconds, or since the meter's activity began where that is shorter. Without
a meter both are unknown, and nothing is stopped or paced.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from runtime.metrics.energy import EnergyMeter
from runtime.metrics.shares import EnergyLedger

if TYPE_CHECKING:
    from runtime.control.execution import Execution

#: The mean that ``max_watts`` speaks of is taken over this time.
WINDOW_NS = 10_000_000_000
#: A mean over less than this is not judged by ``on_limit: stop``: counters are too coarse.
SETTLE_NS = 1_000_000_000
#: Pacing looks at the meter again after at most this long, since waiting costs energy too.
SLICE_NS = 100_000_000


class Power:
    """Driven by the executor's thread; :meth:`watts` may be read from others."""

    def __init__(self, meter: EnergyMeter, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.meter = meter
        self.ledger = EnergyLedger(meter)
        self._clock = clock
        self._open: set[str] = set()
        self._since_ns = 0  # when the present activity began
        self._window: deque[tuple[int, float]] = deque()  # (end of a stretch, joules of it)
        self._largest = 0.0  # the most joules a recent step took: what the next may take

    @property
    def available(self) -> bool:
        return self.meter.available

    def open(self, execution: Execution) -> None:
        """An execution becomes active: its account begins here."""
        if not self._open:
            self._since_ns = self._clock()
            self._window.clear()
        self.ledger.open(execution.id)
        self._open.add(execution.id)

    def step(self, works: Mapping[str, int]) -> None:
        """A step has ended; its joules are shared by the tokens each execution had in it."""
        if not self._open:
            return
        reading = self.ledger.step({id: float(n) for id, n in works.items() if id in self._open})
        if reading.joules is not None:
            self._note(reading.joules)
            self._largest = max(reading.joules, self._largest * 0.9)

    def close(self, execution: Execution) -> None:
        """The execution's energy, kept on it; nothing if it was never active."""
        if execution.id in self._open:
            self._open.discard(execution.id)
            execution.energy = self.ledger.close(execution.id)

    def watts(self) -> float | None:
        """The trailing mean, or None without a meter or activity."""
        now = self._clock()
        window = list(self._window)
        if not window or now - window[-1][0] > WINDOW_NS:
            return None
        return self._mean(window, now)

    def exceeded(self, execution: Execution) -> bool:
        """Whether the execution has to end with ``energy_limit`` now."""
        limits = execution.spec.limits
        if not self.available or execution.id not in self._open:
            return False
        joules = self.ledger.joules(execution.id)
        if limits.max_joules is not None and joules is not None and joules >= limits.max_joules:
            return True
        if execution.unholdable:
            return True
        if limits.max_watts is None or limits.on_limit != "stop":
            return False
        now = self._clock()
        return now - self._since_ns >= SETTLE_NS and self._mean(list(self._window), now) > limits.max_watts

    def pace_ns(self, executions: Sequence[Execution]) -> int:
        """How long the next step has to wait for the strictest cap among its paced executions.

        At most :data:`SLICE_NS`; asked again afterwards. The energy that the next step may
        take is counted in beforehand, so that the mean is under the cap after it too.
        """
        caps = [
            e.spec.limits.max_watts
            for e in executions
            if e.spec.limits.max_watts is not None and e.spec.limits.on_limit == "pace"
        ]
        if not caps or not self.available or not self._window:
            return 0
        cap = min(caps)
        now = self._clock()
        spent = sum(joules for end, joules in self._window if end > now - WINDOW_NS)
        span = min(WINDOW_NS, now - self._since_ns)
        missing = (spent + self._largest) / cap * 1e9 - span
        return 0 if missing <= 0 else min(int(missing) + 1, SLICE_NS)

    def idle(self) -> None:
        """Charges what waiting took, so that the next look at the mean sees it."""
        if self._open:
            reading = self.ledger.step({})
            if reading.joules is not None:
                self._note(reading.joules)

    def _note(self, joules: float) -> None:
        now = self._clock()
        self._window.append((now, joules))
        while self._window and self._window[0][0] <= now - WINDOW_NS:
            self._window.popleft()

    def _mean(self, window: list[tuple[int, float]], now: int) -> float:
        span = max(1, min(WINDOW_NS, now - self._since_ns))
        return sum(joules for end, joules in window if end > now - WINDOW_NS) / (span / 1e9)
