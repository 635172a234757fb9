"""Loads a shared object from bytes that were checked, not from a file that may be another by then.

The bytes go into a sealed memory file (memfd_create(2), F_ADD_SEALS in fcntl(2)), which dlopen gets by
its descriptor. What runs is what was digested, and nothing that happens to the bundle's file afterwards
(truncated, written over, removed) reaches the running process.
"""

from __future__ import annotations

import fcntl
import itertools
import os
from typing import Any

import cffi

#: memfd_create(2): the file may be executed. Kernels before 6.3 do not know the flag and need none.
_MFD_EXEC = 0x10
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

_loads = itertools.count(1)


def load_shared_object(ffi: cffi.FFI, data: bytes, name: str) -> Any:
    """The library in ``data``; ``name`` is what debuggers and profilers call it. Raises ``OSError``."""
    loader: Any = ffi  # its stubs lack the flags of dlopen(3)
    file = _memory_file(name)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
        return loader.dlopen(_unused_path(file), loader.RTLD_NOW | loader.RTLD_LOCAL)
    finally:
        os.close(file)


def _memory_file(name: str) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | _MFD_EXEC)
    except OSError:
        return os.memfd_create(name, flags)


def _unused_path(file: int) -> str:
    """A path of the descriptor that was never used before.

    dlopen takes a library that is loaded already for the one wanted if the paths are spelled alike, and
    numbers of descriptors come again. So the path spells the number of this load, in bits: ``/`` and ``/.``.
    """
    bits = "".join("/." if bit == "1" else "/" for bit in f"{next(_loads):b}")
    return f"/proc/self/fd{bits}/{file}"
