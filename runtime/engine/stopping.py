"""Stop sequences in streamed text, also where one is spread over several tokens."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Lets text through until one of ``stops`` occurs in it.

    Text that might be the beginning of a stop sequence is held back until it is
    known. The earliest occurrence counts, whichever stop sequence it is of.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str, may_match: bool = True) -> str:
        """The text that is now safe to show; nothing more once ``matched`` is set.

        ``may_match``: False where no stop sequence counts yet; what was pushed then is never part of one.
        """
        if self.matched is not None:
            return ""
        if not self._stops or not may_match:
            return text
        held = self._held + text
        found = [(at, -len(stop), stop) for stop in self._stops if (at := held.find(stop)) >= 0]
        if found:
            at, _, self.matched = min(found)
            self._held = ""
            return held[:at]
        keep = max(_overlap(held, stop) for stop in self._stops)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def flush(self) -> str:
        """What was held back, when nothing more follows."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that is a proper beginning of ``stop``."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
