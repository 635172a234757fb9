"""Finds a C compiler and runs it, the same way on every machine and every day.

Order: ``$CC`` (which must then work), ``cc``, ``gcc``, ``clang``, and the
``ziglang`` package. Its name and version go into every bundle's manifest.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from runtime.errors import EXIT_BUILD, EXIT_MACHINE, EngineError

#: Seconds one run of the compiler may take.
TIMEOUT = 900
#: How much of the compiler's own complaint an error carries, characters.
STDERR_TAIL = 4000

#: Flags that are asked of some compilers only, which others refuse, by the compilers' names.
#: GCC would turn chains of integer additions into trees, which spill; others keep the chains.
ONLY_OF: Mapping[str, tuple[str, ...]] = {"-fno-tree-reassoc": ("gcc",)}

#: What compilers say (in the C locale) when their own temporary files find no room.
_NO_ROOM = ("No space left on device", "Disk quota exceeded", "NoSpaceLeft")
_PROBE = "int engine_probe(int x) { return x + 1; }\n"


@dataclass(frozen=True)
class Toolchain:
    """A C compiler that was seen to work: ``command`` starts it, the rest is for the manifest."""

    command: tuple[str, ...]
    name: str  # gcc | clang | zig cc | the program's own name
    version: str

    def flags(self, flags: Sequence[str]) -> tuple[str, ...]:
        """Those of ``flags`` that are asked of this compiler."""
        return tuple(flag for flag in flags if self.name in ONLY_OF.get(flag, (self.name,)))


@dataclass(frozen=True)
class Attempt:
    """A compiler that was looked for, and why it was not taken."""

    command: str
    reason: str


def find_toolchain() -> Toolchain:
    """The first C compiler that can build a shared object.

    Raises ``compiler_not_found`` with everything that was tried, or
    ``compiler_failed`` if ``$CC`` names one that does not work.
    """
    return _find(os.environ.get("CC", ""), os.environ.get("PATH", ""))


def installed() -> dict[str, tuple[str, ...]]:
    """The compilers that work here, by name (``gcc``, ``clang``, ``zig``), and what starts them."""
    commands: dict[str, tuple[str, ...]] = {"gcc": ("gcc",), "clang": ("clang",)}
    if importlib.util.find_spec("ziglang") is not None:
        commands["zig"] = (sys.executable, "-m", "ziglang", "cc")
    return {name: command for name, command in commands.items() if isinstance(_try(command), Toolchain)}


@contextmanager
def compiling_with(command: Sequence[str]) -> Iterator[None]:
    """Whatever is compiled meanwhile, in this process, is compiled by ``command``."""
    before = os.environ.get("CC")
    os.environ["CC"] = shlex.join(command)
    try:
        yield
    finally:
        if before is None:
            del os.environ["CC"]
        else:
            os.environ["CC"] = before


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A folder for as long as a compiler works in it. Raises ``no_temporary_files`` where there is no room."""
    try:
        made = tempfile.TemporaryDirectory(prefix=prefix)
    except OSError as cause:
        raise _no_temporary_files(cause.strerror or str(cause)) from cause
    with made as folder:
        yield Path(folder).resolve()


def _no_room(complaint: str) -> EngineError | None:
    """``no_temporary_files``, where that is what a compiler complains of."""
    said = next((phrase for phrase in _NO_ROOM if phrase in complaint), None)
    return None if said is None else _no_temporary_files(f"the C compiler says: {said}")


def _no_temporary_files(reason: str) -> EngineError:
    return EngineError(
        "no_temporary_files",
        f"temporary files cannot be written ({reason})",
        path=tempfile.tempdir or os.environ.get("TMPDIR", "/tmp"),
        hint="free some space there, or set TMPDIR to a folder that has some",
        exit_code=EXIT_MACHINE,
    )


