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
(private folder, mode 0400, checked at opening) but this user might; its size and time of
change are looked at before and after every step, and a change ends the step with
``weights_changed``. Under a step, where a page can no longer be read, a handler of SIGBUS
puts zeros in place of all of them (``kernels_c/guard.c``): that step, and every later one,
ends with ``weights_changed``, or with ``weights_lost`` where the file is as it was and its
disk fails.

``residence="copied"``: as ``pages``, never mapped, and checked against the manifest's digest
as it is filled.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

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


class Weights:
    """The weights in memory. Of a mapped file also what tells whether it still is what was checked."""

    def __init__(self, memory: mmap.mmap, path: Path, fd: int = -1) -> None:
        """``fd``: the file of a mapping, which is kept open; -1 where ``memory`` is a copy of our own."""
        self.memory = memory
        self.path = path
        self._fd = fd
        self._stamp = self._look()
        self._guarded: tuple[Any, int] | None = None

    @property
    def mapped(self) -> bool:
        """Whether the memory is the file's."""
        return self._fd >= 0

    def guard(self, library: Any, pointer: Any) -> None:
        """From now on the loss of a page is an error of :meth:`check`, not a SIGBUS; of a copy: nothing.

        ``library``: a bundle's shared object, ``pointer``: where :attr:`memory` begins.
        """
        if self.mapped and self._guarded is None:
            with _guard_lock:
                library = _guards.setdefault("library", library)
                place = library.engine_guard(pointer, len(self.memory))
            if place >= 0:
                self._guarded = (library, place)
                # Also where nobody closes it: addresses of memory that is gone come again.
                self._release = weakref.finalize(self, _unguard, library, place)

    def check(self) -> None:
        """Raises ``weights_changed`` or ``weights_lost`` if a mapped file is not what was checked."""
        if not self.mapped:
            return
        if self._look() != self._stamp:
            raise weights_changed(self.path)
        if self._guarded is not None and self._guarded[0].engine_guard_lost(self._guarded[1]):
            raise EngineError(
                "weights_lost",
                "the weights could no longer be read from their file, which is unchanged: its disk fails",
                path=str(self.path),
                hint="the system's log says why; compile the plan again on a disk that works",
                exit_code=EXIT_BUNDLE,
            )

    def close(self) -> None:
        """Lets go of memory and file. Harmless when repeated."""
        if self._guarded is not None:
            self._release()
            self._guarded = None
        self.memory.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _look(self) -> tuple[int, int]:
        """Size and time of the last change of content; what another writes has a newer one."""
        if self._fd < 0:
            return (0, 0)
        status = os.fstat(self._fd)
        return (status.st_size, status.st_mtime_ns)


#: The shared object whose handler of SIGBUS the process has: the first that was asked, never unloaded.
_guards: dict[str, Any] = {}
_guard_lock = threading.Lock()


def _unguard(library: Any, place: int) -> None:
    """No lock: a garbage collection may call it while this thread holds one, and one store needs none."""
    library.engine_unguard(place)


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


def hold_weights(bundle: Bundle, size: int, residence: Residence, available: int) -> Weights:
    """The weights of ``size`` bytes as ``residence`` says.

    ``available``: bytes of memory at hand. Raises as :func:`map_weights` and :func:`copy_weights`.
    """
    if residence == "mapped" or (residence == "pages" and size + RESERVE_BYTES > available):
        return map_weights(bundle, size)
    return copy_weights(bundle, size, check=residence == "copied")


def map_weights(bundle: Bundle, size: int) -> Weights:
    """The weights of ``size`` bytes mapped read-only.

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
    return Weights(weights, bundle.weights, fd)


def copy_weights(bundle: Bundle, size: int, *, check: bool) -> Weights:
    """The weights in anonymous memory; the file is closed.

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
    return Weights(copy, bundle.weights)


def weights_changed(path: Path) -> EngineError:
    """The error for weights that are no longer the file that was checked."""
    return EngineError(
        "weights_changed",
        "the weights were removed, replaced, truncated or written to after the bundle had been checked",
        path=str(path),
        hint="compile the plan again",
        exit_code=EXIT_BUNDLE,
    )
