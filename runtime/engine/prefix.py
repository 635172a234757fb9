"""The prefix cache: which pages hold which tokens.

A block of positions is named by what its keys and values follow from: the tokens up to
its end, as a chain of hashes over blocks. A :class:`Node` is such a block that some page
holds; a page may be shared by every sequence whose tokens begin the same, and what is
read from it are the very bits that computing it again would give. The weights, the KV
type and the groups of layers are those of the bundle whose cache this is; ``salt``
keeps the prompts of different owners apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.bundle.plan import PAGE

Ids = npt.NDArray[np.int32]
Name = bytes

#: Fewest tokens for which a page is copied rather than computed.
SHORTEST_TAIL = 16
#: Blocks after one and the same prefix that are looked at for a tail, the most recent first.
MOST_TAILS = 32


def root(salt: str) -> Name:
    """The name of the empty prefix of one owner's prompts."""
    return hashlib.blake2b(salt.encode(), digest_size=16, person=b"kv prefix").digest()


def name_of(parent: Name, ids: Ids) -> Name:
    """The name of the block ``ids`` (int32, at most :data:`PAGE`) after ``parent``."""
    return hashlib.blake2b(ids.tobytes(), key=parent, digest_size=16).digest()


class Prompt:
    """A prompt as the cache sees it: its ids and, once somebody asks, the names of its whole blocks."""

    def __init__(self, ids: Ids | tuple[int, ...] | list[int], salt: str = "") -> None:
        self.ids: Ids = np.asarray(ids, np.int32)
        self.salt = salt
        self.stored: tuple[tuple[int, Any], ...] = ()  # (block, what the disk has of it), ascending

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def names(self) -> tuple[Name, ...]:
        """Of the empty prefix, then of each whole block that ends before the last token: that one is
        always computed, for its logits."""
        names = [root(self.salt)]
        for first in range(0, (len(self.ids) - 1) // PAGE * PAGE, PAGE):
            names.append(name_of(names[-1], self.ids[first : first + PAGE]))
        return tuple(names)

    def shared_tokens(self, blocks: int, ids: Ids) -> int:
        """How many tokens a block of ``ids`` shares with what follows the first ``blocks`` blocks, the
        last token excepted."""
        rest = self.ids[blocks * PAGE : min((blocks + 1) * PAGE, len(self) - 1)]
        n = min(len(rest), len(ids))
        differ = np.flatnonzero(rest[:n] != ids[:n])
        return int(differ[0]) if len(differ) else n


@dataclass(eq=False)
class Node:
    """A block that pages hold: its tokens, fewer than :data:`PAGE` at the end of a sequence, and the
    page of each group, None where it is not held any more."""

    name: Name
    parent: Name
    ids: Ids
    pages: list[int | None] = field(default_factory=list)


@dataclass(frozen=True)
class Match:
    """What of a prompt is there: whole blocks from its start, then ``tail_tokens`` of a block to copy."""

    nodes: tuple[Node, ...] = ()
    tail: Node | None = None
    tail_tokens: int = 0

    @property
    def tokens(self) -> int:
        return len(self.nodes) * PAGE + self.tail_tokens


class PrefixTree:
    """The nodes by name, and by what they follow. Knows nothing of who uses their pages."""

    def __init__(self) -> None:
        self._nodes: dict[Name, Node] = {}
        self._after: dict[Name, dict[Name, Node]] = {}  # by parent, the most recent last

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, name: Name) -> Node | None:
        return self._nodes.get(name)

    def add(self, node: Node) -> None:
        """Adds a node of a name that is not there."""
        self._nodes[node.name] = node
        self._after.setdefault(node.parent, {})[node.name] = node

    def remove(self, node: Node) -> None:
        """Takes a node out; those that follow it stay, and are found again should it come back."""
        del self._nodes[node.name]
        siblings = self._after[node.parent]
        del siblings[node.name]
        if not siblings:
            del self._after[node.parent]

    def touch(self, node: Node) -> None:
        """Makes a node the most recent of those that follow its parent."""
        siblings = self._after[node.parent]
        siblings[node.name] = siblings.pop(node.name)

    def beginnings(self, node: Node) -> list[Node]:
        """Its siblings whose tokens it begins with, and has more: what they hold, it holds too."""
        siblings = self._after.get(node.parent, {}).values()
        n = len(node.ids)
        return [s for s in siblings if len(s.ids) < n and np.array_equal(s.ids, node.ids[: len(s.ids)])]

    def whole_blocks(self, prompt: Prompt) -> list[Node]:
        """The nodes of a prompt's whole blocks from its start on, as far as there are any."""
        found: list[Node] = []
        for name in prompt.names[1:]:
            node = self._nodes.get(name)
            if node is None:
                break
            found.append(node)
        return found

    def tails(self, prompt: Prompt, blocks: int) -> Iterator[tuple[Node, int]]:
        """Nodes after the first ``blocks`` blocks that share a beginning with what follows them in the
        prompt, its last token excepted, and how many tokens they share; the most recent first."""
        siblings = list(self._after.get(prompt.names[blocks], {}).values())
        for node in reversed(siblings[-MOST_TAILS:]):
            yield node, prompt.shared_tokens(blocks, node.ids)
