"""Where the work of a request is done: small ones beside the event loop, large ones one at a time.

The event loop answers ``/health`` and carries everybody's tokens, so nothing that grows with
a request runs on it. One thread takes all large requests, and what they hold
in memory has a bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from runtime.errors import EngineError

T = TypeVar("T")

#: Bytes of a body up to which its work is done at once; of what is larger, on the thread for large ones.
SMALL = 4 << 10
LARGE = 16 << 10
#: Large requests that may wait for their thread, and bytes of bodies that may be held.
MAX_WAITING = 32
MAX_HELD_BYTES = 64 << 20


class Intake:
    """Bounded work off the event loop; called on the loop. ``waiting``: large requests not yet
    done; ``held``: bytes of bodies."""

    def __init__(self) -> None:
        self._light = ThreadPoolExecutor(2, thread_name_prefix="engine-request")
        self._heavy = ThreadPoolExecutor(1, thread_name_prefix="engine-large-request")
        self.waiting = 0
        self.held = 0

    def hold(self, size: int) -> None:
        """Counts bytes of a body that came (negative: were let go). Raises ``overloaded``."""
        if size > 0 and self.held + size > MAX_HELD_BYTES:
            raise EngineError(
                "overloaded", f"bodies of {self.held} bytes are being read already", hint="try again later"
            )
        self.held += size

    async def work(self, size: int, task: Callable[[], T]) -> T:
        """The result of ``task`` for a request of ``size`` bytes, run off the loop. Raises what it
        raises, and ``overloaded``."""
        loop = asyncio.get_running_loop()
        if size < LARGE:
            return await loop.run_in_executor(self._light, task)
        if self.waiting >= MAX_WAITING:
            raise EngineError(
                "overloaded", f"{self.waiting} large requests are waiting already", hint="try again later"
            )
        self.waiting += 1
        try:
            return await loop.run_in_executor(self._heavy, task)
        finally:
            self.waiting -= 1

    def close(self) -> None:
        """Ends the threads; what waits is dropped."""
        for pool in (self._light, self._heavy):
            pool.shutdown(wait=False, cancel_futures=True)