@lru_cache(maxsize=4)
def _find(named: str, _path: str) -> Toolchain:
    if named.strip():
        found = _try(tuple(shlex.split(named)))
        if isinstance(found, Toolchain):
            return found
        raise EngineError(
            "compiler_failed",
            f"$CC names a C compiler that does not work: {found.reason}",
            path=f"CC={named}",
            hint="unset CC, or set it to a C compiler (gcc 9 or clang 11 and later)",
            exit_code=EXIT_BUILD,
        )
    tried = []
    for command in _candidates():
        found = _try(command)
        if isinstance(found, Toolchain):
            return found
        tried.append(found)
    raise EngineError(
        "compiler_not_found",
        "no C compiler was found (" + "; ".join(f"{one.command}: {one.reason}" for one in tried) + ")",
        allowed="$CC, cc, gcc, clang, or the Python package ziglang",
        hint="install gcc or clang with the system's package manager, or `pip install ziglang`",
        exit_code=EXIT_BUILD,
    )


def _candidates() -> list[tuple[str, ...]]:
    commands: list[tuple[str, ...]] = [("cc",), ("gcc",), ("clang",)]
    if importlib.util.find_spec("ziglang") is not None:
        commands.append((sys.executable, "-m", "ziglang", "cc"))
    return commands


def _try(command: tuple[str, ...]) -> Toolchain | Attempt:
    shown = " ".join(command)
    if shutil.which(command[0]) is None:
        return Attempt(shown, "not found")
    try:
        banner = subprocess.run(
            [*command, "--version"], capture_output=True, timeout=60, text=True, check=True
        )
        with temporary_folder("engine-probe-") as folder:
            probe = subprocess.run(
                [*command, "-x", "c", "-shared", "-fPIC", "-o", "probe.so", "-"],
                input=_PROBE,
                capture_output=True,
                cwd=folder,
                timeout=60,
                text=True,
                env=_environment(),
            )
    except (OSError, subprocess.SubprocessError) as cause:
        return Attempt(shown, f"does not run ({cause})")
    if probe.returncode != 0:
        if (full := _no_room(probe.stderr)) is not None:
            raise full
        return Attempt(shown, f"cannot build a shared object: {probe.stderr.strip()[-300:]}")
    name, version = _identify(command, banner.stdout)
    return Toolchain(command, name, version)


def _identify(command: Sequence[str], banner: str) -> tuple[str, str]:
    first = banner.strip().splitlines()[0] if banner.strip() else "unknown"
    if "ziglang" in command:
        name = "zig cc"
    elif "clang" in first:
        name = "clang"
    elif "Free Software Foundation" in banner:
        name = "gcc"
    else:
        name = Path(command[0]).name
    # "cc (Debian 12.2.0-14) 12.2.0": the program's own name is not part of its version.
    return name, first.split(" ", 1)[1] if name == "gcc" and " " in first else first


def _environment() -> dict[str, str]:
    """What a compiler may see of the environment: nothing that could change its output."""
    kept = {
        key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH") if key in os.environ
    }
    return kept | {"LC_ALL": "C", "SOURCE_DATE_EPOCH": "0", "ZERO_AR_DATE": "1"}


def run(toolchain: Toolchain, arguments: Sequence[str], folder: Path, what: str) -> str:
    """Runs the compiler in ``folder``; returns what it wrote to stderr.

    Raises ``build_failed`` with the tail of its complaint; ``what`` says what was
    being built.
    """
    command = [*toolchain.command, *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        raise _failed(toolchain, what, f"took more than {TIMEOUT} seconds") from None
    except OSError as cause:
        raise _failed(toolchain, what, f"could not be started: {cause}") from cause
    if done.returncode != 0:
        if (full := _no_room(done.stderr)) is not None:
            raise full
        complaint = (done.stderr or done.stdout).strip()[-STDERR_TAIL:]
        how = (
            f"ended with {done.returncode}"
            if done.returncode > 0
            else f"was killed (signal {-done.returncode})"
        )
        raise _failed(toolchain, what, f"{how}:\n{complaint}" if complaint else how)
    return done.stderr


def _failed(toolchain: Toolchain, what: str, how: str) -> EngineError:
    return EngineError(
        "build_failed",
        f"the C compiler {how}",
        path=what,
        hint=f"the compiler was {toolchain.name} {toolchain.version}; $CC names another one",
        exit_code=EXIT_BUILD,
    )


def write_sources(sources: Mapping[str, str], folder: Path) -> None:
    """Writes C sources under ``folder``, a temporary one; names are relative and stay inside it.

    Raises ``no_temporary_files``.
    """
    for name, text in sources.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"not a name of a source: {name!r}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        except OSError as cause:
            raise _no_temporary_files(cause.strerror or str(cause)) from cause
