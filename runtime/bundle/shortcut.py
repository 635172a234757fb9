"""Which bundle a plan led to last time, as long as nothing that decided it has changed.

Resolving a plan reads the model's header and digests its content; a second run of
the same plan need not. An entry is kept under a digest of the plan's text, where it
lies, the machine's threads, memory meter and CPU features, and this engine's own
compiler sources; it names the bundle, and every file that was read with its size,
times and inode (as :mod:`runtime.bundle.digests` says, no change of a file leaves
them as they were). A wrong entry cannot lead to a bundle of another plan unnoticed:
the bundle is checked like any other, and entries lie in a private folder.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from runtime.bundle import store
from runtime.bundle.files import read_whole
from runtime.bundle.machine import Machine
from runtime.bundle.reader import is_bundle

_HOME = Path(__file__).resolve().parents[2]
_SOURCES = (".py", ".yaml", ".c", ".h", ".j2", ".json")


@lru_cache(maxsize=1)
def builder_digest() -> str:
    """Digest of the compiler's own sources and templates: which builder makes a bundle.

    SHA-256 over the relative names and contents of every source file of ``compiler/``
    and ``kernels_c/``. A bundle of another builder is compiled again rather than
    trusted to be what this one would make.
    """
    identity = sha256()
    for root in (_HOME / "compiler", _HOME / "kernels_c"):
        for path in sorted(root.rglob("*")):
            if path.suffix in _SOURCES and path.is_file():
                data = path.read_bytes()
                identity.update(f"{root.name}/{path.relative_to(root).as_posix()}:{len(data)}:".encode())
                identity.update(data)
    return identity.hexdigest()


def key_of_file(path: Path) -> str | None:
    """The key of a plan's file; ``None`` if it cannot be read."""
    try:
        return _key(path.resolve(), read_whole(path, 1 << 20))
    except OSError:
        return None


def key_of_document(document: Mapping[str, Any], folder: Path) -> str:
    """The key of a plan given as a tree, with paths relative to ``folder``."""
    return _key(folder, json.dumps(document, sort_keys=True).encode())


def _key(place: Path, text: bytes) -> str:
    machine = Machine.probe()
    identity = sha256()
    for part in (
        os.fsencode(place),
        text,
        repr((machine.threads, machine.has_energy_meter, sorted(machine.features))).encode(),
        builder_digest().encode(),
    ):
        identity.update(f"{len(part)}:".encode() + part)
    return identity.hexdigest()


def _stamp(path: str | Path) -> list[Any]:
    status = os.stat(path)
    return [str(path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _folder() -> Path:
    return store.private_dir(store.cache_root() / "plans")


def recall(key: str) -> Path | None:
    """The bundle that this key led to, if it is still there and its sources are unchanged."""
    try:
        body = json.loads((_folder() / f"{key[:32]}.json").read_bytes())
        if body["key"] != key or any(_stamp(stamp[0]) != stamp for stamp in body["files"]):
            return None
        bundle = Path(body["bundle"])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None
    return bundle if is_bundle(bundle) else None


def remember(key: str, bundle: Path, files: Sequence[Path]) -> None:
    """Keeps where ``key`` led to; ``files`` is everything that was read on the way. Best effort."""
    try:
        body = {"key": key, "bundle": str(bundle), "files": [_stamp(path.resolve()) for path in files]}
        handle, temporary = tempfile.mkstemp(dir=_folder(), prefix=".shortcut-")
        with os.fdopen(handle, "w") as file:
            json.dump(body, file)
        os.replace(temporary, _folder() / f"{key[:32]}.json")
    except OSError:
        return  # the next run resolves the plan once more
