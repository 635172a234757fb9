"""Who owns the memory of sequences: one record of which KV slots are taken.

Whoever starts a sequence takes a slot and gives it back when the sequence is over:
the scheduler for what it admits, the engine for a sequence that it runs without
one. There is no second list, so the slot that a scheduler shows is the slot whose
cache the sequence has.
"""

from __future__ import annotations

from runtime.errors import EXIT_RUN, EngineError


class SlotMemory:
    """The slots 0 … ``slots`` - 1 of one loaded bundle. Used under its driver's lock."""

    def __init__(self, slots: int) -> None:
        if slots < 1:
            raise ValueError(f"slots must be at least 1, not {slots}")
        self.slots = slots
        self._free = list(range(slots - 1, -1, -1))  # the lowest is taken first
        self._held: set[int] = set()

    @property
    def free(self) -> int:
        """Slots that can still be taken."""
        return len(self._free)

    @property
    def held(self) -> frozenset[int]:
        """Slots that are taken."""
        return frozenset(self._held)

    def take(self) -> int:
        """The lowest free slot, taken. Raises ``no_free_slot``."""
        if not self._free:
            raise EngineError(
                "no_free_slot",
                f"all {self.slots} slots are taken",
                path="execution.slots",
                hint="wait for a sequence to end, or compile a plan with more slots",
                exit_code=EXIT_RUN,
            )
        slot = self._free.pop()
        self._held.add(slot)
        return slot

    def give(self, slot: int) -> None:
        """Gives a taken slot back; ValueError for one that is not taken."""
        if slot not in self._held:
            raise ValueError(f"slot {slot} is not taken")
        self._held.remove(slot)
        self._free.append(slot)
        self._free.sort(reverse=True)
