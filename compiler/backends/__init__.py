"""Backends: what one instruction set offers, one file each.

A backend is data: CPU features, compiler flags, the C sources of its kernel
set in the order they are included, and its rows of the kernel registry. All but
``reference`` are made by :func:`derive`: a base, and what takes the place of its
kernels; what is not replaced is the base's, down to the scalar definition. Third
parties add one as an entry point of the group ``engine.backends`` whose object
is a :class:`Backend`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points

from compiler.kernels import PACKED_HEADERS, Kernel
from runtime.errors import EXIT_MACHINE, EXIT_PLAN, EngineError

GROUP = "engine.backends"

#: What the name of a backend ends with whose instruction set is emulated.
EMULATED = "_emulated"

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
class Emulation:
    """What stands in for an instruction set, to prove kernels on CPUs that lack it: slow, with equal bits.

    ``features``  CPU features that are then not needed.
    ``without``   compiler flags that are left away.
    ``flags``     compiler flags that come instead.
    ``sources``   files under ``kernels_c`` that are included before the backend's own.
    """

    features: tuple[str, ...]
    without: tuple[str, ...]
    flags: tuple[str, ...]
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Instructions:
    """What a backend needs beyond its base.

    ``features``   flags of ``/proc/cpuinfo``.
    ``flags``      compiler flags.
    ``emulation``  how its kernels run where the CPU lacks them, for tests; None: not at all.
    ``self_test``  what shows that a CPU which announces them computes with them; None: the base's.
    """

    features: tuple[str, ...]
    flags: tuple[str, ...]
    emulation: Emulation | None = None
    self_test: SelfTest | None = None


@dataclass(frozen=True)
class Hooks:
    """C functions ``void f(void)`` that each thread calls when it begins its share of a step, and when it
    is done: registers that must be configured, state that nobody should have to save. Empty: none."""

    enter: str = ""
    leave: str = ""


@dataclass(frozen=True)
class SelfTest:
    """What must be seen to work before a backend is offered, where features alone do not tell.

    ``function``  C function ``const char *f(void)``: why the kernels cannot run on this machine, or NULL. It
                  also asks the system for what they need; every bundle calls it when it is opened.
    ``probe``     file under ``kernels_c/tools`` that exports it as ``obstacle``, for the compiler's own use.
    ``includes``  files under ``kernels_c`` that the probe includes by their bare names.
    """

    function: str
    probe: str
    includes: tuple[str, ...]


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
    ``emulation``     how it runs where the CPU lacks its instructions, for tests; None: not at all.
    ``hooks``         what its threads do before and after a step.
    ``self_test``     what tells whether this machine runs it, beside the features; None: nothing.
    """

    name: str
    summary: str
    cpu_features: tuple[str, ...]
    cflags: tuple[str, ...]
    ldflags: tuple[str, ...]
    sources: tuple[str, ...]
    kernels: tuple[Kernel, ...]
    emulation: Emulation | None = None
    hooks: Hooks = Hooks()
    self_test: SelfTest | None = None

    def emulated(self) -> Backend:
        """The same kernels over emulated instructions: a backend of its own name, so that whatever it
        computed says so. ValueError if there is no emulation."""
        if self.emulation is None:
            raise ValueError(f"{self.name} has no emulation")
        kept = tuple(flag for flag in self.cflags if flag not in self.emulation.without)
        return replace(
            self,
            name=self.name + EMULATED,
            summary=f"{self.name} with {', '.join(self.emulation.features)} emulated, for tests",
            cpu_features=tuple(f for f in self.cpu_features if f not in self.emulation.features),
            cflags=(*kept, *self.emulation.flags),
            sources=(*self.emulation.sources, *self.sources),
            emulation=None,
        )

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


def derive(
    base: Backend,
    name: str,
    summary: str,
    instructions: Instructions,
    *,
    sources: tuple[str, ...],
    replace: tuple[Kernel, ...],
    hooks: Hooks | None = None,
) -> Backend:
    """``base`` with kernels replaced: each of ``replace`` takes the place of the base's of its op, format
    and name. A format or row that none of them computes keeps the base's kernel.

    ``sources``: files under ``kernels_c``, included after the base's; of those, the ones that hold nothing
    but replaced kernels are left away. ``hooks``: None for the base's.
    """
    new = {(row.op, row.format, row.name): row for row in replace}
    rows = tuple(new.pop((row.op, row.format, row.name), row) for row in base.kernels)
    rows += tuple(new.values())
    kept = {row.template for row in rows}
    gone = {row.template for row in base.kernels if row.template not in kept}
    return Backend(
        name=name,
        summary=summary,
        cpu_features=(*base.cpu_features, *instructions.features),
        cflags=(*base.cflags, *instructions.flags),
        ldflags=base.ldflags,
        sources=(*(source for source in base.sources if source not in gone), *sources),
        kernels=rows,
        emulation=instructions.emulation,
        hooks=base.hooks if hooks is None else hooks,
        self_test=instructions.self_test or base.self_test,
    )


def available() -> dict[str, EntryPoint]:
    """Entry points of all installed backends by name, without importing them."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda p: p.name)}


def get(name: str) -> Backend:
    """The backend called ``name``; with ``_emulated`` behind the name of one that has an emulation, that.

    Raises EngineError ``backend_unknown`` if none is installed under that name,
    ``backend_invalid`` if what is installed cannot be loaded or is no backend.
    """
    points = available()
    plain = name.removesuffix(EMULATED)
    if name not in points and plain != name and plain in points:
        backend = get(plain)
        if backend.emulation is not None:
            return backend.emulated()
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


def emulation_of(name: str) -> Backend:
    """The backend called ``name`` with its instruction set emulated.

    Raises as :func:`get`, and ``no_emulation`` where it has none.
    """
    backend = get(name)
    if backend.emulation is None:
        can = [other for other in available() if get(other).emulation is not None]
        raise EngineError(
            "no_emulation",
            f"{name} has no emulated instructions",
            path="backend",
            allowed=", ".join(can),
            exit_code=EXIT_PLAN,
        )
    return backend.emulated()


def runnable(name: str) -> Backend:
    """The backend called ``name``, for code that is run here and now.

    Raises as :func:`get`, and ``unsupported_cpu`` where this CPU lacks what it needs.
    """
    backend = get(name)
    if missing := backend.missing_features(cpu_features()):
        without = f"{name}{EMULATED} runs its kernels without, slowly, for tests"
        raise EngineError(
            "unsupported_cpu",
            f"{name} needs {', '.join(missing)}, which this CPU lacks",
            path="backend",
            hint=without if backend.emulation else None,
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
