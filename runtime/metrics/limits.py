"""Limits on power and energy: when an execution must end, and how long a step must wait.

``max_watts`` is a cap on the mean of the last :data:`WINDOW_SECONDS` of what the
meter shows, or of the time since the execution began while that is shorter;
``max_joules`` on the execution's energy. ``on_limit: stop`` ends the execution
when the mean has passed the cap; ``pace`` spaces the steps so that it never
does: waiting changes no bit of the output. The kernel's own power limits are
left alone.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

from runtime.metrics.energy import EnergyMark, EnergyMeter
from runtime.metrics.reading import EnergyReading

WINDOW_SECONDS = 10.0
#: A mean over less than this does not end an execution: counters are too coarse.
SETTLE_SECONDS = 1.0
#: Longest single wait; the meter is looked at again after it.
SLICE_SECONDS = 0.1


@dataclass(frozen=True)
class PowerSample:
    """Joules used since the execution began, at a time in seconds."""

    seconds: float
    joules: float


def joules_at(samples: Sequence[PowerSample], seconds: float) -> float:
    """Joules used up to a moment, linear between samples, constant outside them."""
    at = bisect_right(samples, seconds, key=lambda sample: sample.seconds)
    if at == 0:
        return samples[0].joules
    if at == len(samples):
        return samples[-1].joules
    a, b = samples[at - 1], samples[at]
    return a.joules + (b.joules - a.joules) * (seconds - a.seconds) / (b.seconds - a.seconds)


def mean_watts(samples: Sequence[PowerSample], window: float = WINDOW_SECONDS) -> float | None:
    """Mean power over the last ``window`` seconds of the samples, or over all of a shorter time."""
    if len(samples) < 2:
        return None
    end = samples[-1]
    begin = max(samples[0].seconds, end.seconds - window)
    span = end.seconds - begin
    return (end.joules - joules_at(samples, begin)) / span if span > 0 else None


def pace_seconds(
    samples: Sequence[PowerSample],
    cap_watts: float,
    step_joules: float,
    step_seconds: float,
    idle_watts: float,
    window: float = WINDOW_SECONDS,
) -> float:
    """How long to wait before a step, so that the mean is under the cap when the step ends.

    ``samples`` ascend and end now; ``step_joules`` and ``step_seconds`` are what the
    step is expected to take, ``idle_watts`` what waiting draws. The mean is highest
    at the end of a step, so keeping it there keeps it everywhere. ``inf`` if no
    waiting helps: waiting alone, or the step alone, is above the cap.
    """
    now, used = samples[-1].seconds, samples[-1].joules
    begin = samples[0].seconds

    def excess(wait: float) -> float:
        """Joules above the cap in the window that ends with the step, after waiting."""
        end = now + wait + step_seconds
        start = max(begin, end - window)
        before = joules_at(samples, start)
        if start > now:  # the window begins within the wait
            before += idle_watts * (start - now)
        return used + idle_watts * wait + step_joules - before - cap_watts * (end - start)

    if excess(0.0) <= 0:
        return 0.0
    # Past one window of waiting only the wait and the step remain in it.
    if idle_watts >= cap_watts or excess(window + step_joules / (cap_watts - idle_watts)) > 0:
        return inf
    resolution = 0.01
    steps = int((window + step_joules / (cap_watts - idle_watts)) / resolution) + 1
    return next(i * resolution for i in range(1, steps + 1) if excess(i * resolution) <= 0)


class EnergyGuard:
    """Keeps one execution's ``max_watts`` and ``max_joules``; also its meter from start to end.

    ``before_step`` waits as ``pace`` demands, ``exceeded`` says after a step
    whether the execution has to end with ``energy_limit``. Without a meter
    nothing is kept (a plan that demands it anyway is refused before it runs).
    """

    def __init__(
        self,
        meter: EnergyMeter,
        *,
        max_watts: float | None = None,
        max_joules: float | None = None,
        on_limit: str = "stop",
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._meter = meter
        self._max_watts = max_watts if meter.available else None
        self._max_joules = max_joules if meter.available else None
        self._paces = on_limit == "pace"
        self._clock, self._sleep = clock, sleep
        self._begin: EnergyMark = meter.start()
        self._mark = self._begin
        self._samples = [PowerSample(clock(), 0.0)]
        self._step = (0.0, 0.0)  # the most joules and seconds that a recent step took
        self._idle_watts = 0.0
        self._unholdable = False
        self.paced_seconds = 0.0

    def before_step(self) -> None:
        """Waits until the next step fits under the cap (``pace`` only)."""
        if not self._paces or self._max_watts is None:
            return
        while not self._unholdable:
            wait = pace_seconds(self._samples, self._max_watts, *self._step, self._idle_watts)
            if wait <= 0:
                return
            if wait == inf:
                self._unholdable = True
                return
            begin = self._samples[-1]
            self._sleep(min(wait, SLICE_SECONDS))
            end = self._look()
            self.paced_seconds += end.seconds - begin.seconds
            watts = (end.joules - begin.joules) / max(end.seconds - begin.seconds, 1e-9)
            self._idle_watts = 0.8 * self._idle_watts + 0.2 * watts

    def exceeded(self) -> bool:
        """After a step: whether a limit is reached, or a cap cannot be held by waiting."""
        if self._max_watts is None and self._max_joules is None:
            return False
        before, now = self._samples[-1], self._look()
        joules, seconds = now.joules - before.joules, now.seconds - before.seconds
        self._step = (max(joules, 0.9 * self._step[0]), max(seconds, 0.9 * self._step[1]))
        if self._unholdable or (self._max_joules is not None and now.joules >= self._max_joules):
            return True
        if self._max_watts is None or self._paces:
            return False
        watts = mean_watts(self._samples)
        settled = now.seconds - self._samples[0].seconds >= SETTLE_SECONDS
        return settled and watts is not None and watts > self._max_watts

    def finish(self) -> EnergyReading:
        """The execution's energy, from the making of the guard until now."""
        return self._meter.read(self._begin)

    def _look(self) -> PowerSample:
        reading, self._mark = self._meter.advance(self._mark)
        last = self._samples[-1]
        seconds = max(self._clock(), last.seconds)
        joules = reading.joules
        if joules is None:
            # A gap must not pass for rest: the limits take it that the power went on. Not published.
            joules = (mean_watts(self._samples) or 0.0) * (seconds - last.seconds)
        sample = PowerSample(seconds, last.joules + joules)
        self._samples.append(sample)
        # One sample before the window is kept, so that its beginning can be interpolated.
        while len(self._samples) > 2 and self._samples[1].seconds < sample.seconds - 2 * WINDOW_SECONDS:
            del self._samples[0]
        return sample
