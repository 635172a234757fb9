"""Which of many fixed texts occur in a text, in one pass over it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cached_property


class Literals:
    """A set of texts to look for; an empty one is none. Immutable; safe to share between threads.

    The time of every search is linear in the text, whatever the number of literals: they are
    compiled into one expression that branches only where they differ.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = frozenset(filter(None, texts))
        self._longest = max(map(len, self.texts), default=0)

    @cached_property
    def _next(self) -> re.Pattern[str]:
        return re.compile(_expression(self.texts) if self.texts else r"(?!)")

    @cached_property
    def _first(self) -> re.Pattern[str]:
        return re.compile(f"[{re.escape(''.join({text[0] for text in self.texts}))}]")

    def places(self, text: str) -> Iterator[tuple[int, str]]:
        """Where a literal begins, and the longest that begins there; they may overlap."""
        if self.texts:
            for first in self._first.finditer(text):
                if (match := self._next.match(text, first.start())) is not None:
                    yield first.start(), match[0]

    def present(self, text: str) -> set[str]:
        """Those that occur in ``text``, overlapping ones as well."""
        longest = {literal for _, literal in self.places(text)}
        shorter = {one[:end] for one in longest for end in range(1, len(one))}
        return longest | (shorter & self.texts)

    def stretches(self, text: str) -> Iterator[tuple[str, bool]]:
        """``text`` cut into stretches and whether each is a literal: the longest at the leftmost place."""
        start = 0
        for match in self._next.finditer(text):
            if match.start() > start:
                yield text[start : match.start()], False
            yield match[0], True
            start = match.end()
        if start < len(text):
            yield text[start:], False

    def head(self, text: str) -> int:
        """Characters at the beginning of ``text`` that end a literal begun before it."""
        return next((n for n in range(min(len(text), self._longest), 0, -1) if text[:n] in self._tails), 0)

    def tail(self, text: str) -> int:
        """Characters at the end of ``text`` that begin a literal which goes on after it."""
        return next((n for n in range(min(len(text), self._longest), 0, -1) if text[-n:] in self._heads), 0)

    @cached_property
    def _heads(self) -> frozenset[str]:
        return frozenset(text[:n] for text in self.texts for n in range(1, len(text)))

    @cached_property
    def _tails(self) -> frozenset[str]:
        return frozenset(text[n:] for text in self.texts for n in range(1, len(text)))


def _expression(texts: Iterable[str]) -> str:
    """An expression that matches the longest of ``texts`` at a place, without trying them one by one."""
    tree: dict[str, dict] = {}  # type: ignore[type-arg]
    for text in texts:
        node = tree
        for char in text:
            node = node.setdefault(char, {})
        node[""] = {}

    # From the leaves up, without recursion: a literal may be longer than Python's stack.
    order, todo = [], [tree]
    while todo:
        node = todo.pop()
        order.append(node)
        todo.extend(child for char, child in node.items() if char)
    made: dict[int, str] = {}
    for node in reversed(order):
        branches = [re.escape(char) + made[id(child)] for char, child in sorted(node.items()) if char]
        if not branches:
            made[id(node)] = ""
        elif len(branches) == 1 and "" not in node:
            made[id(node)] = branches[0]
        else:
            made[id(node)] = f"(?:{'|'.join(branches)}){'?' if '' in node else ''}"
    return made[id(tree)]
