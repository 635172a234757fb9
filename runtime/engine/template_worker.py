"""Renders chat templates in a process of its own, so that one that misbehaves can be killed.

Run as a script with ``python -P``; it imports nothing of the engine. One JSON
request a line on stdin, one JSON reply a line on stdout:

    {"source", "variables", "seconds", "max_chars", "now", "marks"}
        →  {"text"} or {"error", "message", "line"}

What the template may use is jinja2's immutable sandbox with the helpers that
published templates expect: ``raise_exception(message)``, ``strftime_now(format)``,
``tojson`` without HTML escapes, ``break`` and ``continue``, the ``generation``
block, ``trim_blocks`` and ``lstrip_blocks``
(https://huggingface.co/docs/transformers/chat_templating_writing). Nothing else of
the host is reachable, and nothing random.

The kernel enforces the budget: an alarm that ends this process (a long operation
inside the interpreter cannot outlast it), an address space limit, and limits
that forbid new processes and files.
"""

from __future__ import annotations

import functools
import json
import re
import resource
import signal
import sys
import time
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY_BYTES = 512 << 20
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")

#: Of the request that is being answered: what ``tojson`` leaves as it is.
_marks: frozenset[str] = frozenset()


class RefusedError(TemplateError):
    """The template called ``raise_exception``."""


class Oversize(Exception):
    """The text grew past its limit."""


class GenerationBlock(Extension):
    """``{% generation %}…{% endgeneration %}`` marks words for training; here it is just its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Sandbox(ImmutableSandboxedEnvironment):
    """Reaching for what is unsafe is an error at once, instead of an empty value."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        raise SecurityError(f"access to {attribute!r} of a {type(obj).__name__} is not allowed")


def _raise_exception(message: object) -> None:
    raise RefusedError(str(message)[:1000])


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)
    if not ensure_ascii:
        return text
    # Characters that stand for others (see runtime/engine/marks.py) must still be found afterwards.
    return _NOT_ASCII.sub(lambda char: char[0] if char[0] in _marks else json.dumps(char[0])[1:-1], text)


def make_environment() -> Sandbox:
    environment = Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension, GenerationBlock]
    )
    del environment.globals["lipsum"]
    del environment.filters["random"]
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    return environment


@functools.lru_cache(maxsize=8)
def _compiled(source: str) -> jinja2.Template:
    return make_environment().from_string(source)


def _line_of(error: BaseException) -> int | None:
    """The template line in which an error arose."""
    if isinstance(error, TemplateSyntaxError):
        return error.lineno
    line, traceback = None, error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "<template>":
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


def render(source: str, variables: dict[str, Any], max_chars: int, now: float | None) -> str:
    """The text; raises :class:`Oversize` past ``max_chars``, and whatever the template raises."""
    moment = time.localtime(now)  # None: now
    variables = {**variables, "strftime_now": lambda form: time.strftime(str(form), moment)}
    pieces, size = [], 0
    for piece in _compiled(source).generate(variables):
        size += len(piece)
        if size > max_chars:
            raise Oversize
        pieces.append(piece)
    return "".join(pieces)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to one request; never raises but for the alarm."""
    global _marks
    _marks = frozenset(request["marks"])
    signal.setitimer(signal.ITIMER_REAL, request["seconds"])
    try:
        text = render(request["source"], request["variables"], request["max_chars"], request["now"])
        return {"text": text}
    except Exception as error:
        return _failure(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _failure(error: Exception) -> dict[str, Any]:
    kinds = {RefusedError: "refused", SecurityError: "unsafe", Oversize: "oversize", MemoryError: "memory"}
    kinds[RecursionError] = "recursion"
    for kind, name in kinds.items():
        if isinstance(error, kind):
            return {"error": name, "message": str(error), "line": _line_of(error)}
    message = f"{type(error).__name__}: {error}"[:500]
    return {"error": "failed", "message": message, "line": _line_of(error)}


def _warm_up() -> None:
    """Everything is imported before opening files is forbidden: the ways to fail, too."""
    always = {"variables": {}, "seconds": 30.0, "max_chars": 1000, "now": 0.0, "marks": ""}
    good = "{{ strftime_now('%Y %B') }}{{ [1]|tojson(indent=2) }}"
    for source in (good, "{% if %}", "{{ 1 / 0 }}", "{{ x.y }}"):
        answer({"source": source, **always})


def main() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the engine to handle
    _warm_up()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE):
        resource.setrlimit(limit, (0, 0))
    for line in sys.stdin.buffer:
        reply = json.dumps(answer(json.loads(line)))
        sys.stdout.buffer.write(reply.encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
