"""Pages of the KV cache: the blocks of positions that slots hold, by number.

A page holds :data:`PAGE` positions of all layers of one group (those that look back
equally far). Which page holds a block changes no bit: attention joins the same blocks
in the same order wherever they lie.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runtime.bundle.plan import PAGE

#: What a table says of a block that its slot has no page for.
NO_PAGE = -1

#: int32 ``[slots][groups][blocks]``: the page of each block of each slot's positions.
PageTables = npt.NDArray[np.int32]


@dataclass(frozen=True)
class PageGroup:
    """A group of layers and its pool, as the C ABI describes it (``engine_page_group``)."""

    window: int  # positions that the layers look back; 0: all
    held: int  # pages that one slot needs at a time, at most
    pages: int  # of the pool
    page_bytes: int

    def oldest(self, position: int) -> int:
        """The first block that a token at ``position`` reads."""
        return max(0, position - self.window + 1) // PAGE if self.window else 0


def blocks_of(positions: int) -> int:
    """Blocks that the first ``positions`` positions reach into."""
    return -(-positions // PAGE)


def no_pages(groups: Sequence[PageGroup], slots: int, blocks: int) -> PageTables:
    """Tables of slots that hold nothing."""
    return np.full((slots, len(groups), blocks), NO_PAGE, np.int32)


def whole_slots(groups: Sequence[PageGroup], slots: int, blocks: int) -> PageTables:
    """Tables in which each slot has pages of its own, for whoever drives slots without an owner.

    A group that looks back within a window takes its oldest page again. Slots that there are
    no pages for have none.
    """
    tables = no_pages(groups, slots, blocks)
    for g, group in enumerate(groups):
        for slot in range(min(slots, group.pages // group.held)):
            tables[slot, g] = slot * group.held + np.arange(blocks) % group.held
    return tables


class PagePool:
    """The pages of one group: who uses them, and which of the unused are worth keeping.

    A page is free, in use (by one or more), or kept: unused, yet holding something that may be
    asked for again; of those the least recently used is taken first when no page is free.
    """

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self.users = np.zeros(pages, np.int32)
        self._free = list(range(pages - 1, -1, -1))  # the lowest is taken first
        self._kept: OrderedDict[int, None] = OrderedDict()  # the least recently used first
        self.evicted = 0

    @property
    def in_use(self) -> int:
        """Pages that somebody uses."""
        return self.pages - len(self._free) - len(self._kept)

    @property
    def kept(self) -> int:
        """Pages that nobody uses and that may be asked for again."""
        return len(self._kept)

    def take(self) -> tuple[int, bool]:
        """A page for one user, and whether what it held is lost. IndexError where all are in use."""
        if self._free:
            page, lost = self._free.pop(), False
        elif self._kept:
            page, lost = self._kept.popitem(last=False)[0], True
            self.evicted += 1
        else:
            raise IndexError("every page is in use")
        self.users[page] = 1
        return page, lost

    def share(self, page: int) -> None:
        """One more user of a page that is in use or kept."""
        self._kept.pop(page, None)
        self.users[page] += 1

    def leave(self, page: int, keep: bool) -> None:
        """One user less; the last leaves the page free or, if it is worth it, kept."""
        if self.users[page] < 1:
            raise ValueError(f"page {page} has no user")
        self.users[page] -= 1
        if self.users[page] == 0:
            if keep:
                self._kept[page] = None
            else:
                self._free.append(page)

    def drop(self, page: int) -> None:
        """Makes a kept page free; nothing where it is in use."""
        if page in self._kept:
            del self._kept[page]
            self._free.append(page)

    def check(self) -> list[str]:
        """What does not add up."""
        used = int(np.count_nonzero(self.users))
        places = [*self._free, *self._kept, *np.flatnonzero(self.users)]
        complaints = [] if sorted(places) == list(range(self.pages)) else ["pages are lost or in two places"]
        return complaints if used == self.in_use else [*complaints, "users do not add up"]
