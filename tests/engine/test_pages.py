"""The owner of pages, held to a model of what pages hold: every position of every sequence is found
where its table says, whatever was admitted, ended, shared or evicted in between."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.bundle.plan import PAGE
from runtime.engine.memory import SlotMemory
from runtime.engine.pages import NO_PAGE, PageGroup, PagePool, blocks_of, whole_slots
from runtime.engine.pagestore import PageStore
from runtime.engine.prefix import SHORTEST_TAIL, Prompt
from runtime.errors import EngineError

CONTEXT = 5 * PAGE
BLOCKS = CONTEXT // PAGE
STEP = 300
EMPTY = -7


@dataclass
class Sequence:
    slot: int
    ids: np.ndarray
    prompt: int


class Model:
    """A memory whose pages hold the tokens of their positions, so that reading one tells whose it is."""

    def __init__(
        self,
        slots: int,
        pages: int,
        windows: tuple[int, ...] = (0,),
        caching: bool = True,
        store: PageStore | None = None,
    ) -> None:
        groups = []
        for window in windows:
            held = min(BLOCKS, blocks_of(window + STEP) + 1) if window else BLOCKS
            groups.append(PageGroup(window, held, min(pages, slots * held), 8 * PAGE))
        self.groups = groups
        self.held = [np.full((group.pages, PAGE), EMPTY, np.int64) for group in groups]
        self.memory = SlotMemory(slots, groups, BLOCKS, self.page, caching=caching, store=store)
        self.live: list[Sequence] = []
        self.computed = 0

    def page(self, group: int, page: int) -> np.ndarray:
        return self.held[group][page].view(np.uint8)

    def begin(self, ids: np.ndarray, prompt: int, salt: str = "") -> Sequence | None:
        known = Prompt(ids[:prompt], salt)
        self.memory.fetch(known)
        if not self.memory.fits(len(ids), known):
            with pytest.raises(EngineError):
                self.memory.take(len(ids), known)
            return None
        sequence = Sequence(self.memory.take(len(ids), known), ids, prompt)
        assert self.memory.length(sequence.slot) < prompt
        self.live.append(sequence)
        return sequence

    def step(self, sequence: Sequence, count: int) -> None:
        """Computes ``count`` tokens: reads what they look back to, and writes them."""
        slot = sequence.slot
        begin = self.memory.advance(slot)
        end = min(begin + count, len(sequence.ids))
        self.memory.extend(slot, end)
        for g, group in enumerate(self.groups):
            table = self.memory.tables[slot, g]
            for position in range(begin, end):
                page = table[position // PAGE]
                assert self.memory.pools[g].users[page] == 1, "a page with two writers"
                self.held[g][page, position % PAGE] = sequence.ids[position]
            oldest = max(0, begin - group.window + 1) if group.window else 0
            for position in range(oldest, end):
                page = table[position // PAGE]
                assert page != NO_PAGE
                assert self.held[g][page, position % PAGE] == sequence.ids[position]
        self.computed += end - begin
        self.memory.settle(slot, sequence.ids, end)

    def end(self, sequence: Sequence) -> None:
        self.memory.keep(sequence.slot, sequence.ids)
        self.memory.give(sequence.slot)
        self.live.remove(sequence)

    def run(self, ids: np.ndarray, prompt: int, chunk: int = STEP, salt: str = "") -> int:
        """A whole sequence; how many of its tokens were computed."""
        before = self.computed
        sequence = self.begin(ids, prompt, salt)
        assert sequence is not None
        while self.memory.length(sequence.slot) < len(ids):
            self.step(sequence, chunk)
        self.end(sequence)
        return self.computed - before


def words(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, n).astype(np.int32) + 10 * seed


MOVES = st.lists(
    st.tuples(
        st.integers(0, 3),  # what: begin, step, step, end
        st.integers(0, 7),  # which
        st.integers(1, STEP),  # how much
        st.integers(0, CONTEXT - 2),  # where a new sequence leaves the story that all share
    ),
    max_size=60,
)


@settings(max_examples=120, deadline=None)
@given(MOVES, st.sampled_from([(0,), (0, 300), (70,)]), st.integers(BLOCKS, 12), st.booleans())
def test_nothing_leaks_and_every_position_is_found(
    moves: list[tuple[int, int, int, int]], windows: tuple[int, ...], pages: int, caching: bool
) -> None:
    model = Model(3, pages, windows, caching)
    story = words(CONTEXT)
    for what, which, much, where in moves:
        if what == 0:
            ids = np.concatenate([story[:where], words(CONTEXT, 1 + which)])[: max(2, where + much // 3)]
            ids = ids[:CONTEXT]
            model.begin(ids, max(1, len(ids) - much // 4))
        elif model.live:
            sequence = model.live[which % len(model.live)]
            if what == 3:
                model.end(sequence)
            elif model.memory.length(sequence.slot) < len(sequence.ids):
                model.step(sequence, much)
        assert model.memory.check() == []
    for sequence in list(model.live):
        model.end(sequence)
    model.memory.forget()
    assert model.memory.check() == []
    assert all(pool.in_use == pool.kept == 0 for pool in model.memory.pools)


@pytest.mark.parametrize("windows", [(0,), (0, 300), (70,)])
def test_a_conversation_computes_only_what_is_new(windows: tuple[int, ...]) -> None:
    model, story = Model(2, 10, windows), words(CONTEXT)
    turns = [(300, 340), (500, 620), (800, 900)]  # prompt, and with the answer
    for previous, (prompt, whole) in zip((0, 340, 620), turns, strict=True):
        assert model.run(story[:whole], prompt) == whole - previous
    counts = model.memory.counts
    assert (counts.lookups, counts.hits, counts.tokens, counts.reused) == (3, 2, 1600, 960)


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    model, story = Model(2, 10), words(2 * PAGE)
    model.run(story, 2 * PAGE)
    assert model.run(story, 2 * PAGE) == 1
    assert model.run(story[: PAGE + 1], PAGE + 1) == 1


def test_too_short_a_tail_is_computed() -> None:
    model, story = Model(2, 10), words(PAGE)
    model.run(story[: SHORTEST_TAIL + 1], SHORTEST_TAIL)
    other = words(40, 3)
    assert model.run(np.concatenate([story[: SHORTEST_TAIL - 1], other]), 50) == SHORTEST_TAIL - 1 + 40
    assert model.run(np.concatenate([story[:SHORTEST_TAIL], other]), 50) == 40


def test_a_salt_keeps_prompts_apart() -> None:
    model, story = Model(2, 10), words(600)
    model.run(story, 600, salt="one")
    assert model.run(story, 600, salt="two") == 600
    assert model.run(story, 600, salt="one") == 1


def test_a_prompt_that_is_to_be_forgotten_leaves_and_takes_nothing() -> None:
    model, story = Model(2, 10), words(600)
    slot = model.memory.take(600, None)
    model.memory.extend(slot, 300)
    model.memory.settle(slot, story, 300)
    model.memory.keep(slot, story)
    model.memory.give(slot)
    assert model.memory.pools[0].kept == 0
    assert model.memory.counts.lookups == 0


def test_prompts_that_begin_the_same_share_pages_while_they_run() -> None:
    model, story = Model(3, 10), words(CONTEXT)
    first = model.begin(story[:600], 600)
    second = model.begin(np.concatenate([story[:520], words(30, 2)]), 550)
    assert first is not None
    assert second is not None
    memory = model.memory
    assert memory.will_hold(first.slot, memory.ahead(second.slot) or b"")
    model.step(first, 300)
    assert memory.advance(second.slot) == PAGE
    model.step(first, 300)
    assert memory.advance(second.slot) == 2 * PAGE
    assert np.array_equal(memory.tables[first.slot, 0, :2], memory.tables[second.slot, 0, :2])
    assert memory.tables[first.slot, 0, 2] != memory.tables[second.slot, 0, 2]
    assert memory.ahead(second.slot) is None  # its last block is its own


def test_what_two_computed_is_held_once() -> None:
    model, story = Model(3, 10), words(600)
    first, second = model.begin(story, 600), model.begin(story, 600)
    assert first is not None
    assert second is not None
    model.step(first, 100)
    for sequence in (second, first, second, first):
        model.memory.extend(sequence.slot, 512)
        begin = model.memory.length(sequence.slot)
        for position in range(begin, 512):
            page = model.memory.tables[sequence.slot, 0, position // PAGE]
            model.held[0][page, position % PAGE] = story[position]
        model.memory.settle(sequence.slot, story, 512)
    assert model.memory.pools[0].in_use == 2


def test_the_least_recently_used_is_evicted_and_the_beginning_last() -> None:
    model = Model(1, 5)
    old, new = words(2 * PAGE + 20, 1), words(2 * PAGE + 20, 2)
    model.run(old, len(old))
    model.run(new, len(new))  # 6 pages would be needed for both; the tail of `old` goes
    assert model.memory.pools[0].evicted == 1
    assert model.run(old, len(old)) == 20
    big = words(CONTEXT, 3)
    model.run(big, len(big))
    assert model.run(old, len(old)) == len(old)  # all evicted, all computed again


def test_a_sequence_waits_for_the_pages_of_its_worst_case() -> None:
    model = Model(4, 6)
    assert model.begin(words(3 * PAGE, 1), 10) is not None
    assert model.begin(words(3 * PAGE, 2), 10) is not None
    assert not model.memory.fits(1, None)  # nothing is written yet, but all is promised
    with pytest.raises(EngineError) as caught:
        model.memory.take(1, None)
    assert caught.value.code == "no_free_pages"
    model.end(model.live[0])
    assert model.memory.fits(3 * PAGE, None)
    assert not model.memory.fits(3 * PAGE + 1, None)


def test_a_window_gives_pages_back_as_it_moves() -> None:
    model = Model(1, 20, (0, 300))
    sequence = model.begin(words(CONTEXT), CONTEXT)
    assert sequence is not None
    most = 0
    while model.memory.length(sequence.slot) < CONTEXT:
        model.step(sequence, 100)
        most = max(most, int(np.count_nonzero(model.memory.tables[sequence.slot, 1] != NO_PAGE)))
    assert most <= model.groups[1].held < BLOCKS
    assert model.memory.pages_held(sequence.slot) == BLOCKS + most - 1
    assert 0 < model.memory.kv_usage <= 1


def test_pages_that_are_lost_or_counted_wrongly_are_told() -> None:
    pool = PagePool(3)
    page, _ = pool.take()
    assert pool.check() == []
    pool.users[page] = 0
    assert pool.check() == ["pages are lost or in two places", "users do not add up"]
    with pytest.raises(ValueError, match="has no user"):
        pool.leave(2, keep=False)
    model = Model(2, 10)
    model.run(words(300), 300)
    model.memory.tables[1, 0, 0] = 4
    assert model.memory.check() == ["group 0: tables and users differ"]


def test_slots_of_their_own_take_pages_in_rings() -> None:
    groups = [PageGroup(0, 4, 8, 1), PageGroup(100, 3, 6, 1)]
    tables = whole_slots(groups, 2, 4)
    assert tables.tolist() == [[[0, 1, 2, 3], [0, 1, 2, 0]], [[4, 5, 6, 7], [3, 4, 5, 3]]]
    assert (whole_slots([PageGroup(0, 4, 7, 1)], 2, 4)[1] == NO_PAGE).all()
