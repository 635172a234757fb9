"""From C text to a shared object, reproducibly, and how such objects are loaded.

The shared objects (a bundle's ``engine.so`` and the compile-time libraries of
``kernels_c/tools``) are plain C libraries, opened with cffi in ABI mode: dlopen,
with the C header's own text as the cdef. API mode would compile a Python extension
module instead; that would tie a bundle to one Python version, need Python's
headers to build, and run the module's initialisation at import. In ABI mode a
bundle depends on no Python, and opening it runs none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import cffi

from compiler.build.toolchain import Toolchain, find_toolchain, run, temporary_folder, write_sources
from runtime.bundle import store
from runtime.bundle.digests import digest_path
from runtime.bundle.machine import Machine
from runtime.errors import EXIT_BUILD, EngineError

#: The C of the engine: beside ``compiler`` in the checkout and when installed.
KERNELS = Path(__file__).resolve().parents[2] / "kernels_c"

#: Flags of every shared object. What makes bytes reproducible: no debug data, no
#: build id, sources named relative to the build. What makes numbers reproducible:
#: no contraction of a*b+c (NUMERICS). Only the declared ABI is exported.
BASE_FLAGS = (
    "-std=gnu11",
    "-g0",
    "-fPIC",
    "-shared",
    "-pthread",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-Wl,--build-id=none",
    "-Wl,-z,relro",
    "-Wl,-z,now",
    "-Wl,-z,noexecstack",
)
LIBRARIES = ("-lm",)
#: Flags of the compile-time libraries: they run on the machine that builds them.
TOOL_FLAGS = ("-O3", "-march=native")


@dataclass(frozen=True)
class BuildRecord:
    """How a shared object was made; ``command`` is complete and names no folder of this machine."""

    compiler: str
    version: str
    flags: tuple[str, ...]
    command: tuple[str, ...]


def build_shared_object(
    sources: Mapping[str, str],
    flags: Sequence[str],
    out_path: Path,
    toolchain: Toolchain | None = None,
    units: Sequence[str] | None = None,
) -> BuildRecord:
    """Compiles ``sources`` (relative name → C text; headers by their names) into ``out_path``.

    ``units`` are the sources to compile, by default every ``*.c`` among them in the
    order of their names; the others are there to be included. ``flags`` follow
    :data:`BASE_FLAGS`. Functions are exported only where the source gives them default
    visibility (``#pragma GCC visibility push(default)`` around the ABI header does). The
    same sources, flags and compiler give the same bytes in any folder. Raises
    ``compiler_not_found``, ``compiler_failed``, ``build_failed``.
    """
    toolchain = toolchain or find_toolchain()
    units = units or sorted(name for name in sources if name.endswith(".c"))
    if not units:
        raise ValueError("no C source to compile")
    settings = toolchain.flags((*BASE_FLAGS, *flags))
    try:
        with temporary_folder("engine-build-") as work:
            write_sources(sources, work)
            shown = [*settings, "-I.", "-o", "engine.so", *units, *LIBRARIES]
            run(toolchain, [f"-ffile-prefix-map={work}=.", *shown], work, " ".join(units))
            data = (work / "engine.so").read_bytes()
        out_path.write_bytes(data)
    except OSError as cause:
        raise store.file_error(cause, out_path) from cause
    return BuildRecord(toolchain.name, toolchain.version, settings, (Path(toolchain.command[0]).name, *shown))


def assembly(sources: Mapping[str, str], flags: Sequence[str], toolchain: Toolchain | None = None) -> str:
    """The assembly that the compiler makes of ``sources`` (as :func:`build_shared_object` does)."""
    toolchain = toolchain or find_toolchain()
    units = sorted(name for name in sources if name.endswith(".c"))
    with temporary_folder("engine-build-") as work:
        write_sources(sources, work)
        settings = [
            flag
            for flag in toolchain.flags((*BASE_FLAGS, *flags))
            if not flag.startswith("-Wl,") and flag != "-shared"
        ]
        texts = []
        for unit in units:
            target = "unit.s"
            run(toolchain, [*settings, "-I.", "-fverbose-asm", "-S", "-o", target, unit], work, unit)
            texts.append((work / target).read_text("utf-8", "replace"))
    return "\n".join(texts)


@dataclass(frozen=True)
class ToolLibrary:
    """A loaded compile-time library: ``lib.function(...)``, ``ffi`` for its arguments."""

    ffi: cffi.FFI
    lib: Any
    path: Path


def load_tool_library(
    sources_dir: Path,
    names: Sequence[str],
    cdef: str,
    *,
    include: Sequence[Path] = (),
    flags: Sequence[str] = TOOL_FLAGS,
) -> ToolLibrary:
    """Builds (once) and opens a compile-time library: quantizers, packers.

    ``names``: the C files of ``sources_dir`` to compile; every header of ``sources_dir``
    and of the folders in ``include``, and every file in it, is at hand by its bare name.
    ``cdef``: the declarations for cffi. The object is kept in the private cache
    under a digest of all sources, flags, compiler and CPU features, is built by one
    process while others wait, and is opened only if it is this user's own and
    has the digest noted when it was built. Raises as :func:`build_shared_object`.
    """
    sources = {name: (sources_dir / name).read_text("utf-8") for name in names}
    for place in (sources_dir, *include):
        files = sorted(place.glob("*.h")) if place.is_dir() else [place]
        sources |= {path.name: path.read_text("utf-8") for path in files}
    return _open_tool(_frozen(sources), tuple(sorted(names)), tuple(flags), cdef)


def declarations(path: Path) -> str:
    """What cffi is to read of a C file or header: the text between its two markers."""
    return path.read_text("utf-8").split("/* cdef-begin */", 1)[1].split("/* cdef-end */", 1)[0]


def _frozen(sources: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(sources.items()))


@lru_cache(maxsize=32)
def _open_tool(
    sources: tuple[tuple[str, str], ...], units: tuple[str, ...], flags: tuple[str, ...], cdef: str
) -> ToolLibrary:
    path = _built_tool(sources, units, flags)
    ffi = cffi.FFI()
    ffi.cdef(cdef)
    try:
        return ToolLibrary(ffi, ffi.dlopen(str(path)), path)
    except OSError as cause:
        raise EngineError(
            "tool_library",
            f"the compile-time library cannot be loaded: {cause}",
            path=str(path),
            exit_code=EXIT_BUILD,
        ) from cause


def _built_tool(sources: tuple[tuple[str, str], ...], units: tuple[str, ...], flags: tuple[str, ...]) -> Path:
    toolchain = find_toolchain()
    identity = sha256()
    for part in (
        *(text for pair in sources for text in pair),
        *units,
        *BASE_FLAGS,
        *flags,
        toolchain.name,
        toolchain.version,
        *sorted(Machine.probe().features),  # -march=native, in a cache that several machines may share
    ):
        identity.update(f"{len(part)}:{part}".encode())
    stem = re.sub(r"[^A-Za-z0-9_]", "_", Path(units[0]).stem)
    folder = store.tools_dir()
    final = folder / f"{stem}-{identity.hexdigest()[:16]}.so"
    note = final.with_suffix(".sha256")
    with store.locked(final):
        if final.is_file() and note.is_file():
            store.check_trusted(final.lstat(), final, private=True)
            if digest_path(final) == note.read_text("ascii", "replace"):
                return final
        store.sweep(folder)
        with store.temporary_dir(folder) as work:
            draft = work / "library.so"
            build_shared_object(dict(sources), flags, draft, toolchain, units)
            try:
                draft.chmod(0o500)
                (work / "note").write_text(digest_path(draft), "ascii")
                os.replace(work / "note", note)
                os.replace(draft, final)
            except OSError as cause:
                raise store.file_error(cause, final) from cause
    return final
