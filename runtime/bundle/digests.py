"""Digests of files: computed by several threads, and remembered while a file is provably unchanged.

Weights of a gigabyte take a second or more to digest, too long for every start.
:func:`verified_digest` therefore remembers the digest it computed under the
file's (device, inode, size, mtime, ctime), in a private folder. Why that is safe:

- every write, truncation, rename over, chmod or new link changes ``ctime``, and no
  system call sets ``ctime`` to a chosen value; a file with the same five numbers
  therefore holds the bytes that were digested;
- timestamps advance in ticks of a few milliseconds, so an entry is made only if
  the file had been left alone for :data:`QUIET_NS` before reading began and its
  numbers were the same afterwards;
- whoever could write the private folder, set the clock back or write to the
  block device could as well replace the engine itself.

A change by the hardware (a failing disk) under an unchanged inode is not seen by
this shortcut; ``engine bundles verify`` reads everything again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from runtime.bundle.format import CHUNK_BYTES

#: How long a file must have been left alone before its digest is remembered.
QUIET_NS = 50_000_000
_READ_BYTES = 1 << 20


def _digest_range(fd: int, begin: int, end: int) -> bytes:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(min(_READ_BYTES, max(end - begin, 1))))
    position = begin
    while position < end:
        got = os.preadv(fd, [buffer[: end - position]], position)
        if got == 0:
            break  # truncated meanwhile: the digest will not match
        digest.update(buffer[:got])
        position += got
    return digest.digest()


def digest_fd(fd: int, size: int, threads: int = 0) -> str:
    """Digest (hex, as defined in :mod:`runtime.bundle.format`) of an open file's first ``size`` bytes.

    ``threads`` 0: as many as the process may run on, at most 8.
    """
    if size <= CHUNK_BYTES:
        return _digest_range(fd, 0, size).hex()
    workers = threads or min(8, len(os.sched_getaffinity(0)))
    begins = range(0, size, CHUNK_BYTES)
    whole = hashlib.sha256()
    with ThreadPoolExecutor(workers) as pool:  # hashlib and preadv release the GIL
        for piece in pool.map(lambda begin: _digest_range(fd, begin, min(size, begin + CHUNK_BYTES)), begins):
            whole.update(piece)
    return whole.hexdigest()


def _stamp(fd: int) -> list[int]:
    status = os.fstat(fd)
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _entry(memory: Path, stamp: list[int]) -> Path:
    return memory / f"{stamp[0]:x}-{stamp[1]:x}.json"


def remembered_digest(fd: int, memory: Path) -> str | None:
    """The remembered digest of an open file, if it is provably unchanged since."""
    stamp = _stamp(fd)
    try:
        body = json.loads(_entry(memory, stamp).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(body, dict) or body.get("stamp") != stamp:
        return None
    digest = body.get("sha256")
    return digest if isinstance(digest, str) else None


def remember(fd: int, memory: Path, digest: str) -> None:
    """Remembers ``digest`` for an open file as it is now; best effort.

    For callers who know that the content is unchanged since it was digested.
    """
    stamp = _stamp(fd)
    body = json.dumps({"stamp": stamp, "sha256": digest}).encode()
    try:
        handle, temporary = tempfile.mkstemp(dir=memory, prefix=".verified-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(body)
            os.replace(temporary, _entry(memory, stamp))
        except OSError:
            os.unlink(temporary)
    except OSError:
        return  # a full or read-only disk costs time, not correctness


def verified_digest(fd: int, memory: Path | None, threads: int = 0) -> str:
    """Digest of an open file; remembered under ``memory`` (a private folder) where it is large.

    Small files are read each time. With ``memory`` ``None`` so are large ones.
    """
    before = _stamp(fd)
    size = before[2]
    if memory is not None and size > CHUNK_BYTES and (known := remembered_digest(fd, memory)):
        return known
    quiet = time.time_ns() - max(before[3], before[4]) >= QUIET_NS
    digest = digest_fd(fd, size, threads)
    if memory is not None and size > CHUNK_BYTES and quiet and _stamp(fd) == before:
        remember(fd, memory, digest)
    return digest


def digest_path(path: Path, memory: Path | None = None) -> str:
    """:func:`verified_digest` of the file at ``path``."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return verified_digest(fd, memory)
    finally:
        os.close(fd)
