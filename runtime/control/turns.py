"""Whose step is next where several bundles share the machine: the one that has had the least time.

Start-time fair queueing over the estimated time of steps (Goyal, Vin and Cheng 1996): a
bundle's clock goes on by what its steps are reckoned to take, the bundle whose clock is
furthest behind is next, and one that comes back from doing nothing starts where the others
are, so that it neither waits for what it had before nor makes up for it.
"""

from __future__ import annotations

from collections.abc import Iterable

#: How long a step may last, by the cost model, while other bundles wait for the machine: what
#: a decode of one plan waits at most for a chunk of another's prompt. Said in the decisions.
TURN_NS = 50_000_000


class Turns:
    """The clocks of the served bundles, in nanoseconds of estimated time."""

    def __init__(self) -> None:
        self._clock: dict[str, int] = {}
        self._busy: frozenset[str] = frozenset()
        self._now = 0  # the clock of the step that was started last

    def add(self, name: str) -> None:
        self._clock[name] = self._now

    def remove(self, name: str) -> None:
        del self._clock[name]
        self._busy -= {name}

    def order(self, busy: Iterable[str]) -> list[str]:
        """Those with work, whose turn it is first; equals in the order they were added."""
        names = frozenset(busy)
        for name in names - self._busy:
            self._clock[name] = max(self._clock[name], self._now)
        self._busy = names
        return sorted((name for name in self._clock if name in names), key=lambda name: self._clock[name])

    def take(self, name: str, ns: int) -> None:
        """``name`` starts a step that is reckoned to take ``ns``."""
        self._now = self._clock[name]
        self._clock[name] += max(1, ns)
