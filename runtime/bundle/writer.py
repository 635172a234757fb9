"""Writes a bundle so that it is either whole or not there."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from runtime.bundle import store
from runtime.bundle.digests import digest_path, remember
from runtime.bundle.format import CHUNK_BYTES, MANIFEST, FileEntry, Manifest, is_member_name, sha256_hex
from runtime.errors import EXIT_BUNDLE, EngineError


def write_bundle(final: Path, manifest: Manifest, files: Mapping[str, bytes | Path]) -> Path:
    """Writes ``files`` and the manifest over them to the folder ``final``; returns ``final``.

    ``files``: names as in the bundle (``engine.so``, ``kernels/forward.c``) to their
    bytes, or to a file to take them from. ``manifest.files`` is filled in here.
    A file from :func:`runtime.bundle.store.stored_weights` is hard-linked where
    the filesystem allows it, others are copied.

    Everything is written to a folder beside ``final``, flushed, and renamed; a
    bundle that was there before is replaced, anything else there is refused
    (``not_a_bundle``). Callers who may race hold ``store.locked(final)``. Raises
    ``disk_full``, ``not_writable``, ``not_permitted``; then nothing is left behind
    and an earlier bundle is intact.
    """
    for name in files:
        if not is_member_name(name):
            raise ValueError(f"not a name for a file of a bundle: {name!r}")
    parent = final.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _check_replaceable(final)
        store.sweep(parent)
        with store.temporary_dir(parent) as work:
            draft = work / "bundle"
            draft.mkdir(mode=0o755)
            entries = {name: _place(files[name], draft / name) for name in sorted(files)}
            (draft / MANIFEST).write_bytes(replace(manifest, files=entries).to_bytes())
            (draft / MANIFEST).chmod(0o444)
            for path in [*draft.rglob("*"), draft]:
                store.fsync_path(path)
            if final.exists():
                os.rename(final, work / "replaced")
            os.rename(draft, final)
            store.fsync_path(parent)
    except OSError as cause:
        raise store.file_error(cause, final) from cause
    return final


def _check_replaceable(final: Path) -> None:
    """An empty folder or a bundle may be replaced; nothing else is ours to remove."""
    if not final.is_symlink() and not final.exists():
        return
    if final.is_dir() and not final.is_symlink():
        names = os.listdir(final)
        if not names or MANIFEST in names:
            return
    raise EngineError(
        "not_a_bundle",
        "something that is not a bundle stands where the bundle should go",
        path=str(final),
        allowed="a new name, an empty folder, or an earlier bundle",
        hint="name another folder with -o",
        exit_code=EXIT_BUNDLE,
    )


def _place(source: bytes | Path, target: Path) -> FileEntry:
    target.parent.mkdir(exist_ok=True)
    if isinstance(source, bytes):
        target.write_bytes(source)
        target.chmod(0o444)
        return FileEntry(len(source), sha256_hex(source))
    known = store.stored_digest(source)
    if known is None:
        shutil.copyfile(source, target)
        target.chmod(0o444)
    else:
        try:
            os.link(source, target)
        except OSError as cause:
            if cause.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
                raise
            shutil.copyfile(source, target)
            target.chmod(0o400)
            known = None
    size = target.stat().st_size
    if known is None:
        return FileEntry(size, digest_path(target))
    if size <= CHUNK_BYTES:
        return FileEntry(size, known)
    # stored_weights has just vouched for these bytes; the new link changed ctime only.
    time.sleep(0.02)  # beyond the tick of that change
    fd = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
    try:
        remember(fd, store.verified_dir(), known)
    finally:
        os.close(fd)
    return FileEntry(size, known)
