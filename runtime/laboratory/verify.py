"""The determinism grid: one sequence, computed in every way that must not matter.

A cell runs the same tokens on one backend, with one number of threads, with the
prompt in chunks of one size, alone or beside other sequences in every step, in a
fresh KV slot, one that another sequence has filled before, one that takes over the
first half of the prompt from the pages of another slot, as the prefix cache does, or with
wrong drafts behind each decoded token, as speculation has them. Its digest covers the
logits of every position. All cells must agree; a cell of fewer tokens is compared over
the positions it has, since later tokens cannot change earlier logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from runtime.bundle.plan import PAGE
from runtime.engine.executable import Executable
from runtime.engine.pages import whole_slots
from runtime.errors import EXIT_USAGE, EngineError

Ids = npt.NDArray[np.int32]

#: Wrong tokens that a step of ``drafted`` verifies.
DRAFTS = 3


@dataclass(frozen=True)
class Workload:
    """The sequence: ``prompt_tokens`` are prefilled, the rest fed one a step."""

    tokens: int = 288
    prompt_tokens: int = 272
    seed: int = 1


@dataclass(frozen=True)
class Way:
    """One way to compute it. ``chunk``: most prompt tokens of a step; ``companions``: other
    sequences in every step; ``kv``: the slot is ``cold``, ``warm`` (another sequence filled it
    before), ``moved`` (half-way, whole pages of another slot are shared and the broken one copied) or
    ``drafted`` (each step of decode verifies wrong tokens as well, whose places are written again)."""

    threads: int
    chunk: int
    companions: int
    kv: str

    @property
    def label(self) -> str:
        beside = f"beside {self.companions}" if self.companions else "alone"
        return f"{self.threads} threads, chunk {self.chunk}, {beside}, {self.kv} KV"


@dataclass(frozen=True)
class Cell:
    """What a way gave. ``prefix_digests[n]`` is the digest of the first n positions."""

    backend: str
    way: Way
    tokens: int
    digest: str
    prefix_digests: dict[int, str] = field(repr=False)

    def to_json(self) -> dict[str, object]:
        way = self.way
        return {
            "backend": self.backend,
            "threads": way.threads,
            "chunk": way.chunk,
            "companions": way.companions,
            "kv": way.kv,
            "tokens": self.tokens,
            "digest": self.digest,
        }


def ways(
    threads: Sequence[int], chunks: Sequence[int], *, slots: int, step_tokens: int, most_companions: int = 3
) -> list[Way]:
    """Every combination that the bundle's slots and step size allow; chunks beyond a step are cut to it."""
    beside = min(slots - 1, most_companions, step_tokens - 1)
    made = []
    for count in threads:
        for companions in dict.fromkeys((0, beside)):
            sizes = dict.fromkeys(min(chunk, step_tokens - companions) for chunk in chunks)
            kinds = ["cold", "warm"]
            if companions + 1 < slots:
                kinds.append("moved")
            if companions + 1 + DRAFTS <= step_tokens:
                kinds.append("drafted")
            made += [Way(count, size, companions, kv) for size in sizes for kv in kinds]
    return made


def tokens_of(workload: Workload, n_vocab: int, which: int = 0) -> Ids:
    """The ids of the sequence (``which`` 0) or of a companion: random, from the seed."""
    rng = np.random.default_rng((workload.seed, which))
    return rng.integers(0, n_vocab, workload.tokens, dtype=np.int32)


def run_cell(
    executable: Executable, backend: str, way: Way, workload: Workload, prefixes: Sequence[int] = ()
) -> Cell:
    """Computes the workload one way. Raises ``workload_too_long`` and the errors of a step."""
    limits = executable.limits
    executable.use_tables(whole_slots(executable.page_groups, limits.slots, limits.page_blocks))
    if workload.tokens > limits.context:
        raise EngineError(
            "workload_too_long",
            f"{workload.tokens} tokens do not fit",
            path="execution.context",
            allowed=f"at most {limits.context}",
            exit_code=EXIT_USAGE,
        )
    # Beside others the sequence takes the last slot, so that the slot is another one too.
    slot = way.companions
    sequence = _Feed(slot, tokens_of(workload, limits.n_vocab))
    if way.kv == "warm":
        _fill(executable, _Feed(slot, tokens_of(workload, limits.n_vocab, 99)), way.chunk)
    others = [_Feed(i, tokens_of(workload, limits.n_vocab, i + 1)) for i in range(way.companions)]
    digest = blake2b(digest_size=16)
    found: dict[int, str] = {}
    while sequence.at < workload.tokens:
        if way.kv == "moved" and sequence.slot == slot and sequence.at >= workload.prompt_tokens // 2:
            _move(executable, sequence, slot + 1)
        in_prompt = workload.prompt_tokens - sequence.at
        count = min(way.chunk, in_prompt) if in_prompt > 0 else 1
        drafts = DRAFTS if way.kv == "drafted" and in_prompt <= 0 else 0
        drafts = min(drafts, workload.tokens - sequence.at - 1)
        room = limits.step_tokens - count - drafts
        parts = [(sequence, count)]
        for i, other in enumerate(others):
            # Companions prefill in chunks of their own sizes and begin again when they end.
            take = max(1, min(room - (len(others) - i - 1), 3 + 2 * i, other.left))
            parts.insert(i % 2, (other, take))
            room -= take
        rows = _step(executable, parts, sequence, drafts)
        for row in rows[:count]:
            digest.update(row.data)
            sequence.at += 1
            if sequence.at in prefixes:
                found[sequence.at] = digest.hexdigest()
        for other in others:
            if not other.left:
                other.at = 0
    return Cell(backend, way, workload.tokens, digest.hexdigest(), found)


