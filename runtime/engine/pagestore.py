"""Pages of the prefix cache on disk: usable after a restart, and by other processes with the same weights.

A private folder for everything that keys and values follow from beside the tokens (the
weights, the KV type, the groups of layers, the engine's version), in it a folder for each
block that is followed by another, in it a file for each block that follows::

    <cache>/prefixes/<key>/<name of the parent>/<name>

A file is ``MAGIC``, how many tokens it holds and of which groups it has the page (two
little-endian uint32), the tokens (int32), the pages, and a BLAKE2b digest over all of it,
keyed with ``key``. It takes its name when it is whole, is checked when it is read, and is
removed where it is not what its digest says. The least recently used go first where they
are more than the bound.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime.bundle.format import WEIGHTS
from runtime.bundle.reader import Bundle
from runtime.bundle.store import prefixes_dir, private_dir, remove_tree, replacing
from runtime.engine.pages import PageGroup
from runtime.engine.prefix import Ids, Name
from runtime.errors import EngineError

log = logging.getLogger(__name__)

Bytes = npt.NDArray[np.uint8]

#: Says whose pages a folder holds: ``{model, kv_cache}``.
ABOUT = "about.json"
MAGIC = b"engineKV\1\0\0\0"
_HEAD = len(MAGIC) + 8
_DIGEST_BYTES = 32
#: Bytes that may wait to be written; blocks beyond are not kept.
MOST_WAITING = 256 << 20


@dataclass(frozen=True)
class StoredBlock:
    """A block as a file holds it; ``pages``: bytes by group, of the groups that it has."""

    name: Name
    ids: Ids
    pages: Mapping[int, Bytes]


class PageStore:
    """One key's folder. Reading is for any thread; what is saved is written by a thread of its own."""

    def __init__(
        self,
        folder: Path,
        key: bytes,
        groups: Sequence[PageGroup],
        most_bytes: int,
        about: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = private_dir(folder) / key.hex()
        self._about = dict(about or {})
        self._key, self._groups, self._most = key, tuple(groups), most_bytes
        self._waiting: queue.Queue[tuple[Name, StoredBlock] | None] = queue.Queue()
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self._held: int | None = None  # bytes in the folder, once they are counted
        self._thread: threading.Thread | None = None
        self.damaged = 0

    # ---- reading ------------------------------------------------------------------------

    def load(self, parent: Name, name: Name) -> StoredBlock | None:
        """The block of that name, None where there is none or none that is whole."""
        return self._read(self.folder / parent.hex() / name.hex(), name)

    def has(self, parent: Name, name: Name) -> bool:
        """Whether there is such a block, whole or not."""
        return (self.folder / parent.hex() / name.hex()).exists()

    def following(self, parent: Name, most: int) -> Iterator[StoredBlock]:
        """Blocks that follow ``parent``, the most recently used first, at most ``most``."""
        folder = self.folder / parent.hex()
        try:
            found = [(entry.stat().st_mtime_ns, entry.path) for entry in os.scandir(folder)]
        except OSError:
            return
        for _, path in sorted(found, reverse=True)[:most]:
            try:
                name = bytes.fromhex(os.path.basename(path))
            except ValueError:
                continue  # a draft
            block = self._read(Path(path), name)
            if block is not None:
                yield block

    def _read(self, path: Path, name: Name) -> StoredBlock | None:
        try:
            raw = np.fromfile(path, np.uint8)
        except OSError:
            return None
        block = self._parsed(raw, name)
        if block is None:
            self.damaged += 1
            log.warning("the cached prefix %s is not what its digest says; it is computed again", path)
            path.unlink(missing_ok=True)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # it is used: it goes last
        return block

    def _parsed(self, raw: Bytes, name: Name) -> StoredBlock | None:
        if len(raw) < _HEAD + _DIGEST_BYTES or raw[: len(MAGIC)].tobytes() != MAGIC:
            return None
        body = raw[:-_DIGEST_BYTES]
        if self._digest(body) != raw[-_DIGEST_BYTES:].tobytes():
            return None
        n, groups = (int(word) for word in np.frombuffer(raw[len(MAGIC) : _HEAD], "<u4"))
        at = _HEAD + 4 * n
        ids = np.frombuffer(body[_HEAD:at].tobytes(), np.int32)
        pages: dict[int, Bytes] = {}
        for g, group in enumerate(self._groups):
            if groups >> g & 1:
                pages[g] = body[at : at + group.page_bytes]
                at += group.page_bytes
        return StoredBlock(name, ids, pages) if at == len(body) else None

    # ---- writing --------------------------------------------------------------------------

    def save(self, parent: Name, name: Name, ids: Ids, pages: Mapping[int, Bytes]) -> None:
        """Has a block written that is not there; its pages are copied before this returns."""
        size = sum(len(page) for page in pages.values())
        with self._lock:
            if self._waiting_bytes + size > MOST_WAITING or size > self._most:
                return
            self._waiting_bytes += size
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_all, name="prefixes", daemon=True)
                self._thread.start()
        self._waiting.put((parent, StoredBlock(name, ids.copy(), {g: p.copy() for g, p in pages.items()})))

    def close(self) -> None:
        """Writes what waits and ends the thread."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
            self._thread = None

    def _write_all(self) -> None:
        while (item := self._waiting.get()) is not None:
            parent, block = item
            try:
                self._write(parent, block)
            except EngineError as error:
                log.warning("a prefix could not be kept: %s", error)
            with self._lock:
                self._waiting_bytes -= sum(len(page) for page in block.pages.values())

    def _write(self, parent: Name, block: StoredBlock) -> None:
        private_dir(self.folder)
        if not (self.folder / ABOUT).exists():
            with replacing(self.folder / ABOUT) as draft:
                draft.write_text(json.dumps(self._about), "utf-8")
        path = private_dir(self.folder / parent.hex()) / block.name.hex()
        if path.exists():
            return
        groups = sum(1 << g for g in block.pages)
        head = MAGIC + np.array([len(block.ids), groups], "<u4").tobytes() + block.ids.tobytes()
        body = np.concatenate([np.frombuffer(head, np.uint8), *(block.pages[g] for g in sorted(block.pages))])
        with replacing(path) as draft, draft.open("wb") as file:
            file.write(body.data)
            file.write(self._digest(body))
        self._bound(len(body) + _DIGEST_BYTES)

    def _bound(self, added: int) -> None:
        """Removes the least recently used where there are more bytes than may be."""
        if self._held is not None and self._held + added <= self._most:
            self._held += added
            return
        files = sorted((path.stat().st_mtime_ns, path.stat().st_size, path) for path in self.files())
        held = sum(size for _, size, _ in files)
        for _, size, path in files:
            if held <= self._most * 9 // 10 or held <= added:
                break
            path.unlink(missing_ok=True)
            held -= size
        self._held = held

    def files(self) -> list[Path]:
        """The files of all blocks."""
        return _block_files(self.folder)

    def _digest(self, body: Bytes) -> bytes:
        return hashlib.blake2b(body.data, key=self._key, digest_size=_DIGEST_BYTES).digest()


def store_of(bundle: Bundle, groups: Sequence[PageGroup]) -> PageStore:
    """The store of a bundle's prefixes. Its key is a digest of all that keys and values follow from
    beside the tokens."""
    manifest, plan = bundle.manifest, bundle.plan.execution
    parts = (
        manifest.engine_version,
        manifest.model_digest,
        manifest.files[WEIGHTS].sha256,
        plan.kv_cache,
        *(f"{group.window} {group.page_bytes}" for group in groups),
    )
    key = hashlib.blake2b("\n".join(parts).encode(), digest_size=16).digest()
    about = {"model": manifest.model_name or manifest.name, "kv_cache": plan.kv_cache}
    return PageStore(prefixes_dir(), key, groups, plan.prefix_cache_mb << 20, about)


@dataclass(frozen=True)
class KeptCache:
    """One key's folder: what it says of itself, and what it holds."""

    folder: Path
    about: Mapping[str, str]
    blocks: int
    bytes: int
    used_ns: int


