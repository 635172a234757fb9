"""Executions followed from the event loop: tokens as they come, the outcome, the client's leaving."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

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

    def __init__(self, loop: asyncio.AbstractEventLoop, woken: asyncio.Event, *, eager: bool) -> None:
        self._loop = loop
        self._eager = eager
        self._tokens: deque[TokenOut] = deque()
        self._outcome: Outcome | None = None
        self._woken = woken  # shared by the executions of one request
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

    @property
    def outcome(self) -> Outcome | None:
        return self._outcome

    def taken(self) -> list[TokenOut]:
        """The tokens that have come and were not taken yet."""
        found = []
        while self._tokens:
            found.append(self._tokens.popleft())
        return found

    def found(self) -> list[TokenOut] | Outcome | None:
        """The next tokens, or at the end the outcome, or None if nothing has come."""
        # In this order: whatever came before the outcome is among the tokens.
        outcome = self._outcome
        return self.taken() or outcome


class Following:
    """The executions of one request with their followers, read together on the event loop."""

    def __init__(self, executions: Sequence[Execution], followers: Sequence[Follower]) -> None:
        self.executions = tuple(executions)
        self.followers = tuple(followers)
        self.outcomes: list[Outcome | None] = [None] * len(executions)
        self._woken = followers[0]._woken

    @property
    def ids(self) -> str:
        """The executions' ids, as the header ``X-Execution-Id`` names them."""
        return ", ".join(execution.id for execution in self.executions)

    async def next(self, seconds: float) -> tuple[int, list[TokenOut] | Outcome] | None:
        """The place of an execution and its next tokens or its outcome (each once); None if nothing
        came within ``seconds``. Not to be called once all outcomes were given."""
        while True:
            self._woken.clear()
            for place, follower in enumerate(self.followers):
                if self.outcomes[place] is None and (found := follower.found()) is not None:
                    if isinstance(found, Outcome):
                        self.outcomes[place] = found
                    return place, found
            try:
                async with asyncio.timeout(seconds):
                    await self._woken.wait()
            except TimeoutError:
                return None

    async def ended(self) -> list[Outcome]:
        """Waits for all ends, or the first failure; the tokens stay with the followers."""
        while True:
            self._woken.clear()
            outcomes = [follower.outcome for follower in self.followers]
            known = [outcome for outcome in outcomes if outcome is not None]
            if len(known) == len(outcomes) or any(failure(outcome) for outcome in known):
                return known
            await self._woken.wait()

    async def news(
        self, service: Service
    ) -> AsyncIterator[tuple[int, list[TokenOut] | str | Outcome] | None]:
        """All that happens to the executions, until each has ended: the place of one and its next
        tokens; at its end the text that was held back till then, if any, and the outcome. None where
        nothing came for a heartbeat."""
        shown = [0] * len(self.executions)
        while None in self.outcomes:
            came = await self.next(service.settings.heartbeat_seconds)
            if came is None:
                yield None
                continue
            place, found = came
            if isinstance(found, Outcome):
                if rest := found.text[shown[place] :]:
                    yield place, rest
            else:
                shown[place] += sum(len(token.text) for token in found)
            yield place, found

    def cancel(self, service: Service) -> None:
        """Cancels what is still live."""
        for execution in self.executions:
            service.plane.cancel(execution.id)


async def submit(
    request: Request, service: Service, make: Callable[[], Sequence[RunSpec]], *, stream: bool
) -> Following:
    """Builds the specs and submits them, all or none, off the event loop: tokenizing may take a while."""
    loop, woken = asyncio.get_running_loop(), asyncio.Event()

    def start() -> Following:
        executions: list[Execution] = []
        followers: list[Follower] = []
        try:
            for spec in make():
                followers.append(Follower(loop, woken, eager=stream))
                executions.append(service.plane.submit(spec, followers[-1]))
        except EngineError:
            for execution in executions:
                service.plane.cancel(execution.id)
            raise
        return Following(executions, followers)

    return await service.intake.work(request.state.body_bytes, start)


async def _gone(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def outcomes_or_gone(request: Request, service: Service, following: Following) -> list[Outcome]:
    """The outcomes; a client that leaves meanwhile cancels its executions, and so does a failure the rest."""
    ended = asyncio.ensure_future(following.ended())
    gone = asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait((ended, gone), return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            following.cancel(service)
        return await ended
    finally:
        following.cancel(service)
        ended.cancel()
        gone.cancel()


class EventStream(Response):
    """Server-sent events (or lines, as ``media_type`` says) of a request's executions.

    They are cancelled when the client leaves, or does not read for
    ``send_seconds``; a stream that fails on our side ends without its last event.
    """

    def __init__(
        self,
        events: AsyncIterator[bytes],
        *,
        service: Service,
        following: Following,
        media_type: str = "text/event-stream",
    ) -> None:
        super().__init__(
            media_type=media_type,
            headers={
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
                "X-Execution-Id": following.ids,
            },
        )
        del self.headers["content-length"]
        self._events = events
        self._service = service
        self._following = following
        self._send_seconds = service.settings.send_seconds

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
            self._following.cancel(self._service)
            for task in (pump, gone):
                task.cancel()
            await asyncio.gather(pump, gone, return_exceptions=True)

    async def _pump(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for chunk in self._events:
            if not chunk:
                continue
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
