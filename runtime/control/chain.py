"""The chain of records: each row carries the hash of its content and of the row before.

::

    body      canonical JSON of the record
    hash(n) = SHA-256 of "<n>\\n<hash(n-1)>\\n<SHA-256 of body>\\n"      hash(0) = 64 zeros

So the last hash (the *head*) stands for every row up to it. A change in any row,
a missing row or another order breaks the chain at that row. Who rewrites every
hash after a change, or cuts rows off the end, is found against a head that was
kept before: beside the store (:mod:`runtime.control.anchor`), or elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from runtime.bundle.plan import canonical_json

GENESIS = "0" * 64


@dataclass(frozen=True)
class Row:
    """One row as stored. ``seq`` counts from 1; hashes in hex; ``body`` is UTF-8 JSON."""

    seq: int
    execution_id: str
    created: str
    body: bytes
    body_sha256: str
    previous: str
    hash: str


@dataclass(frozen=True)
class RecordHead:
    """The end of the chain: how many rows, and the last one's hash."""

    count: int
    hash: str

    def to_json(self) -> dict[str, object]:
        return {"count": self.count, "hash": self.hash}


EMPTY_HEAD = RecordHead(0, GENESIS)


@dataclass(frozen=True)
class Fault:
    """One thing wrong with the chain; ``seq`` is None where it is not one row's."""

    seq: int | None
    execution_id: str | None
    what: str

    def to_json(self) -> dict[str, object]:
        return {"seq": self.seq, "execution_id": self.execution_id, "what": self.what}


def row_hash(seq: int, previous: str, body_sha256: str) -> str:
    """The hash of row ``seq``, as above."""
    return hashlib.sha256(f"{seq}\n{previous}\n{body_sha256}\n".encode()).hexdigest()


def next_row(head: RecordHead, execution_id: str, created: str, body: bytes) -> Row:
    """The row that follows ``head``."""
    seq, body_sha256 = head.count + 1, hashlib.sha256(body).hexdigest()
    return Row(
        seq, execution_id, created, body, body_sha256, head.hash, row_hash(seq, head.hash, body_sha256)
    )


def verify_rows(
    rows: Iterable[Row], heads: Mapping[str, RecordHead] = MappingProxyType({})
) -> tuple[RecordHead, list[Fault]]:
    """Checks every row in order, and against ``heads`` kept earlier (by what they are called in a fault).

    Gives the head found, and the faults.
    """
    faults: list[Fault] = []
    head, seen = EMPTY_HEAD, set[str]()
    counts = {kept.count for kept in heads.values()}
    hashes = {0: GENESIS}
    for row in rows:
        faults += (Fault(row.seq, row.execution_id, what) for what in _row_faults(row, head))
        if row.execution_id in seen:
            faults.append(Fault(row.seq, row.execution_id, "the execution is recorded twice"))
        seen.add(row.execution_id)
        # Going on from what the row claims, one damaged row is one fault and not all that follow.
        head = RecordHead(row.seq, row.hash)
        if row.seq in counts:
            hashes[row.seq] = row.hash
    for name, kept in heads.items():
        if head.count < kept.count:
            missing = f"rows {head.count + 1} to {kept.count} of {name} are missing"
            faults.append(Fault(None, None, missing))
        elif hashes.get(kept.count) != kept.hash:
            faults.append(Fault(kept.count, None, f"the rows up to {name} were rewritten"))
    return head, faults


def _row_faults(row: Row, head: RecordHead) -> Iterator[str]:
    if row.seq != head.count + 1:
        yield f"follows row {head.count}: rows are missing or out of order"
    if row.previous != head.hash:
        yield "does not carry the hash of the row before"
    if hashlib.sha256(row.body).hexdigest() != row.body_sha256:
        yield "its content was changed"
    if row_hash(row.seq, row.previous, row.body_sha256) != row.hash:
        yield "its hash was changed"
    try:
        record = json.loads(row.body)
        canonical = canonical_json(record) == row.body
    except (ValueError, RecursionError):
        yield "its content is not JSON"
        return
    if not canonical:
        yield "its content is not canonical JSON"
    if not isinstance(record, dict) or (record.get("execution_id"), record.get("created")) != (
        row.execution_id,
        row.created,
    ):
        yield "its columns contradict its content"
