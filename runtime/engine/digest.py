"""The digest of a sequence's logits, kept off the way to the next token where rows are long."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from hashlib import blake2b
from threading import BoundedSemaphore

import numpy as np
import numpy.typing as npt

#: Rows from this many bytes on are hashed by a thread of their own: below, handing over costs as much.
LONG_ROW = 1 << 16
#: Rows that may wait to be hashed, of all sequences together: what they hold of memory is bounded.
MOST_WAITING = 16


class LogitsDigest:
    """BLAKE2b-256 over the float32 rows ``[n_vocab]`` that tokens were sampled from, in order.

    Long rows are copied and hashed while the next step runs, where the process may use more than
    one CPU; whoever reads waits for what is still to be hashed. One thread at a time may use it.
    """

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=32)
        self._rows: list[str] = []
        self._last: Future[None] | None = None
        self._hasher = _hasher() if len(os.sched_getaffinity(0)) > 1 else None

    def take(self, row: npt.NDArray[np.float32]) -> None:
        """Adds a row, contiguous; it may be overwritten afterwards."""
        if self._hasher is None or row.nbytes < LONG_ROW:
            self._update(row)
            return
        hasher, waiting = self._hasher
        waiting.acquire()
        self._last = hasher.submit(self._update_and_release, row.copy(), waiting)

    def hexdigest(self) -> str:
        """Of all rows so far, 64 digits."""
        self._settle()
        return self._hash.hexdigest()

    def by_row(self) -> list[str]:
        """The first 16 digits of the digest as of each row."""
        self._settle()
        return self._rows

    def _update(self, row: npt.NDArray[np.float32]) -> None:
        self._hash.update(row.data)
        self._rows.append(self._hash.hexdigest()[:16])

    def _update_and_release(self, row: npt.NDArray[np.float32], waiting: BoundedSemaphore) -> None:
        try:
            self._update(row)
        finally:
            waiting.release()

    def _settle(self) -> None:
        """There is one thread that hashes, so rows are done in order: with the last one all are."""
        if self._last is not None:
            self._last.result()
            self._last = None


@cache
def _hasher() -> tuple[ThreadPoolExecutor, BoundedSemaphore]:
    return ThreadPoolExecutor(1, "logits-digest"), BoundedSemaphore(MOST_WAITING)
