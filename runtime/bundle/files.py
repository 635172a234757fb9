"""Files that are read whole: regular ones, up to a size, and nothing else.

A device or a pipe in a file's place would be read without an end, or wait for
someone who never writes; a directory gives an error of its own. What is refused
raises OSError with a reason in words, so that a caller's message is the same for
every way in which a file cannot be had.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

#: Most bytes of a text that a person hands over: prompts, conversations, ids, schemas.
MOST_TEXT = 64 << 20
#: Most bytes of an importance matrix; those of models of 10^12 weights have less than one GiB.
MOST_IMATRIX = 1 << 30

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)


def open_regular(path: Path, most: int | None = None) -> int:
    """A descriptor of a regular file of at most ``most`` bytes, open for reading.

    Raises OSError, whose ``strerror`` says what is there instead or how large it is.
    """
    try:
        # Non-blocking, so that a pipe without a writer cannot make us wait.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, str(error)) from error
    status = os.fstat(descriptor)
    reason = None
    if not stat.S_ISREG(status.st_mode):
        kind = next((words for test, words in _KINDS if test(status.st_mode)), "something else")
        reason = (errno.EINVAL, f"it is {kind}, not a regular file")
    elif most is not None and status.st_size > most:
        reason = (errno.EFBIG, f"it has {status.st_size} bytes, at most {most} are read")
    if reason is not None:
        os.close(descriptor)
        raise OSError(*reason)
    return descriptor


def read_whole(path: Path, most: int = MOST_TEXT) -> bytes:
    """The content of a regular file; ``-`` is stdin. Raises OSError as :func:`open_regular`."""
    if str(path) == "-":
        data = sys.stdin.buffer.read(most + 1)
    else:
        with open(open_regular(path, most), "rb") as file:
            data = file.read(most + 1)  # it may have grown, and files of /proc have no size
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than the {most} bytes that are read")
    return data


def read_text(path: Path, most: int = MOST_TEXT) -> str:
    """The same as UTF-8 text. Raises OSError, UnicodeDecodeError."""
    return read_whole(path, most).decode("utf-8")
