"""The server around the application: bounded connections, idle time, an orderly end.

SIGTERM or SIGINT: no new executions, the present ones get ``drain_seconds`` to end,
records are written, exit 0. A second signal cuts what is left; that is recorded too.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from runtime.api.app import create_app
from runtime.api.errors import error_response
from runtime.api.service import Service
from runtime.errors import EXIT_MACHINE, EngineError

log = logging.getLogger("engine.server")

_SILENT = logging.getLogger("engine.http")
_SILENT.setLevel(logging.ERROR)

#: Connections at once, and seconds one may stay without a complete request.
MAX_CONNECTIONS = 1024
IDLE_SECONDS = 60.0
#: Bytes of a request's head.
MAX_HEAD_BYTES = 32 << 10


class _Connection(h11.Connection):
    """h11's server side with a bound on heads that came whole as well; ``fault`` is what was wrong."""

    fault: h11.RemoteProtocolError | None = None

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MAX_HEAD_BYTES)

    def next_event(self) -> Any:
        try:
            event = super().next_event()
            if isinstance(event, h11.Request):
                size = len(event.target) + sum(len(key) + len(value) + 4 for key, value in event.headers)
                if size > MAX_HEAD_BYTES:
                    raise h11.RemoteProtocolError("the head is too large", error_status_hint=431)
            return event
        except h11.RemoteProtocolError as fault:
            self.fault = fault
            raise


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with a bound on connections, on heads and on the time until a request is complete.

    A connection beyond the bound is closed at once: it costs a descriptor, and whoever
    opens so many does not read what is written to them.
    """

    open_connections = 0
    _timer: asyncio.TimerHandle | None = None
    _counted = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn: _Connection = _Connection()
        self.logger = _SILENT  # what strangers send is answered, not logged line by line

    def send_400_response(self, msg: str) -> None:
        """The reply to what is no HTTP, in the one shape of errors."""
        fault = self.conn.fault
        if fault is not None and fault.error_status_hint == 431:
            error = EngineError(
                "head_too_large",
                "the head of the request is too large",
                allowed=f"at most {MAX_HEAD_BYTES} bytes",
            )
        else:
            error = EngineError("invalid_http", f"the request is not HTTP/1.1: {fault or msg}"[:200])
        reply = error_response(error, headers={"Connection": "close"})
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # a reply is under way
            self.transport.close()
            return
        head = h11.Response(status_code=reply.status_code, headers=reply.raw_headers)
        with suppress(h11.LocalProtocolError):  # HEAD takes no data
            for event in (head, h11.Data(data=bytes(reply.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        BoundedProtocol.open_connections += 1
        self._counted = True
        if BoundedProtocol.open_connections > MAX_CONNECTIONS:
            transport.abort()
            return
        self._timer = self.loop.call_later(IDLE_SECONDS, self._idle)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._counted:
            BoundedProtocol.open_connections -= 1
            self._counted = False
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _idle(self) -> None:
        """Closes a connection that is not being answered; looks again later otherwise."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()
            return
        self._timer = self.loop.call_later(IDLE_SECONDS, self._idle)


class Server:
    """Serves a :class:`Service` until a signal. ``load`` opens the bundles meanwhile, in a thread."""

    def __init__(
        self,
        service: Service,
        *,
        host: str,
        port: int,
        drain_seconds: float = 30.0,
        load: Callable[[], None] | None = None,
        announce: Callable[[str], None] = lambda url: None,
    ) -> None:
        self._service = service
        self._host, self._port = host, port
        self._drain_seconds = drain_seconds
        self._load = load
        self._announce = announce
        self._failure: BaseException | None = None
        self._signals = 0
        self._ended: asyncio.Event
        self._uvicorn: uvicorn.Server

    def run(self) -> None:
        """Returns after an orderly end. Raises what ``load`` raised, and ``address_in_use``."""
        listener = _listen(self._host, self._port)
        config = uvicorn.Config(
            create_app(self._service),
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=30,
            backlog=512,
        )
        self._uvicorn = _Uvicorn(config)
        self._service.plane.start()
        try:
            asyncio.run(self._serve(listener))
        finally:
            self._service.intake.close()
            self._service.plane.stop()
            listener.close()
        if self._failure is not None:
            raise self._failure

    async def _serve(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        serving = asyncio.ensure_future(self._uvicorn.serve(sockets=[listener]))
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        self._announce(f"http://{shown}:{port}")
        if self._load is not None:
            self._service.loading = True
            threading.Thread(target=self._loading, args=(loop,), name="engine-loader", daemon=True).start()
        ended = asyncio.ensure_future(self._ended.wait())
        await asyncio.wait((serving, ended), return_when=asyncio.FIRST_COMPLETED)
        self._service.stopping = True
        plane = self._service.plane
        draining = asyncio.ensure_future(asyncio.to_thread(plane.drain, self._drain_seconds))
        while not draining.done() and self._signals < 2 and self._failure is None:
            await asyncio.wait((draining,), timeout=0.05)
        for execution in plane.live():
            plane.cancel(execution.id)
        await asyncio.to_thread(plane.executor.wait_idle, 10.0)
        # Replies that end with the cancellation get a moment to leave.
        self._uvicorn.should_exit = True
        await asyncio.wait((serving,), timeout=5.0 if self._signals < 2 else 1.0)
        self._uvicorn.force_exit = True
        await serving
        ended.cancel()

    def _on_signal(self) -> None:
        self._signals += 1
        self._ended.set()

    def _loading(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._load is not None
        try:
            self._load()
        except BaseException as error:
            self._failure = error
            loop.call_soon_threadsafe(self._ended.set)
        finally:
            self._service.loading = False


class _Uvicorn(uvicorn.Server):
    """uvicorn without its own signal handlers: draining comes first."""

    def capture_signals(self) -> Any:
        from contextlib import nullcontext

        return nullcontext()


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ``address_in_use`` or ``address_not_available``."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(512)
    except OSError as cause:
        listener.close()
        raise EngineError(
            "address_in_use" if cause.errno == 98 else "address_not_available",
            f"cannot listen on {host} port {port}: {cause.strerror}",
            path="--port",
            hint="another server may be running there; choose another --port (0: any that is free)",
            exit_code=EXIT_MACHINE,
        ) from cause
    return listener
