"""The other side of :mod:`runtime.api.examiner`: reads bodies, says what is wrong with each.

A body comes as ``schema length\\n`` and its bytes; the answer is a line of JSON, null or an error.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys

from runtime.api.checking import check
from runtime.api.strict_json import parse
from runtime.errors import EngineError

MEMORY_BYTES = 512 << 20
NICE = 10


def answer(schema_name: str, body: bytes) -> dict[str, object] | None:
    """The error that the body is refused with, or None."""
    try:
        check(parse(body), schema_name)
    except EngineError as error:
        return error.to_json()
    except MemoryError:
        return EngineError("invalid_json", "the body would take too much memory").to_json()
    return None


def main() -> None:
    """Until the end of the input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server to handle
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    while head := sys.stdin.buffer.readline():
        schema_name, _, length = head.decode().partition(" ")
        body = sys.stdin.buffer.read(int(length))
        sys.stdout.buffer.write(json.dumps(answer(schema_name, body)).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
