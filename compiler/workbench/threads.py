"""What more threads bring on this machine, measured by a small C tool: counting CPUs does not tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from compiler.build import KERNELS, ToolLibrary, declarations, load_tool_library
from runtime.bundle.machine import Machine
from runtime.errors import EXIT_MACHINE, EngineError

#: Steps like those of models of some millions and some hundred millions of weights: phases, units
#: in each, rounds in a unit, and how many steps are timed together.
SHAPES = {"small": (40, 16, 320, 15), "large": (40, 64, 640, 3)}
ROUNDS = 7
ROUND_TRIPS = 50
#: Pairs of CPUs of which the way is timed, at most: the first CPU with others.
MOST_PAIRS = 7
#: Fewer threads are advised where more would shorten a step by less than this share.
WORTH = 0.1


@dataclass(frozen=True)
class ThreadTimes:
    """``round_trips_ns``: by pair of CPUs (None: one of them was taken); ``steps_us``: microseconds
    of a step by shape and count of threads, medians of rounds that alternate between the counts."""

    round_trips_ns: Mapping[tuple[int, int], float | None]
    steps_us: Mapping[str, Mapping[int, float]]

    def advised(self, shape: str) -> int:
        """The fewest threads that come near the shortest step of this shape."""
        times = self.steps_us[shape]
        return min(count for count, time in times.items() if time * (1 - WORTH) <= min(times.values()))


def measure_threads(machine: Machine) -> ThreadTimes:
    """Times the way between CPUs and steps on one thread up to as many as there are CPUs.

    Some 0.2 s on two CPUs. Raises ``threads_unavailable``, or as
    :func:`compiler.build.load_tool_library`, which builds the tool at its first use.
    """
    tools = KERNELS / "tools"
    needed = (KERNELS / "include", KERNELS / "threadpool.c")
    tool = load_tool_library(tools, ["threads.c"], declarations(tools / "threads.c"), include=needed)
    first, *others = machine.cpus
    trips = {
        (first, other): float(tool.lib.threads_round_trip(first, other, ROUND_TRIPS)) or None
        for other in others[:: -(-len(others) // MOST_PAIRS) or 1]
    }
    counts = counts_of_threads(machine.physical_cores, len(machine.cpus))
    return ThreadTimes(trips, {name: _steps(tool, counts, *shape) for name, shape in SHAPES.items()})


def counts_of_threads(cores: int, cpus: int) -> tuple[int, ...]:
    """The counts that are tried: powers of two, the cores, the CPUs."""
    return tuple(sorted({cores, cpus, *(2**i for i in range(cpus.bit_length()) if 2**i <= cpus)}))


def _steps(
    tool: ToolLibrary, counts: Sequence[int], phases: int, units: int, rounds: int, steps: int
) -> dict[int, float]:
    """Microseconds of a step by count of threads."""
    times: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(ROUNDS):
        for count in counts:
            probe = tool.lib.threads_open(count, phases, units, rounds)
            if not probe:
                raise EngineError(
                    "threads_unavailable", f"{count} threads could not be started", exit_code=EXIT_MACHINE
                )
            try:
                tool.lib.threads_step(probe)  # wakes them
                times[count].append(median(tool.lib.threads_step(probe) for _ in range(steps)) / 1000)
            finally:
                tool.lib.threads_close(probe)
    return {count: median(found) for count, found in times.items()}
