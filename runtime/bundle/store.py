"""Where bundles, shared weights and compile-time libraries live: private folders of this user.

``$XDG_CACHE_HOME/engine`` (``~/.cache/engine``), mode 0700, ours::

    bundles/<name>-<first 12 digits of the plan's digest>/
    weights/<key>.bin, <key>.sha256    packed weights, once per (model, quantization, layout)
    tools/                             compile-time libraries
    verified/                          digests known to hold (runtime.bundle.digests)
    locks/

Anything found there that belongs to another user, or that others may write, is
refused: a planted shared object would run as us.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from runtime.bundle.digests import digest_path, remember, remembered_digest
from runtime.errors import EXIT_BUNDLE, EXIT_MACHINE, EngineError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_KEY = re.compile(r"[0-9a-f]{16,64}")
#: Prefix of folders and files that are being written; see :func:`sweep`.
TEMPORARY = ".engine-writing-"


def file_error(cause: OSError, path: Path | str) -> EngineError:
    """A typed error for a failed write or read: full, read-only, not permitted, or other."""
    where = str(path)
    if cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        what = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
        message = what.get(cause.errno, "the file would exceed the size that is permitted")
        return EngineError(
            "disk_full",
            message,
            path=where,
            hint="free some space (`engine bundles list` and `remove`), or name another folder with -o",
            exit_code=EXIT_MACHINE,
        )
    if cause.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return EngineError(
            "not_writable" if cause.errno == errno.EROFS else "not_permitted",
            f"{cause.strerror or cause}",
            path=where,
            hint="name another folder with -o, or set XDG_CACHE_HOME",
            exit_code=EXIT_MACHINE,
        )
    return EngineError("file_error", f"{cause.strerror or cause}", path=where, exit_code=EXIT_MACHINE)


def check_trusted(status: os.stat_result, path: Path, *, private: bool = False) -> None:
    """Refuses what another user owns or may write (``private``: may even read).

    Root's files are accepted: they are the system's. Raises ``not_trusted``.
    """
    owner_ok = status.st_uid in ((os.geteuid(),) if private else (os.geteuid(), 0))
    forbidden = 0o077 if private else 0o022
    if owner_ok and not status.st_mode & forbidden:
        return
    what = (
        f"belongs to user {status.st_uid}, not to {os.geteuid()}"
        if not owner_ok
        else f"has mode {stat.S_IMODE(status.st_mode):04o}: others may {'enter' if private else 'write'}"
    )
    raise EngineError(
        "not_trusted",
        f"{'the folder' if stat.S_ISDIR(status.st_mode) else 'the file'} {what}",
        path=str(path),
        allowed="this user's own, mode 0700" if private else "this user's or root's, not writable by others",
        hint=f"look at how it came there; then `chmod go-rwx {path}` or remove it",
        exit_code=EXIT_BUNDLE,
    )


def private_dir(path: Path) -> Path:
    """``path``, made with mode 0700 if it is missing, and checked to be this user's alone.

    Our own folder that others may merely read is made private; one that others may
    write is refused (``not_trusted``), for something may have been planted in it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
        if status.st_uid == os.geteuid() and status.st_mode & 0o077 and not status.st_mode & 0o022:
            path.chmod(0o700)
            status = path.stat()
        check_trusted(status, path, private=True)
    except OSError as cause:
        raise file_error(cause, path) from cause
    return path


def cache_root() -> Path:
    """``$XDG_CACHE_HOME/engine`` or ``~/.cache/engine``, private. A relative variable is ignored."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "")
    if not base.is_absolute():
        base = Path.home() / ".cache"
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as cause:
        raise file_error(cause, base) from cause
    return private_dir(base / "engine")


def bundles_dir() -> Path:
    """Folder of the bundles, private."""
    return private_dir(cache_root() / "bundles")


def weights_dir() -> Path:
    """Folder of the shared packed weights, private."""
    return private_dir(cache_root() / "weights")


def prefixes_dir() -> Path:
    """Folder of the prefix caches' pages, private."""
    return private_dir(cache_root() / "prefixes")


def tools_dir() -> Path:
    """Folder of compile-time libraries, private."""
    return private_dir(cache_root() / "tools")


def verified_dir() -> Path:
    """Folder of remembered digests, private."""
    return private_dir(cache_root() / "verified")


def bundle_path(name: str, plan_digest: str) -> Path:
    """Where the bundle of a plan lives: ``bundles/<name>-<digest12>``."""
    if not _NAME.fullmatch(name):
        raise EngineError(
            "invalid_name",
            f"{name!r} cannot name a bundle",
            path="name",
            allowed="letters, digits, '.', '_' and '-', at most 100, the first a letter or digit",
            exit_code=EXIT_BUNDLE,
        )
    return bundles_dir() / f"{name}-{plan_digest[:12]}"


