"""SHA-256 of a model's files, computed once for each state of them.

The digest of several gigabytes takes seconds, so it is remembered by path, size,
times and inode in ``$XDG_CACHE_HOME/engine/digests`` (default ``~/.cache``): a private
folder of this user. :mod:`runtime.bundle.digests` says why a file with the same
numbers holds the same bytes. It is plain SHA-256, one file after the other, because
that is what ``sha256sum`` and the hubs say of a model. What another user owns or could
write is computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path

from compiler.model.description import FileStamp
from runtime.bundle.digests import QUIET_NS
from runtime.errors import EXIT_MODEL, EngineError

_CHUNK = 8 << 20

#: Called with (bytes done, bytes in all) while a digest is computed.
Progress = Callable[[int, int], None]


def content_digest(files: Sequence[tuple[Path, int, FileStamp]], progress: Progress | None = None) -> str:
    """SHA-256 (hex) of the contents of open files, one after the other.

    ``files`` are (path, descriptor, state). Raises ``model_changed`` where a file
    changes while it is read.
    """
    key = json.dumps([[str(path.resolve()), *astuple(stamp)] for path, _, stamp in files])
    entry = _folder() / hashlib.sha256(key.encode()).hexdigest()
    if (known := _recall(entry)) is not None:
        return known
    started = time.time_ns()
    digest, done, total = hashlib.sha256(), 0, sum(stamp.size for _, _, stamp in files)
    buffer = memoryview(bytearray(_CHUNK))
    for path, descriptor, stamp in files:
        offset = 0
        while count := os.preadv(descriptor, [buffer], offset):
            digest.update(buffer[:count])
            offset += count
            done += count
            if progress is not None:
                progress(done, total)
        if offset != stamp.size or file_stamp(descriptor) != stamp:
            raise changed(path)
    result = digest.hexdigest()
    newest = max(max(stamp.mtime_ns, stamp.ctime_ns) for _, _, stamp in files)
    if started - newest >= QUIET_NS:
        _remember(entry, result)
    return result


def file_stamp(descriptor: int) -> FileStamp:
    """The state of an open file."""
    status = os.fstat(descriptor)
    return FileStamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)


def changed(path: Path) -> EngineError:
    """``model_changed``: the file is not the one that was described."""
    return EngineError(
        "model_changed",
        "the model's file was replaced or changed while it was in use",
        path=str(path),
        hint="start again once the file is complete",
        exit_code=EXIT_MODEL,
    )


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    cache = Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache"
    return cache / "engine" / "digests"


def _recall(entry: Path) -> str | None:
    try:
        with entry.open() as file:
            status = os.fstat(file.fileno())
            private = status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            text = file.read(65).strip()
    except (OSError, UnicodeDecodeError):
        return None
    return text if private and re.fullmatch(r"[0-9a-f]{64}", text) else None


def _remember(entry: Path, digest: str) -> None:
    # A cache that cannot be written only costs time.
    with contextlib.suppress(OSError):
        for folder in (entry.parent.parent, entry.parent):  # parents=True would ignore the mode of the first
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=entry.parent, prefix=".new-")
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(digest + "\n")
            os.replace(name, entry)
        except OSError:
            os.unlink(name)
            raise