class _Feed:
    """Ids of a sequence and how many of them its slot holds."""

    def __init__(self, slot: int, ids: Ids) -> None:
        self.slot, self.ids, self.at = slot, ids, 0

    @property
    def left(self) -> int:
        return len(self.ids) - self.at


def _step(
    executable: Executable, parts: Sequence[tuple[_Feed, int]], wanted: _Feed, drafts: int = 0
) -> npt.NDArray[np.float32]:
    """One step of (sequence, tokens); the rows of ``wanted``, whose place is left to the caller.
    ``drafts``: wrong tokens behind those of ``wanted``, with rows of their own."""
    slots: list[int] = []
    positions: list[int] = []
    tokens: list[int] = []
    want: list[bool] = []
    for feed, count in parts:
        behind = drafts if feed is wanted else 0
        slots += [feed.slot] * (count + behind)
        positions += range(feed.at, feed.at + count + behind)
        tokens += feed.ids[feed.at : feed.at + count].tolist()
        right = feed.ids[feed.at + count : feed.at + count + behind]
        tokens += ((right + 1) % executable.limits.n_vocab).tolist()
        want += [feed is wanted] * (count + behind)
        if feed is not wanted:
            feed.at += count
    return executable.forward(slots, positions, tokens, want)


def _move(executable: Executable, feed: _Feed, slot: int) -> None:
    """Has a sequence go on in another slot: over the same whole pages, and a copy of the broken one."""
    tables = whole_slots(executable.page_groups, executable.limits.slots, executable.limits.page_blocks)
    whole, broken = divmod(feed.at, PAGE)
    for g in range(len(executable.page_groups)):
        if broken:
            source, target = int(tables[feed.slot, g, whole]), int(tables[slot, g, whole])
            np.copyto(executable.page(g, target), executable.page(g, source))
        tables[slot, g, :whole] = tables[feed.slot, g, :whole]
    executable.use_tables(tables)
    executable.resume(slot, feed.at)
    feed.slot = slot


def _fill(executable: Executable, junk: _Feed, chunk: int) -> None:
    """Fills a slot with another sequence, so that what it leaves behind could do harm."""
    while junk.left:
        count = min(chunk, junk.left)
        positions = range(junk.at, junk.at + count)
        want = [False] * (count - 1) + [True]
        executable.forward([junk.slot] * count, list(positions), junk.ids[junk.at : junk.at + count], want)
        junk.at += count


@dataclass(frozen=True)
class Backend:
    """A backend of the grid: how to open its bundle, what to run on it."""

    name: str
    open: Callable[[int], Executable]  # with so many threads
    ways: Sequence[Way]
    workload: Workload


def grid(backends: Sequence[Backend]) -> Iterator[Cell]:
    """Runs every cell; an executable is opened once for each number of threads."""
    prefixes = sorted({backend.workload.tokens for backend in backends})
    for backend in backends:
        for threads in dict.fromkeys(way.threads for way in backend.ways):
            with backend.open(threads) as executable:
                for way in backend.ways:
                    if way.threads == threads:
                        yield run_cell(executable, backend.name, way, backend.workload, prefixes)


def disagreements(cells: Sequence[Cell]) -> list[Cell]:
    """The cells that do not agree with the most frequent digest over the positions both have."""
    if not cells:
        return []
    shortest = min(cell.tokens for cell in cells)
    by_prefix = [cell.prefix_digests[shortest] for cell in cells]
    usual = max(by_prefix, key=by_prefix.count)
    wrong = [cell for cell, digest in zip(cells, by_prefix, strict=True) if digest != usual]
    whole = [cell.digest for cell in cells if cell.tokens != shortest and cell not in wrong]
    if whole:
        common = max(whole, key=whole.count)
        wrong += [c for c in cells if c.tokens != shortest and c not in wrong and c.digest != common]
    return wrong
