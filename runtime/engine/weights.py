"""Weights in memory: in pages of 2 MB, mapped from the bundle, or copied and checked again.

``residence="pages"`` (the default): anonymous memory in pages of 2 MB where the kernel has
them, filled from the file by several threads. Reading a model is a walk through all of it,
and in pages of 4 KB the walk stumbles at every page: hardware prefetchers stop there and
translations are looked up anew. The price is a copy at the start, and that processes of one
bundle do not share the memory. The file was checked when the bundle was opened; once
copied, nothing that happens to it matters. Where the memory at hand would not hold the
copy besides a reserve, the weights are mapped instead.

``residence="mapped"``: ``weights.bin`` is mapped read-only. Start is immediate and the
page cache is shared by all processes of the bundle. Nobody else can truncate the file
(private folder, mode 0400, checked at opening) but this user might; its size is looked
at before every step, and a change ends the step with ``weights_changed`` instead of a
SIGBUS. What remains is a truncation *during* a step.

``residence="copied"``: as ``pages``, never mapped, and checked against the manifest's digest
as it is filled.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Literal

from runtime.bundle import store
from runtime.bundle.digests import verified_digest
from runtime.bundle.format import CHUNK_BYTES, WEIGHTS
from runtime.bundle.reader import Bundle
from runtime.errors import EXIT_BUNDLE, EXIT_MACHINE, EngineError

Residence = Literal["pages", "mapped", "copied"]

#: Memory that a copy of the weights leaves to others; with less at hand they are mapped.
RESERVE_BYTES = 256 << 20

#: madvise(2) advice that Python's mmap module does not name.
_MADV_POPULATE_READ = 22


def _open_weights(bundle: Bundle, size: int) -> int:
    """The weights' file, open: of the size that the code was compiled for, with the manifest's digest.

    The digest is the one that opening the bundle has computed, unless the file is another since.
    """
    try:
        fd = os.open(bundle.weights, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as cause:
        raise weights_changed(bundle.weights) from cause
    entry = bundle.manifest.files[WEIGHTS]
    if os.fstat(fd).st_size != size or verified_digest(fd, store.verified_dir()) != entry.sha256:
        os.close(fd)
        raise weights_changed(bundle.weights)
    return fd


def _mapping(bundle: Bundle, fd: int, of: int, size: int, **how: int) -> mmap.mmap:
    """``size`` bytes of the file ``of``, or of anonymous memory (-1); ``out_of_memory`` closes ``fd``."""
    try:
        return mmap.mmap(of, size, **how)
    except (OSError, ValueError) as cause:
        os.close(fd)
        raise EngineError(
            "out_of_memory",
            f"there is no room for {size} bytes of weights: {cause}",
            path=str(bundle.weights),
            exit_code=EXIT_MACHINE,
        ) from cause


def hold_weights(bundle: Bundle, size: int, residence: Residence, available: int) -> tuple[mmap.mmap, int]:
    """The weights of ``size`` bytes as ``residence`` says, and the file to watch, -1 if there is none.

    ``available``: bytes of memory at hand. Raises as :func:`map_weights` and :func:`copy_weights`.
    """
    if residence == "mapped" or (residence == "pages" and size + RESERVE_BYTES > available):
        return map_weights(bundle, size)
    return copy_weights(bundle, size, check=residence == "copied")


def map_weights(bundle: Bundle, size: int) -> tuple[mmap.mmap, int]:
    """The weights of ``size`` bytes mapped read-only, and the file, kept open to watch its size.

    Raises ``weights_changed``, ``out_of_memory``.
    """
    fd = _open_weights(bundle, size)
    weights = _mapping(bundle, fd, fd, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    # Advice only: older kernels, and filesystems without huge pages, refuse it.
    for advice in (mmap.MADV_HUGEPAGE, mmap.MADV_WILLNEED, _MADV_POPULATE_READ):
        try:
            weights.madvise(advice)
        except OSError:
            continue
    return weights, fd


def copy_weights(bundle: Bundle, size: int, *, check: bool) -> tuple[mmap.mmap, int]:
    """The weights in anonymous memory; -1 for the file, which is closed.

    Raises ``weights_changed`` if the file ends early or, with ``check``, if the copy is not what the
    manifest names; ``out_of_memory``.
    """
    fd = _open_weights(bundle, size)
    copy = _mapping(bundle, fd, -1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        copy.madvise(mmap.MADV_HUGEPAGE)

    def take(begin: int) -> bytes | None:
        """Fills a piece; its digest where one is wanted. None where the file has become shorter."""
        end = min(size, begin + CHUNK_BYTES)
        with memoryview(copy) as view:
            position = begin
            while position < end:
                with view[position:end] as rest:
                    got = os.preadv(fd, [rest], position)
                if got == 0:
                    return None
                position += got
            with view[begin:end] as piece:
                return sha256(piece).digest() if check else b""

    try:
        with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
            pieces = list(pool.map(take, range(0, size, CHUNK_BYTES)))
    finally:
        os.close(fd)
    digests = [piece for piece in pieces if piece is not None]
    whole = len(digests) == len(pieces)
    if check and whole:
        digest = digests[0].hex() if len(digests) == 1 else sha256(b"".join(digests)).hexdigest()
        whole = digest == bundle.manifest.files[WEIGHTS].sha256
    if not whole:
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
