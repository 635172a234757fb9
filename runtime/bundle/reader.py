"""Opens a bundle: nothing in it is mapped, loaded or believed before it has been checked."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from runtime.bundle import store
from runtime.bundle.digests import verified_digest
from runtime.bundle.format import (
    KERNELS_DIR,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    PLAN,
    SHARED_OBJECT,
    WEIGHTS,
    FileEntry,
    Manifest,
    parse_manifest,
    sha256_hex,
)
from runtime.bundle.plan import ResolvedPlan
from runtime.bundle.trust import check_ancestors
from runtime.errors import EXIT_BUNDLE, EngineError

_FOLDERS = ("", KERNELS_DIR)


@dataclass(frozen=True)
class Bundle:
    """A checked bundle. ``digest``: SHA-256 of its manifest, the bundle's identity."""

    path: Path
    manifest: Manifest
    digest: str = field(default="")

    @property
    def shared_object(self) -> Path:
        """``engine.so``."""
        return self.path / SHARED_OBJECT

    @property
    def weights(self) -> Path:
        """``weights.bin``."""
        return self.path / WEIGHTS

    def read(self, name: str) -> bytes:
        """The bytes of one file of the bundle; ``bundle_damaged`` if they are not the manifest's."""
        entry = self.manifest.files.get(name)
        if entry is None:
            raise _damaged(self.path / name, "is not part of the bundle")
        try:
            data = (self.path / name).read_bytes()
        except OSError as cause:
            raise _damaged(self.path / name, f"cannot be read ({cause.strerror})") from cause
        if len(data) != entry.size or sha256_hex(data) != entry.sha256:
            raise _damaged(self.path / name, "does not have the digest that the manifest gives")
        return data

    @cached_property
    def plan(self) -> ResolvedPlan:
        """``plan.json``, checked; raises ``bad_bundle_plan``."""
        return ResolvedPlan.from_bytes(self.read(PLAN))

    def names(self, folder: str = KERNELS_DIR) -> list[str]:
        """Names of the files under a folder of the bundle, sorted."""
        return sorted(name for name in self.manifest.files if name.startswith(f"{folder}/"))


def is_bundle(path: Path) -> bool:
    """Whether ``path`` is a folder with a manifest (which may still be damaged)."""
    return (path / MANIFEST).is_file()


def read_manifest(path: Path) -> tuple[Manifest, str]:
    """The manifest of the bundle at ``path`` and its digest; the files are not looked at.

    Raises ``bundle_not_found``, ``not_trusted``, ``bundle_damaged``, ``bundle_format``.
    """
    where = path / MANIFEST
    if not path.is_dir() or not where.exists():
        raise EngineError(
            "bundle_not_found",
            "there is no bundle here",
            path=str(path),
            allowed="a folder with a manifest.json",
            hint="compile the plan first: `engine compile PLAN`",
            exit_code=EXIT_BUNDLE,
        )
    try:
        check_ancestors(path)
        store.check_trusted(path.stat(), path)
        fd = os.open(where, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as cause:
        raise _damaged(where, f"cannot be opened ({cause.strerror})") from cause
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        store.check_trusted(status, where)
        if status.st_size > MAX_MANIFEST_BYTES:
            raise _damaged(where, f"is larger than {MAX_MANIFEST_BYTES} bytes")
        data = file.read()
    return parse_manifest(data, str(where)), sha256_hex(data)


def open_bundle(path: Path, *, reread: bool = False) -> Bundle:
    """Checks the bundle at ``path`` and returns it.

    In this order: owner and mode of the folder and of those above it, the manifest's schema, owner, mode
    and size of every file, that there are no others, the digest of every file.
    Large files that are provably unchanged since they were last digested are not
    read again (:mod:`runtime.bundle.digests` says why that is safe) unless
    ``reread``. Raises as :func:`read_manifest`, and ``bundle_damaged`` naming each
    damaged file.
    """
    path = path.absolute()
    manifest, digest = read_manifest(path)
    for folder in _FOLDERS:
        if (place := path / folder).is_dir():
            store.check_trusted(place.lstat(), place)
    errors = list(_strangers(path, manifest))
    memory = None if reread else store.verified_dir()
    with ThreadPoolExecutor(4) as pool:
        checks = pool.map(lambda item: _check_file(path / item[0], item[1], memory), manifest.files.items())
        errors += [error for error in checks if error is not None]
    if errors:
        if len(errors) == 1:
            raise errors[0]
        raise EngineError(
            "bundle_damaged",
            f"{len(errors)} files of the bundle are damaged",
            path=str(path),
            hint="compile the plan again",
            exit_code=EXIT_BUNDLE,
            causes=tuple(errors),
        )
    return Bundle(path, manifest, digest)


def _strangers(path: Path, manifest: Manifest) -> Iterable[EngineError]:
    for folder in _FOLDERS:
        place = path / folder
        if not place.is_dir():
            continue
        for item in place.iterdir():
            name = f"{folder}/{item.name}" if folder else item.name
            if name not in manifest.files and name not in (MANIFEST, KERNELS_DIR):
                yield _damaged(item, "is not listed in the manifest")


def _check_file(path: Path, entry: FileEntry, memory: Path | None) -> EngineError | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return _damaged(path, "is missing")
    except OSError as cause:
        return _damaged(path, f"cannot be opened ({cause.strerror})")
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return _damaged(path, "is not a regular file")
        store.check_trusted(status, path)
        if status.st_size != entry.size:
            return _damaged(path, f"has {status.st_size} bytes where the manifest says {entry.size}")
        if verified_digest(fd, memory) != entry.sha256:
            return _damaged(path, "does not have the digest that the manifest gives")
    except EngineError as error:
        return error
    except OSError as cause:
        return _damaged(path, f"cannot be read ({cause.strerror})")
    finally:
        os.close(fd)
    return None


def _damaged(path: Path, what: str) -> EngineError:
    return EngineError(
        "bundle_damaged",
        f"the file {what}",
        path=str(path),
        hint="compile the plan again; that mends it",
        exit_code=EXIT_BUNDLE,
    )
