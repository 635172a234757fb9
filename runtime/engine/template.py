"""Chat templates rendered under a budget, by a worker process that can be killed."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.errors import EXIT_MACHINE, EXIT_MODEL, EngineError

#: What one rendering may use. A published template needs milliseconds and kilobytes.
RENDER_SECONDS = 2.0
MAX_CHARS = 1 << 20
MAX_SOURCE_CHARS = 1 << 18

_WORKER = Path(__file__).with_name("template_worker.py")
#: Starting the interpreter on a busy machine is not the template's fault.
_START_SECONDS = 60.0
_PATH = "tokenizer.chat_template"


class Renderer:
    """Renders templates, one at a time, in a worker that lives as long as the templates behave.

    Safe to share between threads; usable from any of them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0

    def render(
        self,
        source: str,
        variables: Mapping[str, Any],
        *,
        seconds: float = RENDER_SECONDS,
        max_chars: int = MAX_CHARS,
        now: float | None = None,
        marks: str = "",
    ) -> str:
        """The text of the jinja2 template ``source`` with JSON-like ``variables``.

        ``seconds`` of wall time and ``max_chars`` of text are its budget; ``now`` is the
        Unix time that ``strftime_now`` shows; ``marks`` are characters that ``tojson`` never
        escapes. Raises EngineError: ``chat_template_failed``
        (syntax, or an error in it, with the line), ``chat_template_refused`` (the template's
        own ``raise_exception``), ``chat_template_unsafe``, ``chat_template_budget``.
        """
        if len(source) > MAX_SOURCE_CHARS:
            raise _budget(f"the template has {len(source)} characters", f"at most {MAX_SOURCE_CHARS}")
        request = {
            "source": source,
            "variables": dict(variables),
            "seconds": seconds,
            "max_chars": max_chars,
            "now": now,
            "marks": marks,
        }
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            answer = self._ask(line, seconds)
        if answer is None:
            raise _budget(f"rendering took longer than {seconds:g} s and was stopped", f"{seconds:g} s")
        reply = json.loads(answer)
        if "error" not in reply:
            return str(reply["text"])
        raise _error(reply, max_chars)

    def close(self) -> None:
        """Ends the worker; the next rendering starts another."""
        with self._lock:
            self._end()

    def _ask(self, line: bytes, seconds: float) -> bytes | None:
        """The worker's reply; None where it ran out of time. Holds the lock."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        # The worker's own alarm comes first; this one is for a worker that cannot raise it.
        deadline = max(time.monotonic(), self._started + _START_SECONDS) + seconds + 1.0
        reply = bytearray()
        try:
            process.stdin.write(line)
            process.stdin.flush()
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                while not reply.endswith(b"\n"):
                    if not selector.select(max(0.0, deadline - time.monotonic())):
                        self._end()
                        return None
                    chunk = os.read(process.stdout.fileno(), 1 << 16)
                    if not chunk:
                        break
                    reply += chunk
        except BrokenPipeError:
            reply.clear()
        except BaseException:
            self._end()  # a reply that nobody waits for must not answer the next request
            raise
        if reply.endswith(b"\n"):
            self._started = 0.0
            return bytes(reply)
        code = process.wait()
        self._end()
        if code == -signal.SIGALRM:
            return None
        raise _budget(f"the template ended the process that rendered it (exit code {code})", "")

    def _start(self) -> None:
        self._end()
        environment = {key: os.environ[key] for key in ("PYTHONPATH", "PATH", "TZ") if key in os.environ}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-B", str(_WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                bufsize=-1,
            )
        except OSError as error:
            raise EngineError(
                "chat_template_failed",
                f"the process that renders chat templates cannot be started: {error.strerror}",
                exit_code=EXIT_MACHINE,
            ) from error
        self._started = time.monotonic()

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


def _budget(message: str, allowed: str) -> EngineError:
    return EngineError(
        "chat_template_budget",
        message,
        path=_PATH,
        allowed=allowed or None,
        hint="the model's chat template is broken or hostile; use a prompt instead of messages",
        exit_code=EXIT_MODEL,
    )


def _error(reply: dict[str, Any], max_chars: int) -> EngineError:
    kind, message, line = reply["error"], reply["message"], reply["line"]
    if kind == "oversize":
        return _budget("the rendered text is too long", f"at most {max_chars} characters")
    if kind == "memory":
        return _budget("rendering used too much memory", "")
    if kind == "recursion":
        return _budget("the template nests or recurses too deeply", "")
    path = _PATH if line is None else f"{_PATH} line {line}"
    if kind == "refused":
        return EngineError(
            "chat_template_refused",
            f"the model's chat template refuses these messages: {message}",
            path=path,
            exit_code=EXIT_MODEL,
        )
    if kind == "unsafe":
        return EngineError(
            "chat_template_unsafe",
            f"the chat template tries to leave its sandbox: {message}",
            path=path,
            hint="do not trust this model file",
            exit_code=EXIT_MODEL,
        )
    return EngineError(
        "chat_template_failed",
        f"the chat template cannot be rendered: {message}",
        path=path,
        exit_code=EXIT_MODEL,
    )


#: The process's own renderer.
RENDERER = Renderer()
atexit.register(RENDERER.close)