@contextmanager
def locked(what: str | Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Holds the machine-wide lock of ``what`` (a path or a name) for the block.

    A second process waits; ``on_wait`` is called once before it does. The lock
    is the kernel's (flock), so it goes with its process, however that ends. Not
    re-entrant.
    """
    name = os.path.abspath(what) if isinstance(what, Path) else what
    path = private_dir(cache_root() / "locks") / sha256(os.fsencode(name)).hexdigest()[:32]
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as cause:
        raise file_error(cause, path) from cause
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if on_wait is not None:
                on_wait()
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextmanager
def temporary_dir(parent: Path) -> Iterator[Path]:
    """A private folder in ``parent``, removed at the end unless it was renamed away.

    It is flocked while this process works on it, which is how :func:`sweep` tells
    it from one that a killed process left.
    """
    try:
        with locked("sweep"):
            path = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=parent))
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError as cause:
        raise file_error(cause, parent) from cause
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(fd)


def sweep(parent: Path) -> list[Path]:
    """Removes what killed processes left half-written in ``parent``; returns what was removed."""
    removed = []
    with locked("sweep"):
        for path in sorted(parent.glob(f"{TEMPORARY}*")):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # somebody is at work on it
            else:
                shutil.rmtree(path, ignore_errors=True)
                removed.append(path)
            finally:
                os.close(fd)
    return removed


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A draft beside ``path`` to write to; it takes the name at the end, or is gone.

    Raises as :func:`file_error` says for what writing, syncing and renaming raise.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            yield draft
            fsync_path(draft)
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as cause:
        raise file_error(cause, path) from cause


def fsync_path(path: Path) -> None:
    """Flushes a file's data or a folder's entries to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def stored_weights(key: str, make: Callable[[Path], None], on_wait: Callable[[], None] | None = None) -> Path:
    """The packed weights called ``key``, made by ``make(path)`` if they are missing or damaged.

    ``key``: hex digest of everything the bytes follow from (model, type of each
    tensor, packed layout and its version). ``make`` writes the file at the path it
    is given; the result is flushed, digested and renamed into place, so weights
    are either whole or not there. One process makes them, others wait.
    """
    if not _KEY.fullmatch(key):
        raise ValueError(f"not a weights key: {key!r}")
    folder = weights_dir()
    final, note = folder / f"{key}.bin", folder / f"{key}.sha256"
    with locked(final, on_wait):
        if final.is_file() and note.is_file():
            check_trusted(final.lstat(), final)
            if digest_path(final, verified_dir()) == note.read_text("ascii", "replace").strip():
                return final
        sweep(folder)
        with temporary_dir(folder) as work:
            draft = work / "weights.bin"
            try:
                make(draft)
                draft.chmod(0o400)
                fsync_path(draft)
                digest = digest_path(draft)
                (work / "note").write_text(digest + "\n", "ascii")
                fsync_path(work / "note")
                os.replace(work / "note", note)
                os.replace(draft, final)
                fsync_path(folder)
            except OSError as cause:
                raise file_error(cause, final) from cause
    return final


def stored_digest(path: Path) -> str | None:
    """The digest that :func:`stored_weights` noted for a file it returned; ``None`` for any other path."""
    if path.parent != weights_dir() or path.suffix != ".bin":
        return None
    try:
        return path.with_suffix(".sha256").read_text("ascii", "replace").strip()
    except OSError:
        return None


def unused_weights() -> list[Path]:
    """Stored weights that no bundle is linked to any more (a copied one may still exist elsewhere)."""
    return [path for path in sorted(weights_dir().glob("*.bin")) if path.stat().st_nlink == 1]


def remove_tree(path: Path) -> None:
    """Removes a bundle: out of sight by one rename, then file by file.

    Weights shared with other bundles stay, and their remembered digest with them
    (losing a link changes the inode's ctime, not its bytes).
    """
    weights = path / "weights.bin"
    shared: int | None = None
    known: str | None = None
    try:
        if weights.is_file() and weights.stat().st_nlink > 1:
            shared = os.open(weights, os.O_RDONLY | os.O_CLOEXEC)
            known = remembered_digest(shared, verified_dir())
        with temporary_dir(path.parent) as grave:
            os.rename(path, grave / "bundle")
        if shared is not None and known is not None:
            time.sleep(0.02)  # beyond the tick of the change above
            remember(shared, verified_dir(), known)
    except OSError as cause:
        raise file_error(cause, path) from cause
    finally:
        if shared is not None:
            os.close(shared)
