"""The energy meter: counters in, readings of spans of time out.

A :class:`Counter` is one hardware counter of joules (a CPU package, its DRAM).
:class:`EnergyMeter` samples all counters of one source together and keeps
running totals, so that any number of spans can be measured at once. Rules:

* a difference is taken modulo the counter's range; where the counter may have
  wrapped more than once between two samples, the stretch is a gap;
* a difference above MAX_WATTS is not believed: the stretch is a gap;
* a sample in which any counter cannot be read makes a gap from the last good
  sample to the next; nothing is put in its place;
* a span in which a package's counter did not move has no joules: a counter that
  stands still measures nothing.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from runtime.metrics.reading import SOURCE_NONE, EnergyReading

#: More than any CPU package, and any package's DRAM, can draw.
MAX_WATTS = {"package": 1000.0, "dram": 500.0}

#: Counters are refreshed about once a millisecond, some more rarely: a short
#: interval may show the energy of a longer one. Added to it before believing.
REFRESH_SECONDS = 0.05

#: Sampling thread's period where no counter asks for a shorter one.
SAMPLE_SECONDS = 1.0

_NS = 1_000_000_000
_MAX_GAPS = 4096  # remembered gaps; beyond, the oldest are forgotten


class Counter(Protocol):
    """One monotonic hardware counter of energy."""

    @property
    def domain(self) -> str:
        """Unique name, ``package-0`` or ``package-0/dram``."""

    @property
    def kind(self) -> str:
        """``package`` or ``dram``."""

    @property
    def joules_per_count(self) -> float: ...
    @property
    def count_range(self) -> int | None:
        """The counter runs modulo this many counts; None: it does not wrap."""

    def read(self) -> int:
        """The count now. Raises OSError or ValueError if it cannot be had."""

    def close(self) -> None: ...


def difference(counter: Counter, before: int, after: int, seconds: float) -> int | None:
    """Counts between two reads ``seconds`` apart, or None if they cannot be known.

    One wrap is undone; None where several may have happened, where a counter
    without a range went backwards, or where the power would exceed MAX_WATTS.
    """
    most = MAX_WATTS[counter.kind]
    modulus = counter.count_range
    if modulus is None:
        delta = after - before
    elif not 0 <= after <= modulus or most * seconds >= modulus * counter.joules_per_count:
        return None
    else:
        delta = (after - before) % modulus
    joules = delta * counter.joules_per_count
    return delta if 0 <= joules <= most * (seconds + REFRESH_SECONDS) else None


@dataclass(frozen=True)
class EnergyMark:
    """A moment on the meter: monotonic time and the totals up to it."""

    time_ns: int
    measured_ns: int
    counts: tuple[int, ...]


class EnergyMeter:
    """Measures spans with one source's counters. Safe to use from several threads.

    A meter without counters is legal: its readings have no joules and say
    ``reason``; ``fix`` is what to do about it.
    """

    def __init__(
        self,
        source: str,
        counters: Sequence[Counter],
        *,
        reason: str | None = None,
        fix: str | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        sampling: bool = True,
    ) -> None:
        if not counters and reason is None:
            raise ValueError("a meter without counters needs a reason")
        self.source = source if counters else SOURCE_NONE
        self.reason = reason
        self.fix = fix
        self._counters = tuple(counters)
        self._clock = clock
        self._sampling = sampling and bool(counters)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._counts = [0] * len(counters)  # totals since the meter was made
        self._measured_ns = 0
        self._gaps: deque[tuple[int, int]] = deque(maxlen=_MAX_GAPS)
        self._last: tuple[int, tuple[int, ...]] | None = None  # last good sample: time, raw counts
        self._failed = False  # a sample has failed since
        self._trouble: str | None = None
        self._begin: EnergyMark | None = None

    @property
    def available(self) -> bool:
        """Whether there is anything to measure with."""
        return bool(self._counters)

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of what is summed."""
        return tuple(counter.domain for counter in self._counters)

    @property
    def sample_seconds(self) -> float:
        """The sampling period: a quarter of the time the fastest counter could need to wrap."""
        wraps = [
            counter.count_range * counter.joules_per_count / MAX_WATTS[counter.kind]
            for counter in self._counters
            if counter.count_range is not None
        ]
        return max(0.005, min([SAMPLE_SECONDS, *(seconds / 4 for seconds in wraps)]))

    def start(self) -> EnergyMark:
        """Begins a span (and the sampling thread); remembered for :meth:`read` without a mark."""
        mark = self.mark()
        self._begin = mark
        if self._sampling and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="energy-meter", daemon=True)
            self._thread.start()
        return mark

    def mark(self) -> EnergyMark:
        """The present moment, from which a span can be measured."""
        with self._lock:
            now = self._sample()
            return EnergyMark(now, self._measured_ns, tuple(self._counts))

    def read(self, mark: EnergyMark | None = None) -> EnergyReading:
        """Energy from ``mark`` (or the last :meth:`start`) until now."""
        reading = self.delta(mark)
        if reading.joules is None:
            return reading
        still = [
            counter.domain
            for counter in self._counters
            if counter.kind == "package" and not reading.domains[counter.domain]
        ]
        if not still:
            return reading
        reason = f"{', '.join(still)} did not move in {reading.seconds * 1e3:.3g} ms"
        return EnergyReading(None, reading.seconds, self.source, gaps=reading.gaps, reason=reason)

    def delta(self, mark: EnergyMark | None = None) -> EnergyReading:
        """Like :meth:`read`, for a part of a span that is added up with others.

        A counter may stand still between two of its refreshes: here that is 0 J,
        and the next part gets the energy. The sum must be judged as a whole.
        """
        begin = mark if mark is not None else self._begin
        if begin is None:
            raise ValueError("the meter was not started")
        return self.advance(begin)[0]

    def advance(self, mark: EnergyMark) -> tuple[EnergyReading, EnergyMark]:
        """:meth:`delta` since ``mark``, and the mark at which the next part begins."""
        with self._lock:
            now = self._sample()
            here = EnergyMark(now, self._measured_ns, tuple(self._counts))
            if not self._counters:
                return EnergyReading.none(self.reason or "no meter"), here
            return self._reading(mark, now), here

    def close(self) -> None:
        """Ends the sampling thread and closes the counters."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            for counter in self._counters:
                counter.close()

    def _run(self) -> None:
        while not self._stop.wait(self.sample_seconds):
            with self._lock:
                self._sample()

    def _sample(self) -> int:
        """Reads all counters once, extends the totals or the gaps; returns the time."""
        now = self._clock()
        if not self._counters:
            return now
        try:
            raw = tuple(counter.read() for counter in self._counters)
        except (OSError, ValueError) as error:
            self._failed = True
            self._trouble = f"a counter could not be read: {error}"
            return now
        if self._last is not None:
            then, before = self._last
            deltas = [
                difference(counter, a, b, (now - then) / _NS)
                for counter, a, b in zip(self._counters, before, raw, strict=True)
            ]
            if self._failed:
                self._add_gap(then, now)
            elif None in deltas:
                bad = [c.domain for c, delta in zip(self._counters, deltas, strict=True) if delta is None]
                self._trouble = f"{', '.join(bad)} jumped: reset, or wrapped more than once"
                self._add_gap(then, now)
            else:
                self._measured_ns += now - then
                for i, delta in enumerate(deltas):
                    self._counts[i] += delta or 0
        elif self._failed and self._begin is not None:
            self._add_gap(self._begin.time_ns, now)
        self._last = (now, raw)
        self._failed = False
        return now

    def _add_gap(self, begin: int, end: int) -> None:
        if self._gaps and self._gaps[-1][1] >= begin:
            begin = self._gaps.pop()[0]
        self._gaps.append((begin, end))

    def _reading(self, begin: EnergyMark, now: int) -> EnergyReading:
        gaps = list(self._gaps)
        if self._failed:  # the latest samples failed: unmeasured since the last good one
            gaps.append((self._last[0] if self._last else begin.time_ns, now))
        clipped = tuple(
            ((max(a, begin.time_ns) - begin.time_ns) / _NS, (b - begin.time_ns) / _NS)
            for a, b in gaps
            if b > begin.time_ns
        )
        seconds = (self._measured_ns - begin.measured_ns) / _NS
        reason = self._trouble if clipped else None
        if seconds <= 0:
            return EnergyReading(
                None, 0.0, self.source, gaps=clipped, reason=reason or "the span took no measurable time"
            )
        joules = {
            counter.domain: (count - before) * counter.joules_per_count
            for counter, count, before in zip(self._counters, self._counts, begin.counts, strict=True)
        }
        return EnergyReading(
            sum(joules.values()), seconds, self.source, MappingProxyType(joules), clipped, reason
        )
