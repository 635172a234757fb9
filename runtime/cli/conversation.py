"""What ``engine chat`` holds and reads: the messages so far, and the entries of a person or a pipe."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.cli.output import note, on_terminal
from runtime.errors import EXIT_USAGE, EngineError

#: Begins and ends an entry of several lines.
FENCE = '"""'


@dataclass
class Conversation:
    """Messages so far, an optional system message first."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    saved: set[Path] = field(default_factory=set)

    @property
    def system(self) -> list[dict[str, Any]]:
        """The system message, in a list, or an empty one."""
        return [message for message in self.messages[:1] if message["role"] == "system"]

    def reset(self) -> None:
        """Forgets all but the system message."""
        self.messages = self.system

    def set_system(self, text: str, *, keep: bool = False) -> None:
        """Puts a system message in place of the one there is; forgets the rest unless ``keep``."""
        rest = self.messages[len(self.system) :] if keep else []
        self.messages = [*([{"role": "system", "content": text}] if text else []), *rest]

    def last(self, role: str) -> bool:
        """Whether the last message is one of ``role``."""
        return bool(self.messages) and self.messages[-1]["role"] == role

    def answered(self, text: str) -> None:
        """Puts what was generated after the last message: an answer, or the rest of one."""
        if self.last("assistant"):
            last = self.messages.pop()
            self.messages.append({**last, "content": last["content"] + text})
        else:
            self.messages.append({"role": "assistant", "content": text})

    def save(self, path: Path) -> None:
        """Writes ``{"messages": […]}``; an existing file that this chat did not write is left alone."""
        from runtime.bundle.store import file_error

        document = json.dumps({"messages": self.messages}, ensure_ascii=False, indent=2) + "\n"
        try:
            with path.open("w" if path.absolute() in self.saved else "x", encoding="utf-8") as file:
                file.write(document)
        except FileExistsError:
            raise EngineError(
                "file_exists", "the file exists already", str(path), hint="/save under another name",
                exit_code=EXIT_USAGE,
            ) from None  # fmt: skip
        except OSError as cause:
            raise file_error(cause, path) from cause
        self.saved.add(path.absolute())


def read_entry(quiet: bool) -> str | None:
    """The next entry: a line with those it goes on in, or the lines between two fences. None at the end
    of input. Ctrl-C discards what was begun."""
    lines: list[str] = []
    fenced = False
    while True:
        try:
            line = _read_line("... " if lines or fenced else "> ", quiet)
        except KeyboardInterrupt:
            note("\n/exit or Ctrl-D leaves")
            lines, fenced = [], False
            continue
        if line is None:
            return "\n".join(lines) if lines else None
        if not fenced and not lines and line.lstrip().startswith(FENCE):
            fenced, line = True, line.lstrip().removeprefix(FENCE)
        if fenced:
            ended = line.rstrip().endswith(FENCE)
            lines.append(line.rstrip().removesuffix(FENCE) if ended else line)
            if ended:
                return " " + "\n".join(lines).strip("\n")  # a text, whatever it begins with
        elif line.endswith("\\"):
            lines.append(line[:-1])
        else:
            return "\n".join([*lines, line])


def _read_line(prompt: str, quiet: bool) -> str | None:
    """One line, edited with the keys and the history of readline on a terminal; None at the end of input."""
    if sys.stdin.isatty() and sys.stdout.isatty() and not quiet:
        import readline  # noqa: F401 (input() then edits lines)

        try:
            return input(prompt)
        except EOFError:
            print()
            return None
    if sys.stdin.isatty() and on_terminal() and not quiet:
        sys.stderr.write(prompt)
        sys.stderr.flush()
    line = sys.stdin.readline()
    return line.rstrip("\n") if line else None
