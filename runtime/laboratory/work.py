"""What a step moves and multiplies, from the costs in a bundle's manifest: by op, and in all.

The compiler writes ``details.cost.ops`` (``compiler/emit/cost.py``): for every op and kind of operand the
multiplications and bytes of a token, of a token whose logits are wanted, or of a position attended to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from runtime.bundle.format import Manifest


@dataclass(frozen=True)
class Step:
    """Tokens of one sequence in one step: ``tokens`` of them after ``depth`` others, ``wanted`` logits."""

    tokens: int
    depth: int
    wanted: int = 1


@dataclass(frozen=True)
class OpWork:
    """What one op does in some steps: the least bytes that it must read from memory (weights once a
    step, the cache once a step), and multiply-adds by the bits of the weights' codes, 0 for floats."""

    op: str
    types: tuple[str, ...] = ()
    bytes: int = 0
    macs_by_bits: Mapping[int, int] = field(default_factory=dict)

    @property
    def macs(self) -> int:
        return sum(self.macs_by_bits.values())

    def __add__(self, other: OpWork) -> OpWork:
        return OpWork(
            self.op,
            tuple(dict.fromkeys((*self.types, *other.types))),
            self.bytes + other.bytes,
            {
                bits: self.macs_by_bits.get(bits, 0) + other.macs_by_bits.get(bits, 0)
                for bits in {**self.macs_by_bits, **other.macs_by_bits}
            },
        )

    def divided(self, by: int) -> OpWork:
        """The mean of so many equal parts."""
        macs = {bits: count // by for bits, count in self.macs_by_bits.items()}
        return replace(self, bytes=self.bytes // by, macs_by_bits=macs)


def work_by_op(manifest: Manifest, steps: Sequence[Step]) -> dict[str, OpWork]:
    """The work of ``steps`` by op, in the order of the graph; empty where the bundle does not say."""
    cost = manifest.details.get("cost")
    entries = cost.get("ops", ()) if isinstance(cost, Mapping) else ()
    found: dict[str, OpWork] = {}
    for entry in entries:
        for step in steps:
            work = _work(entry, step)
            found[work.op] = found[work.op] + work if work.op in found else work
    return found


def total(works: Mapping[str, OpWork]) -> OpWork | None:
    """All ops together; None of none."""
    added = None
    for work in works.values():
        added = work if added is None else added + work
    return added


def _work(entry: Mapping[str, Any], step: Step) -> OpWork:
    macs, read = int(entry.get("macs", 0)), int(entry.get("bytes", 0))
    kind = entry.get("type")
    if entry["rows"] == "position":
        window = int(entry.get("window", 0))
        positions = attended(step, window)
        held = step.depth + step.tokens
        held = min(held, window + step.tokens - 1) if window else held
        # Scores and sums are computed in floats whatever the cache holds.
        return OpWork(entry["op"], (str(kind),), read * held, {0: macs * positions})
    rows = step.wanted if entry["rows"] == "wanted" else step.tokens
    read = min(read * rows, int(entry.get("most_bytes", 0)))
    types = (str(kind),) if kind else ()
    return OpWork(entry["op"], types, read, {int(entry.get("bits", 0)): macs * rows})


def attended(step: Step, window: int) -> int:
    """Positions that the step's tokens attend to, added up; token ``t`` sees those up to its own."""
    first, last = step.depth + 1, step.depth + step.tokens
    if not window or last <= window:
        return (first + last) * step.tokens // 2
    growing = max(0, window - first + 1)  # tokens whose window is not full yet
    return (first + first + growing - 1) * growing // 2 + window * (step.tokens - growing)
