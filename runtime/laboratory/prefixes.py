"""The prefix cache's files, held against the computation: a sample of blocks is computed again.

A block's keys and values follow from the tokens before it, so the blocks from the start of a
prompt up to the sampled one are computed afresh, and its pages compared byte for byte. Blocks of
salted prompts, and those whose beginning has been removed, cannot be computed again: of these the
digests are checked, as whenever a block is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.bundle.plan import PAGE
from runtime.engine.executable import Executable
from runtime.engine.pages import whole_slots
from runtime.engine.pagestore import PageStore, StoredBlock
from runtime.engine.prefix import Name, root


@dataclass(frozen=True)
class CheckedBlocks:
    """``blocks`` were read, ``damaged`` of them were not what their digests say (and are gone);
    ``recomputed`` were computed again, the files ``different`` hold other bits."""

    blocks: int
    damaged: int
    recomputed: int
    different: tuple[str, ...]


def check_prefixes(executable: Executable, store: PageStore, sample: int, seed: int = 1) -> CheckedBlocks:
    """Reads every block of a store and computes ``sample`` whole ones again."""
    parents: dict[Name, tuple[Name, Path]] = {}
    damaged = 0
    for path in store.files():
        parent, name = bytes.fromhex(path.parent.name), bytes.fromhex(path.name)
        if store.load(parent, name) is None:
            damaged += 1
        else:
            parents[name] = (parent, path)
    chains = [chain for name in parents if (chain := _chain(name, parents)) is not None]
    whole = [chain for chain in chains if (end := _load(store, parents, chain[-1])) and len(end.ids) == PAGE]
    order = np.random.default_rng(seed).permutation(len(whole))[:sample]
    different = [
        str(parents[whole[i][-1]][1])
        for i in order
        if not _same(executable, [_loaded(store, parents, name) for name in whole[i]])
    ]
    return CheckedBlocks(len(parents), damaged, len(order), tuple(different))


def _chain(name: Name, parents: dict[Name, tuple[Name, Path]]) -> list[Name] | None:
    """The names from a prompt's first block to ``name``; None where its beginning is not there."""
    chain = [name]
    while (parent := parents[chain[-1]][0]) != root(""):
        if parent not in parents:
            return None
        chain.append(parent)
    return chain[::-1]


def _load(store: PageStore, parents: dict[Name, tuple[Name, Path]], name: Name) -> StoredBlock | None:
    return store.load(parents[name][0], name)


def _loaded(store: PageStore, parents: dict[Name, tuple[Name, Path]], name: Name) -> StoredBlock:
    block = _load(store, parents, name)
    assert block is not None  # it was whole a moment ago
    return block


def _same(executable: Executable, blocks: list[StoredBlock]) -> bool:
    """Whether computing the blocks' tokens gives the last one's pages."""
    limits = executable.limits
    tables = whole_slots(executable.page_groups, limits.slots, limits.page_blocks)
    executable.use_tables(tables)
    ids = np.concatenate([block.ids for block in blocks])
    for at, part in _parts(ids, limits.step_tokens):
        positions = np.arange(at, at + len(part), dtype=np.int32)
        want = np.zeros(len(part), np.uint8)
        want[-1] = 1
        executable.forward(np.zeros(len(part), np.int32), positions, part, want)
    last = len(blocks) - 1
    return all(
        np.array_equal(executable.page(g, int(tables[0, g, last])), page)
        for g, page in blocks[last].pages.items()
    )


def _parts(ids: np.ndarray, most: int) -> Iterator[tuple[int, np.ndarray]]:
    for at in range(0, len(ids), most):
        yield at, ids[at : at + most]
