"""How commands speak: data on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from runtime.errors import EngineError

#: ``progress(stage, done, total)``: what long work reports; units are the stage's own.
Progress = Callable[[str, int, int], None]


def print_json(value: object) -> None:
    """One JSON document on stdout, indented for people, UTF-8."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2) + "\n")


def note(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


def on_terminal() -> bool:
    """Whether stderr is a terminal, where progress may be shown."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _style(text: str, code: str) -> str:
    coloured = on_terminal() and not os.environ.get("NO_COLOR")
    return f"\x1b[{code}m{text}\x1b[0m" if coloured else text


def print_error(error: EngineError, *, as_json: bool = False) -> None:
    """An error on stderr: what, where, what is allowed, a hint, and every further fault.

    ``as_json``: as ``{"error": {...}}`` on one line, in the shape of the HTTP API.
    """
    if as_json:
        note(json.dumps({"error": error.to_json()}, ensure_ascii=False))
        return
    note(f"{_style('error:', '31;1')} {error}")
    for cause in error.causes:
        note(f"  - {cause}")
        _details(cause, "    ")
    _details(error, "  ")


def _details(error: EngineError, indent: str) -> None:
    if error.allowed is not None:
        note(f"{indent}{_style('allowed:', '36')} {error.allowed}")
    if error.hint is not None:
        note(f"{indent}{_style('hint:', '36')} {error.hint}")


@contextmanager
def progress_bars(enabled: bool = True) -> Iterator[Progress | None]:
    """A function that shows long work as bars on the terminal; ``None`` where stderr is none."""
    if not enabled or not on_terminal():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:<28}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Bars(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield show


@contextmanager
def status_line(enabled: bool = True) -> Iterator[Callable[[str], None]]:
    """A function that shows what is being done in one line of the terminal, which is cleared at the end.
    Nothing runs beside: measurements are not disturbed."""

    def show(text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()

    if not enabled or not on_terminal():
        yield lambda text: None
        return
    show("preparing …")
    try:
        yield show
    finally:
        show("")


def terminal_width(stream: TextIO | None = None) -> int | None:
    """Columns of the terminal behind ``stream`` (default: stdout), None where there is none."""
    stream = stream or sys.stdout
    return shutil.get_terminal_size().columns if stream.isatty() else None


def table(
    rows: Sequence[tuple[str, ...]],
    header: tuple[str, ...] | None = None,
    *,
    right_from: int | None = None,
    total: bool = False,
    optional: Sequence[int] = (),
    stream: TextIO | None = None,
) -> str:
    """Rows as aligned columns of plain text; columns from ``right_from`` on to the right, and a rule
    above the last row if it is a ``total``.

    On a terminal (behind ``stream``, default stdout) too narrow for it, the ``optional`` columns go, in
    their order, and then the last column goes on in further lines.
    """
    lines = [header, *rows] if header else list(rows)
    widths = [max(len(row[i]) for row in lines) for i in range(len(lines[0]))] if lines else []
    room = terminal_width(stream)
    shown = list(range(len(widths)))
    for column in optional:
        if room is not None and sum(widths[i] + 2 for i in shown) - 2 > room:
            shown.remove(column)
    lines = [tuple(row[i] for i in shown) for row in lines]
    widths = [widths[i] for i in shown]
    if total:
        lines.insert(-1, tuple("-" * width for width in widths))
    left = len(widths) if right_from is None else right_from
    last = sum(width + 2 for width in widths[:-1])
    done = []
    for row in lines:
        cells = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        line = "  ".join(cells).rstrip()
        if room is None or len(line) <= room or right_from is not None:
            done.append(line)
        else:
            done += _broken(line[:last], row[-1], room)
    return "\n".join(done)


def _broken(begin: str, cell: str, room: int) -> list[str]:
    """A row whose last ``cell`` does not fit behind ``begin``: in several lines below each other, or, where
    a word is too long for that, below the row. A word (a digest) is never broken."""
    longest = max(map(len, cell.split()), default=0)
    indent = len(begin)
    if longest > room - indent:
        first = begin.rstrip()
        indent = min(4, max(0, room - longest))
        return [first, *(" " * indent + line for line in _wrap(cell, room - indent))]
    wrapped = _wrap(cell, room - indent)
    return [begin + wrapped[0], *(" " * indent + line for line in wrapped[1:])]


def _wrap(text: str, room: int) -> list[str]:
    return textwrap.wrap(text, max(1, room), break_long_words=False, break_on_hyphens=False) or [""]


def megabytes(count: int) -> str:
    """Bytes as people read them: MB or GB of 10^6, 10^9."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
