"""Whether this machine runs a backend, where the CPU's features alone do not tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compiler import backends
from compiler.backends import Backend
from compiler.build import declarations, load_tool_library
from runtime.errors import EXIT_MACHINE, EngineError

_KERNELS = Path(__file__).resolve().parents[2] / "kernels_c"


def obstacle(backend: Backend) -> str | None:
    """Why this machine, whose CPU has the features, cannot run ``backend``; None where it can.

    Raises as building its probe does.
    """
    test = backend.self_test
    if test is None:
        return None
    tools = _KERNELS / "tools"
    includes = [_KERNELS / name for name in test.includes]
    tool = load_tool_library(
        tools, [test.probe], declarations(tools / test.probe), include=includes, flags=backend.cflags
    )
    ffi: Any = tool.ffi
    reason = tool.lib.obstacle()
    return None if reason == ffi.NULL else str(ffi.string(reason).decode("ascii"))


def offered(name: str) -> Backend:
    """The backend called ``name``, seen to work here. Raises as :func:`compiler.backends.runnable`."""
    backend = backends.runnable(name)
    if reason := obstacle(backend):
        raise EngineError(
            "unsupported_cpu",
            f"{name} cannot run here: {reason}",
            path="backend",
            hint="choose a backend that `engine doctor` lists as usable",
            exit_code=EXIT_MACHINE,
        )
    return backend
