"""An execution followed from the event loop: tokens as they come, the outcome, the client's leaving."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from runtime.api.service import Service
from runtime.control.execution import Execution
from runtime.control.types import Outcome, RunSpec, TokenOut
from runtime.errors import EngineError


class Follower:
    """A listener for the control plane's threads, read on the event loop.

    Tokens that come while the loop is busy gather, and are taken together. Only an ``eager``
    follower wakes the loop for tokens; for a reply that is given whole, the end is enough.
    """

    def __init__(self, *, eager: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._eager = eager
        self._tokens: deque[TokenOut] = deque()
        self._outcome: Outcome | None = None
        self._woken = asyncio.Event()
        self._called = False  # a wake-up is on its way to the loop

    def token(self, token: TokenOut) -> None:
        self._tokens.append(token)
        if self._eager and not self._called:
            self._called = True
            self._loop.call_soon_threadsafe(self._wake)

    def done(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._called = False
        self._woken.set()

    def taken(self) -> list[TokenOut]:
        """The tokens that have come and were not taken yet."""
        found = []
        while self._tokens:
            found.append(self._tokens.popleft())
        return found

    async def next(self, seconds: float) -> list[TokenOut] | Outcome | None:
        """The next tokens, at the end the outcome, or None if nothing came within ``seconds``."""
        while True:
            if not self._woken.is_set():
                try:
                    async with asyncio.timeout(seconds):
                        await self._woken.wait()
                except TimeoutError:
                    return None
            self._woken.clear()
            # In this order: whatever came before the outcome is among the tokens.
            outcome = self._outcome
            if tokens := self.taken():
                if outcome is not None:
                    self._woken.set()
                return tokens
            if outcome is not None:
                return outcome

    async def outcome(self) -> Outcome:
        """Waits for the end; the tokens stay."""
        while self._outcome is None:
            await self._woken.wait()
            self._woken.clear()
        return self._outcome


async def submit(
    request: Request, service: Service, make: Callable[[], RunSpec], *, stream: bool
) -> tuple[Execution, Follower]:
    """Builds the spec and submits it, off the event loop: tokenizing may take a while."""
    follower = Follower(eager=stream)
    execution = await service.intake.work(
        request.state.body_bytes, lambda: service.plane.submit(make(), follower)
    )
    return execution, follower


async def _gone(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def outcome_or_gone(
    request: Request, service: Service, execution: Execution, follower: Follower
) -> Outcome:
    """The outcome; a client that leaves meanwhile cancels its execution."""
    ended = asyncio.ensure_future(follower.outcome())
    gone = asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait((ended, gone), return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            service.plane.cancel(execution.id)
        return await ended
    finally:
        if not ended.done():
            service.plane.cancel(execution.id)
        ended.cancel()
        gone.cancel()


class EventStream(Response):
    """Server-sent events of an execution.

    The execution is cancelled when the client leaves, or does not read for
    ``send_seconds``; a stream that fails on our side ends without its last event.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncIterator[bytes], *, service: Service, execution: Execution, send_seconds: float
    ) -> None:
        super().__init__(
            headers={
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
                "X-Execution-Id": execution.id,
            }
        )
        del self.headers["content-length"]
        self._events = events
        self._service = service
        self._execution = execution
        self._send_seconds = send_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pump = asyncio.ensure_future(self._pump(send))
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait((pump, gone), return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                pump.result()
        except (TimeoutError, OSError):
            pass  # the client does not read, or is gone: nobody is left to be told
        finally:
            self._service.plane.cancel(self._execution.id)
            for task in (pump, gone):
                task.cancel()
            await asyncio.gather(pump, gone, return_exceptions=True)

    async def _pump(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for chunk in self._events:
            async with asyncio.timeout(self._send_seconds):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def failure(outcome: Outcome) -> EngineError | None:
    """The error an execution ended with, if it did."""
    if outcome.error is not None:
        return outcome.error
    if str(outcome.stop_reason) == "error":
        return EngineError("execution_failed", "the execution failed without saying why")
    return None
