"""Weights in memory: mapped from the bundle, or copied out of reach.

``residence="mapped"``: ``weights.bin`` is mapped read-only. Start is immediate and the
page cache is shared by all processes of the bundle. Nobody else can truncate the file
(private folder, mode 0400, checked at opening) but this user might; its size is looked
at before every step, and a change ends the step with ``weights_changed`` instead of a
SIGBUS. What remains is a truncation *during* a step.

``residence="copied"``, for a service that must survive even that: anonymous memory,
filled from the file and checked against the manifest's digest as it was filled, out of
reach of any file operation, at the price of reading the file at every start.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Literal

from runtime.bundle.format import CHUNK_BYTES, WEIGHTS
from runtime.bundle.reader import Bundle
from runtime.errors import EXIT_BUNDLE, EXIT_MACHINE, EngineError

Residence = Literal["mapped", "copied"]

#: madvise(2) advice that Python's mmap module does not name.
_MADV_POPULATE_READ = 22


def _open_weights(bundle: Bundle, size: int) -> int:
    """The weights' file, open, of the size that the code was compiled for."""
    try:
        fd = os.open(bundle.weights, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as cause:
        raise weights_changed(bundle.weights) from cause
    if os.fstat(fd).st_size != size:
        os.close(fd)
        raise weights_changed(bundle.weights)
    return fd


def map_weights(bundle: Bundle, size: int) -> tuple[mmap.mmap, int]:
    """The weights of ``size`` bytes mapped read-only, and the file, kept open to watch its size.

    Raises ``weights_changed``, ``out_of_memory``.
    """
    fd = _open_weights(bundle, size)
    try:
        weights = mmap.mmap(fd, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    except (OSError, ValueError) as cause:
        os.close(fd)
        raise EngineError(
            "out_of_memory",
            f"the weights cannot be mapped: {cause}",
            path=str(bundle.weights),
            exit_code=EXIT_MACHINE,
        ) from cause
    # Advice only: older kernels, and filesystems without huge pages, refuse it.
    for advice in (mmap.MADV_HUGEPAGE, mmap.MADV_WILLNEED, _MADV_POPULATE_READ):
        try:
            weights.madvise(advice)
        except OSError:
            continue
    return weights, fd


def copy_weights(bundle: Bundle, size: int) -> tuple[mmap.mmap, int]:
    """The weights in anonymous memory, digested as they were copied; -1 for the file, which is closed.

    Raises ``weights_changed`` if the copy is not what the manifest names.
    """
    fd = _open_weights(bundle, size)
    copy = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        copy.madvise(mmap.MADV_HUGEPAGE)

    def take(begin: int) -> bytes:
        end = min(size, begin + CHUNK_BYTES)
        with memoryview(copy) as view:
            position = begin
            while position < end:
                with view[position:end] as rest:
                    got = os.preadv(fd, [rest], position)
                if got == 0:
                    break
                position += got
            with view[begin:end] as piece:
                return sha256(piece).digest()

    try:
        with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
            pieces = list(pool.map(take, range(0, size, CHUNK_BYTES)))
    finally:
        os.close(fd)
    digest = pieces[0].hex() if len(pieces) == 1 else sha256(b"".join(pieces)).hexdigest()
    if digest != bundle.manifest.files[WEIGHTS].sha256:
        copy.close()
        raise weights_changed(bundle.weights)
    return copy, -1


def weights_changed(path: Path) -> EngineError:
    """The error for weights that are no longer the file that was checked."""
    return EngineError(
        "weights_changed",
        "the weights were removed, replaced or truncated after the bundle had been checked",
        path=str(path),
        hint="compile the plan again",
        exit_code=EXIT_BUNDLE,
    )
