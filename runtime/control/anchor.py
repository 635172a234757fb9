"""The head of a store of records, kept in a file beside it: what was cut off, or emptied, is missed.

One line, ``COUNT:HASH`` (the count in 20 digits, so that the file never changes its size), written over
in place once a row is durable. It may therefore lag behind the store after a crash, never run ahead of
it: a head that the store does not hold says that acknowledged rows are gone. The anchor is then left as
it is, whatever is appended afterwards. Who can write to the store can write here as well; against them
helps a head that is kept elsewhere (``engine runs head``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from runtime.bundle.store import check_trusted, file_error
from runtime.control.chain import RecordHead

_LINE = re.compile(rb"(\d{20}):([0-9a-f]{64})\n")
_SIZE = 20 + 1 + 64 + 1


class Anchor:
    """The head beside the store at ``store``; made with what ``head`` gives where there is none yet.

    Raises ``not_trusted`` where others may write the file, and what a file that cannot be opened does.
    """

    def __init__(self, store: Path, head: Callable[[], RecordHead]) -> None:
        self.path = store.with_name(store.name + ".head")
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            status = os.fstat(self._file)
            check_trusted(status, self.path, private=True)
            if not status.st_size:
                self.keep(head())
                # From here on the same block is written over: a crash leaves the old line or the new one.
                os.fsync(self._file)
        except OSError as cause:
            raise file_error(cause, self.path) from cause

    def read(self) -> RecordHead | None:
        """The head that is kept; None where the file does not hold one."""
        line = _LINE.fullmatch(os.pread(self._file, _SIZE + 1, 0))
        return RecordHead(int(line[1]), line[2].decode()) if line else None

    def close(self) -> None:
        os.close(self._file)

    def keep(self, head: RecordHead) -> None:
        """Keeps another head; that it follows from the one kept is the caller's to see. Raises OSError."""
        os.pwrite(self._file, f"{head.count:020}:{head.hash}\n".encode(), 0)
