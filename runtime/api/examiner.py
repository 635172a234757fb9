"""Large bodies are looked at by another process: nothing in them can hold the server's interpreter.

Parsing a few megabytes takes calls into C that last for tens of milliseconds, several times as long
on a busy machine, and meanwhile no thread of the server may run: no step begins, /health waits.
The worker (:mod:`runtime.api.examiner_worker`) is told to be the last whom the system lets compute.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from typing import Any

from runtime.errors import EXIT_MACHINE, EngineError

#: Seconds for one body, and for the worker's start; both far beyond what a busy machine needs.
SECONDS = 30.0


class Examiner:
    """Asks a worker whether bodies are what their schemas want, one at a time; safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def examine(self, body: bytes | bytearray, schema_name: str) -> None:
        """Raises what :func:`runtime.api.checking.check` raises of this body, and ``overloaded``."""
        with self._lock:
            reply = self._ask(body, schema_name)
        if reply is not None:
            raise error_of(reply)

    def close(self) -> None:
        """Ends the worker; the next body starts another."""
        with self._lock:
            self._end()

    def _ask(self, body: bytes | bytearray, schema_name: str) -> dict[str, Any] | None:
        process = self._process
        if process is None or process.poll() is not None:
            process = self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(f"{schema_name} {len(body)}\n".encode())
            process.stdin.write(body)
            process.stdin.flush()
            reply = self._line(process.stdout.fileno())
        except BrokenPipeError:
            reply = b""
        except BaseException:
            self._end()  # a reply that nobody waits for must not answer the next body
            raise
        if not reply.endswith(b"\n"):
            self._end()
            raise EngineError("overloaded", "the body could not be looked at", hint="try again later")
        found: dict[str, Any] | None = json.loads(reply)
        return found

    @staticmethod
    def _line(descriptor: int) -> bytes:
        """The worker's reply up to its newline; less where it died or took too long."""
        reply, deadline = bytearray(), time.monotonic() + SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while not reply.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    break
                if not (chunk := os.read(descriptor, 1 << 16)):
                    break
                reply += chunk
        return bytes(reply)

    def _start(self) -> subprocess.Popen[bytes]:
        self._end()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "runtime.api.examiner_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={key: os.environ[key] for key in ("PYTHONPATH", "PATH") if key in os.environ},
            )
        except OSError as error:
            raise EngineError(
                "worker_failed",
                f"the process that looks at large bodies cannot be started: {error.strerror}",
                exit_code=EXIT_MACHINE,
            ) from error
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was still buffered for a dead process
                    pipe.close()


def error_of(body: dict[str, Any]) -> EngineError:
    """The inverse of :meth:`EngineError.to_json`."""
    causes = tuple(error_of(cause) for cause in body.get("causes", ()))
    path, allowed, hint = (body.get(key) for key in ("path", "allowed", "hint"))
    return EngineError(body["code"], body["message"], path, allowed, hint, causes=causes)


#: The process's own examiner.
EXAMINER = Examiner()
atexit.register(EXAMINER.close)
