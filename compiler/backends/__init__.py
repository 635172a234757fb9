"""Backends: what one instruction set offers, one file each.

A backend is data: CPU features, compiler flags, the C sources of its kernel
set in the order they are included, and its rows of the kernel registry. Third
parties add one as an entry point of the group ``engine.backends`` whose object
is a :class:`Backend`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from compiler.kernels import PACKED_HEADERS, Kernel
from runtime.errors import EXIT_MACHINE, EXIT_PLAN, EngineError

GROUP = "engine.backends"

#: Flags every backend is compiled with. Contraction would round differently from one
#: compiler to the next; every fma in the sources is written as one.
COMMON_FLAGS: tuple[str, ...] = (
    "-std=gnu11",
    "-O3",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-strict-aliasing",
    "-pthread",
)

#: What every kernel set stands on, in the order of inclusion.
COMMON_SOURCES: tuple[str, ...] = (
    "include/engine_abi.h",
    "include/activations.h",
    "include/packed.h",
    "include/chunk.h",
    *PACKED_HEADERS,
    "include/numerics.h",
    "include/threadpool.h",
    "threadpool.c",
)


@dataclass(frozen=True)
class Backend:
    """One kernel set.

    ``name``          as plans call it.
    ``summary``       one line for people.
    ``cpu_features``  flags of ``/proc/cpuinfo`` that the CPU must have; empty: any CPU.
    ``cflags``        compiler flags, complete except for include paths and output.
    ``ldflags``       linker flags.
    ``sources``       files under ``kernels_c``, included in this order in one translation unit.
    ``kernels``       its rows of the registry.
    """

    name: str
    summary: str
    cpu_features: tuple[str, ...]
    cflags: tuple[str, ...]
    ldflags: tuple[str, ...]
    sources: tuple[str, ...]
    kernels: tuple[Kernel, ...]

    def kernel(self, op: str, fmt: str | None = None, name: str | None = None) -> Kernel:
        """The row of (op, format), or of ``name`` among them. KeyError if the backend has none."""
        for row in self.kernels:
            if row.op == op and row.format == fmt and name in (None, row.name):
                return row
        raise KeyError((op, fmt, name))

    @property
    def formats(self) -> tuple[str, ...]:
        """Weight formats it has a panel kernel for."""
        return tuple(row.format for row in self.kernels if row.op == "panel" and row.format)

    def missing_features(self, cpu: frozenset[str]) -> tuple[str, ...]:
        """Features it needs that ``cpu`` lacks."""
        return tuple(feature for feature in self.cpu_features if feature not in cpu)


def available() -> dict[str, EntryPoint]:
    """Entry points of all installed backends by name, without importing them."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda p: p.name)}


def get(name: str) -> Backend:
    """The backend called ``name``.

    Raises EngineError ``backend_unknown`` if none is installed under that name,
    ``backend_invalid`` if what is installed cannot be loaded or is no backend.
    """
    points = available()
    if name not in points:
        raise EngineError(
            "backend_unknown",
            f"no backend is called {name!r}",
            path="backend",
            allowed=", ".join(points) or "none installed",
            hint="reinstall the package if a backend of its own is missing from the list",
            exit_code=EXIT_PLAN,
        )
    try:
        backend = points[name].load()
    except Exception as error:
        raise EngineError(
            "backend_invalid",
            f"the backend {name!r} ({points[name].value}) cannot be imported: {error}",
            path="backend",
            exit_code=EXIT_PLAN,
        ) from error
    if not isinstance(backend, Backend) or backend.name != name:
        raise EngineError(
            "backend_invalid",
            f"the entry point {points[name].value} is not a Backend called {name!r}",
            path="backend",
            exit_code=EXIT_PLAN,
        )
    return backend


def runnable(name: str) -> Backend:
    """The backend called ``name``, for code that is run here and now.

    Raises as :func:`get`, and ``unsupported_cpu`` where this CPU lacks what it needs.
    """
    backend = get(name)
    if missing := backend.missing_features(cpu_features()):
        raise EngineError(
            "unsupported_cpu",
            f"{name} needs {', '.join(missing)}, which this CPU lacks",
            path="backend",
            exit_code=EXIT_MACHINE,
        )
    return backend


def cpu_features() -> frozenset[str]:
    """Feature flags of this machine's CPU (``flags`` of ``/proc/cpuinfo``); empty if unreadable."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as info:
            for line in info:
                if line.startswith("flags"):
                    return frozenset(line.split(":", 1)[1].split())
    except OSError:
        pass
    return frozenset()
