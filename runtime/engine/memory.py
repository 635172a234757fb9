"""Who owns the memory of sequences: slots, the pages that hold their positions, the prefix cache.

Whoever starts a sequence takes a slot and gives it back when the sequence is over: the
scheduler for what it admits, the engine for a sequence that it runs without one. There is no
second list, so the slot that a scheduler shows is the slot whose pages the sequence has, and
no page has two writers: a slot writes only into pages that it alone uses.

A sequence is let in when the pages of its worst case can be had, so a step never runs out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from runtime.bundle.plan import PAGE
from runtime.engine.pages import NO_PAGE, PageGroup, PagePool, PageTables, blocks_of, no_pages
from runtime.engine.pagestore import Bytes, PageStore, StoredBlock
from runtime.engine.prefix import (
    MOST_TAILS,
    SHORTEST_TAIL,
    Ids,
    Match,
    Name,
    Node,
    PrefixTree,
    Prompt,
    name_of,
    root,
)
from runtime.errors import EXIT_RUN, EngineError


@dataclass
class _Held:
    """What one taken slot has."""

    prompt: Prompt | None
    need: list[int]  # pages of each group that it may hold at a time
    length: int = 0  # positions whose keys and values are there
    reused: int = 0  # of these, taken from the cache
    names: list[Name] | None = None  # of its whole blocks so far, the empty prefix first; None: not cached


#: Bytes that are read from disk for one prompt, at most.
MOST_FETCHED = 1 << 29


@dataclass
class CacheCounts:
    """Since the bundle was opened. ``lookups``: prompts that were looked up; ``hits``: those of which
    something was there; ``tokens``: how many they had, and how many of these were ``reused``."""

    lookups: int = 0
    hits: int = 0
    tokens: int = 0
    reused: int = 0


class SlotMemory:
    """The slots 0 … ``slots`` - 1 of one loaded bundle and the pages of their positions. Used under
    its driver's lock, between steps.

    ``groups``, ``blocks``: as the bundle describes its pages; without groups there are slots only.
    ``page(group, page)`` gives a page's bytes, to be read and written. ``caching``: whether what ended
    sequences leave is kept for prompts that begin the same; ``store``: and on disk.
    """

    def __init__(
        self,
        slots: int,
        groups: Sequence[PageGroup] = (),
        blocks: int = 1,
        page: Callable[[int, int], Bytes] | None = None,
        *,
        caching: bool = False,
        store: PageStore | None = None,
    ) -> None:
        if slots < 1:
            raise ValueError(f"slots must be at least 1, not {slots}")
        self.slots = slots
        self.groups = tuple(groups)
        self.pools = tuple(PagePool(group.pages) for group in groups)
        self.tables: PageTables = no_pages(groups, slots, blocks)
        self.counts = CacheCounts()
        self.caching = caching and page is not None and len(groups) > 0
        self._page = page
        self._store = store if self.caching else None
        self._free = list(range(slots - 1, -1, -1))  # the lowest is taken first
        self._held: dict[int, _Held] = {}
        self._tree = PrefixTree()
        self._node_of: tuple[dict[int, Node], ...] = tuple({} for _ in groups)  # by page

    # ---- what there is ---------------------------------------------------------------

    @property
    def free(self) -> int:
        """Slots that can still be taken."""
        return len(self._free)

    @property
    def held(self) -> frozenset[int]:
        """Slots that are taken."""
        return frozenset(self._held)

    def length(self, slot: int) -> int:
        """Positions of a taken slot whose keys and values are there."""
        return self._held[slot].length

    def pages_held(self, slot: int) -> int:
        """Pages of all groups that a slot's table names."""
        return int(np.count_nonzero(self.tables[slot] != NO_PAGE))

    @property
    def kv_usage(self) -> float:
        """The share of the pages, by bytes, that sequences use: 0 … 1."""
        total = sum(group.pages * group.page_bytes for group in self.groups)
        used = sum(
            pool.in_use * group.page_bytes for pool, group in zip(self.pools, self.groups, strict=True)
        )
        return used / total if total else 0.0

    def shown(self, slot: int) -> dict[str, int]:
        """What ``/slots`` tells of a slot's memory; safe to ask while it changes."""
        held = self._held.get(slot)
        return {"pages": self.pages_held(slot), "n_cached": 0 if held is None else held.reused}

    # ---- slots -------------------------------------------------------------------------

    def fits(self, positions: int, prompt: Prompt | None = None) -> bool:
        """Whether a slot, and the pages of a sequence of at most ``positions``, can be had now."""
        if not self._free:
            return False
        return self._room_for(self._need(positions), self._match(prompt, 0))

    def take(self, positions: int = 0, prompt: Prompt | None = None) -> int:
        """The lowest free slot, taken for at most ``positions`` positions.

        What the cache has of ``prompt`` is in its pages already: see :meth:`length`. Raises
        ``no_free_slot``, ``no_free_pages``.
        """
        if not self._free:
            raise EngineError(
                "no_free_slot",
                f"all {self.slots} slots are taken",
                path="execution.slots",
                hint="wait for a sequence to end, or compile a plan with more slots",
                exit_code=EXIT_RUN,
            )
        need, match = self._need(positions), self._match(prompt, 0)
        if prompt is not None and any(block == len(match.nodes) for block, _ in prompt.stored):
            match = Match(match.nodes)  # the disk has more than a tail
        if not self._room_for(need, match):
            raise EngineError(
                "no_free_pages",
                f"{positions} positions need {max(need)} pages of the KV cache, and other sequences use them",
                path="execution.kv_pages",
                hint="wait for a sequence to end, or compile a plan with more pages",
                exit_code=EXIT_RUN,
            )
        slot = self._free.pop()
        held = self._held[slot] = _Held(prompt, need)
        if self.caching and prompt is not None:
            held.names = [root(prompt.salt)]
            self.counts.lookups += 1
            self.counts.tokens += len(prompt)
            self._adopt(slot, held, match)
            self._install(slot, held)
            self.counts.hits += held.length > 0
        return slot

    def give(self, slot: int) -> None:
        """Gives a taken slot back; ValueError for one that is not taken."""
        held = self._held.pop(slot, None)
        if held is None:
            raise ValueError(f"slot {slot} is not taken")
        for g in range(len(self.groups)):
            self._leave_blocks(slot, g, 0, self.tables.shape[2])
        self._free.append(slot)
        self._free.sort(reverse=True)

    def fetch(self, prompt: Prompt | None) -> None:
        """Reads what the disk has of a prompt and memory has not; for any thread, before :meth:`take`."""
        if self._store is None or prompt is None or prompt.stored:
            return
        found: list[tuple[int, StoredBlock]] = []
        names, most = prompt.names, MOST_FETCHED // sum(group.page_bytes for group in self.groups)
        block = 0
        for block in range(len(names)):
            node = self._tree.get(names[block + 1]) if block + 1 < len(names) else None
            if node is not None and None not in node.pages:
                continue
            stored = self._store.load(names[block], names[block + 1]) if block + 1 < len(names) else None
            if stored is None or len(found) >= most:
                break
            found.append((block, stored))
        shared = [
            (prompt.shared_tokens(block, stored.ids), i, stored)
            for i, stored in enumerate(self._store.following(names[block], MOST_TAILS))
        ]
        tokens, _, tail = max(shared, default=(0, 0, None), key=lambda entry: entry[0])
        if tail is not None and tokens >= SHORTEST_TAIL:
            found.append((block, tail))
        prompt.stored = tuple(found)

    def close(self) -> None:
        """Has everything written that is to be kept on disk."""
        if self._store is not None:
            self._store.close()

    # ---- the positions of a slot ---------------------------------------------------------

    def advance(self, slot: int) -> int:
        """Takes over what the cache has learned of a slot's prompt since; how many positions it has."""
        held = self._held[slot]
        if held.names is not None and held.prompt is not None:
            self._adopt(slot, held, self._match(held.prompt, held.length // PAGE))
        return held.length

    def extend(self, slot: int, length: int) -> None:
        """Gives a slot the pages that a step writes which ends at ``length`` positions."""
        held = self._held[slot]
        for g in range(len(self.groups)):
            for block in range(held.length // PAGE, blocks_of(length)):
                if self.tables[slot, g, block] == NO_PAGE:
                    self.tables[slot, g, block] = self._take_page(g)

    def settle(self, slot: int, ids: Ids, length: int) -> None:
        """Takes note that the keys and values of ``ids[:length]`` are there: whole blocks become known
        to the cache, pages that no later token looks back to are given back."""
        held = self._held[slot]
        held.length = length
        if held.names is not None:
            while len(held.names) <= length // PAGE:
                block = len(held.names) - 1
                part = ids[block * PAGE : (block + 1) * PAGE]
                held.names.append(self._remember(slot, block, held.names[-1], part))
        for g, group in enumerate(self.groups):
            if group.window:
                self._leave_blocks(slot, g, 0, group.oldest(length))

    def keep(self, slot: int, ids: Ids) -> None:
        """Has the cache know the last, broken block of a slot that is about to be given back;
        ``ids``: of all its positions."""
        held = self._held[slot]
        first = held.length // PAGE * PAGE
        if held.names is not None and held.length - first >= SHORTEST_TAIL:
            self._remember(slot, first // PAGE, held.names[-1], ids[first : held.length])

    def ahead(self, slot: int) -> Name | None:
        """The name of the next whole block that a slot's prompt will be computed for; None where its
        prompt has no further one, or is not cached."""
        held = self._held[slot]
        if held.names is None or held.prompt is None:
            return None
        names = held.prompt.names
        block = held.length // PAGE + 1
        return names[block] if block < len(names) else None

    def will_hold(self, slot: int, name: Name) -> bool:
        """Whether a slot's prompt has yet to compute the whole block of that name."""
        held = self._held[slot]
        if held.names is None or held.prompt is None:
            return False
        return name in held.prompt.names[held.length // PAGE + 1 :]

    def forget(self) -> int:
        """Empties the cache of what nobody uses; how many blocks it knew."""
        n = len(self._tree)
        for g, pool in enumerate(self.pools):
            for page in [page for page in self._node_of[g] if pool.users[page] == 0]:
                pool.drop(page)
                self._lose(g, page)
        return n - len(self._tree)

    def check(self) -> list[str]:
        """What does not add up, for whoever asks while nothing runs."""
        complaints = [text for pool in self.pools for text in pool.check()]
        for g, pool in enumerate(self.pools):
            named, counts = np.unique(self.tables[:, g][self.tables[:, g] != NO_PAGE], return_counts=True)
            users = np.zeros_like(pool.users)
            users[named] = counts
            if not np.array_equal(users, pool.users):
                complaints.append(f"group {g}: tables and users differ")
            if any(node.pages[g] != page for page, node in self._node_of[g].items()):
                complaints.append(f"group {g}: a page is not its node's")
        return complaints

    # ---- inside --------------------------------------------------------------------------

    def _need(self, positions: int) -> list[int]:
        return [min(blocks_of(positions), group.held) for group in self.groups]

    def _room_for(self, need: list[int], match: Match) -> bool:
        """Whether pages are left beside those in use and those promised to the slots that are held."""
        for g, pool in enumerate(self.pools):
            promised = sum(
                max(0, held.need[g] - int(np.count_nonzero(self.tables[slot, g] != NO_PAGE)))
                for slot, held in self._held.items()
            )
            shared = sum(
                page is not None and pool.users[page] > 0
                for page in (node.pages[g] for node in self._needed(match.nodes, g))
            )
            if need[g] - shared > pool.pages - pool.in_use - promised:
                return False
        return True

    def _needed(self, nodes: Sequence[Node], g: int) -> Sequence[Node]:
        """Of a prompt's whole blocks, those that what follows them looks back to."""
        return nodes[self.groups[g].oldest(len(nodes) * PAGE) :]

    def _match(self, prompt: Prompt | None, blocks: int) -> Match:
        """The longest beginning of a prompt that is held, of more than ``blocks`` whole blocks."""
        if not self.caching or prompt is None:
            return Match()
        nodes = self._tree.whole_blocks(prompt)
        for n in range(len(nodes), blocks - 1, -1):
            found = nodes[:n]
            groups = range(len(self.groups))
            if any(node.pages[g] is None for g in groups for node in self._needed(found, g)):
                continue
            whole = [
                (tokens, node)
                for node, tokens in self._tree.tails(prompt, n)
                if tokens >= SHORTEST_TAIL and None not in node.pages
            ]
            tokens, tail = max(whole, key=lambda pair: pair[0], default=(0, None))
            return Match(tuple(found), tail, tokens)
        return Match()

    def _adopt(self, slot: int, held: _Held, match: Match) -> None:
        """Makes the pages of a match the slot's own, from where it stands; of a tail, a copy."""
        begin, n = held.length // PAGE, len(match.nodes)
        if match.tokens <= held.length:
            return
        for g in range(len(self.groups)):
            needed = self._needed(match.nodes, g)
            for block, node in enumerate(needed, n - len(needed)):
                page = node.pages[g]
                assert page is not None  # or it would be no match
                self._exchange(slot, g, block, page)
            if match.tail is not None:
                self._copy_tail(slot, g, n, match.tail)
        assert held.names is not None
        assert held.prompt is not None
        held.names = list(held.prompt.names[: n + 1])
        for node in reversed(match.nodes[begin:]):
            self._tree.touch(node)
        held.reused += match.tokens - held.length
        self.counts.reused += match.tokens - held.length
        held.length = match.tokens

    def _install(self, slot: int, held: _Held) -> None:
        """Writes what the disk had of a slot's prompt into pages of its own, from where it stands."""
        prompt, page = held.prompt, self._page
        if prompt is None or page is None:
            return
        for block, stored in prompt.stored:
            tokens = prompt.shared_tokens(block, stored.ids)
            if held.length != block * PAGE or len(stored.pages) < len(self.groups) or tokens < SHORTEST_TAIL:
                continue
            length = block * PAGE + tokens
            self.extend(slot, length)
            for g, content in stored.pages.items():
                np.copyto(page(g, int(self.tables[slot, g, block])), content)
            held.reused += tokens
            self.counts.reused += tokens
            self.settle(slot, prompt.ids, length)
        prompt.stored = ()

    def _exchange(self, slot: int, g: int, block: int, page: int) -> None:
        """Has a slot use ``page`` for a block, in place of what it may have there."""
        own = int(self.tables[slot, g, block])
        if own == page:
            return
        self.pools[g].share(page)
        self.tables[slot, g, block] = page
        if own != NO_PAGE:
            self.pools[g].leave(own, keep=own in self._node_of[g])

    def _copy_tail(self, slot: int, g: int, block: int, tail: Node) -> None:
        source, page = tail.pages[g], self._page
        assert source is not None
        assert page is not None
        self.pools[g].share(source)  # so that it is not the page that is taken
        if self.tables[slot, g, block] == NO_PAGE:
            if self.pools[g].in_use == self.pools[g].pages:
                self._lose(g, source)  # the last page there is: written on where it lies
                self.tables[slot, g, block] = source
                return
            self.tables[slot, g, block] = self._take_page(g)
        np.copyto(page(g, int(self.tables[slot, g, block])), page(g, source))
        self.pools[g].leave(source, keep=True)

    def _take_page(self, g: int) -> int:
        page, lost = self.pools[g].take()
        if lost:
            self._lose(g, page)
        return page

    def _lose(self, g: int, page: int) -> None:
        """A page no longer holds what its node says."""
        node = self._node_of[g].pop(page)
        node.pages[g] = None
        if all(page is None for page in node.pages):
            self._tree.remove(node)

    def _remember(self, slot: int, block: int, parent: Name, ids: Ids) -> Name:
        """Has the cache know a block of a slot. Where it knows the same already, the slot takes over
        those pages, which hold the same bits, and gives back its own."""
        name = name_of(parent, ids)
        node = self._tree.get(name)
        if node is None:
            node = Node(name, parent, ids.copy(), [None] * len(self.groups))
            self._tree.add(node)
            self._save(slot, block, node)
        else:
            self._tree.touch(node)
        for g in range(len(self.pools)):
            own, known = int(self.tables[slot, g, block]), node.pages[g]
            if own in (NO_PAGE, known):
                continue
            if known is None:
                node.pages[g] = own
                self._node_of[g][own] = node
            else:
                self._exchange(slot, g, block, known)
        self._drop_beginnings(node)
        if all(page is None for page in node.pages):
            self._tree.remove(node)
        return name

    def _save(self, slot: int, block: int, node: Node) -> None:
        """Has a block of a slot kept on disk, if all its pages are there."""
        row, page = self.tables[slot, :, block], self._page
        if self._store is None or page is None or (row == NO_PAGE).any():
            return
        if not self._store.has(node.parent, node.name):
            pages = {g: page(g, int(row[g])) for g in range(len(self.groups))}
            self._store.save(node.parent, node.name, node.ids, pages)

    def _drop_beginnings(self, node: Node) -> None:
        """Broken blocks that a longer one now begins with need not be kept."""
        for shorter in self._tree.beginnings(node):
            for g, page in enumerate(list(shorter.pages)):
                if page is not None and self.pools[g].users[page] == 0 and node.pages[g] is not None:
                    self.pools[g].drop(page)
                    self._lose(g, page)

    def _leave_blocks(self, slot: int, g: int, first: int, end: int) -> None:
        """Gives back a slot's pages of some blocks, the last first: the beginning of a prompt, which
        more prompts share, is then evicted last."""
        row = self.tables[slot, g]
        for block in np.flatnonzero(row[first:end] != NO_PAGE)[::-1] + first:
            page = int(row[block])
            row[block] = NO_PAGE
            self.pools[g].leave(page, keep=page in self._node_of[g])