def caches(folder: Path) -> list[KeptCache]:
    """The caches below ``folder``, the most recently used first."""
    found = []
    for one in (path for path in folder.iterdir() if path.is_dir()):
        try:
            about = json.loads((one / ABOUT).read_text("utf-8"))
        except (OSError, ValueError):
            about = {}
        stats = [path.stat() for path in _block_files(one)]
        used = max((stat.st_mtime_ns for stat in stats), default=one.stat().st_mtime_ns)
        found.append(KeptCache(one, about, len(stats), sum(stat.st_size for stat in stats), used))
    return sorted(found, key=lambda cache: -cache.used_ns)


def prune_caches(folder: Path, kept_bytes: int) -> int:
    """Removes the least recently used blocks until at most ``kept_bytes`` are left, and what killed
    processes left half written; returns the bytes that were freed."""
    files = [path for cache in caches(folder) for path in _block_files(cache.folder)]
    by_use = sorted(((path.stat().st_mtime_ns, path.stat().st_size, path) for path in files), reverse=True)
    held = freed = 0
    for _, size, path in by_use:
        held += size
        if held > kept_bytes:
            path.unlink(missing_ok=True)
            freed += size
    for draft in folder.glob("*/*/.*.part"):
        freed += draft.stat().st_size
        draft.unlink(missing_ok=True)
    for cache in folder.iterdir():
        if cache.is_dir() and not _block_files(cache):
            remove_tree(cache)
    return freed


def _block_files(folder: Path) -> list[Path]:
    """The files of a cache's blocks, without drafts."""
    return [path for path in folder.glob("*/*") if not path.name.startswith(".")]
