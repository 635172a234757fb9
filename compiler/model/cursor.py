"""Reads a file's header forwards, with every read checked against what remains of the file."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from runtime.errors import EXIT_MODEL, EngineError

#: Bytes read at a time; also the most that a single refill holds beyond one item.
WINDOW = 1 << 20
#: Bytes of all texts of one header together; the largest vocabularies with their templates have 25 MB.
MAX_TEXT_BYTES = 64 << 20

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


def bad_gguf(path: Path, offset: int, message: str, allowed: str | None = None) -> EngineError:
    """``bad_gguf`` at a byte offset of a file."""
    return EngineError(
        "bad_gguf",
        message,
        path=f"{path}, byte {offset}",
        allowed=allowed,
        hint="the file is damaged, incomplete or not a GGUF model; fetch it again",
        exit_code=EXIT_MODEL,
    )


class Cursor:
    """A position in an open file of known size.

    Reads through ``pread`` into a window of its own rather than a mapping: a file
    that shrinks meanwhile gives an error, not a SIGBUS. Nothing is allocated that the
    file does not hold.
    """

    def __init__(self, descriptor: int, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self._descriptor = descriptor
        self._window = b""
        self._base = 0  # file offset of the window's first byte
        self._at = 0  # position in the window
        self._text_left = MAX_TEXT_BYTES

    @property
    def offset(self) -> int:
        """Byte offset of the next read."""
        return self._base + self._at

    @property
    def remaining(self) -> int:
        """Bytes from here to the end of the file."""
        return self.size - self.offset

    def error(self, message: str, allowed: str | None = None, offset: int | None = None) -> EngineError:
        """``bad_gguf`` here, or at ``offset``."""
        return bad_gguf(self.path, self.offset if offset is None else offset, message, allowed)

    def take(self, count: int, what: str) -> bytes:
        """The next ``count`` bytes; raises where the file ends before."""
        if self._at + count > len(self._window):
            self._refill(count, what)
        data = self._window[self._at : self._at + count]
        self._at += count
        return data

    def u32(self, what: str) -> int:
        value: int = _U32.unpack(self.take(4, what))[0]
        return value

    def u64(self, what: str) -> int:
        value: int = _U64.unpack(self.take(8, what))[0]
        return value

    def text(self, limit: int, what: str) -> str:
        """A string: 64-bit length, then UTF-8."""
        start = self.offset
        length = self.u64(what)
        if length > limit or length > self.remaining:
            raise self.error(
                f"{what} declares {length} bytes",
                f"at most {limit}, and no more than the {self.remaining} bytes left in the file",
                start,
            )
        self._spend(length, what, start)
        try:
            return self.take(length, what).decode()
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not UTF-8", offset=start + 8 + error.start) from None

    def _spend(self, length: int, what: str, start: int) -> None:
        self._text_left -= length
        if self._text_left < 0:
            raise self.error(
                f"the header's texts have more than {MAX_TEXT_BYTES} bytes, with {what}",
                f"at most {MAX_TEXT_BYTES} bytes of text in all",
                start,
            )

    def texts(self, count: int, limit: int, what: str) -> tuple[str, ...]:
        """``count`` strings. The same as :meth:`text` in a loop, but fast enough for 10⁶ of them."""
        result: list[str] = []
        append, unpack = result.append, _U64.unpack_from
        while len(result) < count:
            window, at = self._window, self._at
            last, begin, known = len(window) - 8, at, len(result)
            try:
                while len(result) < count and at <= last:
                    end = at + 8 + unpack(window, at)[0]
                    if end > len(window):
                        break
                    append(window[at + 8 : end].decode())
                    at = end
            except UnicodeDecodeError:
                pass  # text() below meets it again and says where
            self._at = at
            self._spend(at - begin - 8 * (len(result) - known), what, self._base + begin)
            if len(result) < count:
                append(self.text(limit, f"{what}[{len(result)}]"))
        return tuple(result)

    def _refill(self, count: int, what: str) -> None:
        if count > self.remaining:
            raise self.error(f"{what} needs {count} bytes, the file has {self.remaining} left")
        self._base, self._at = self.offset, 0
        wanted = min(max(count, WINDOW), self.size - self._base)
        self._window = os.pread(self._descriptor, wanted, self._base)
        if len(self._window) < count:
            raise self.error(f"{what} could not be read: the file became shorter meanwhile")
