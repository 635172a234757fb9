"""The read bandwidth of this machine, measured by a small C tool: what decode cannot beat."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from compiler.build import KERNELS, ToolLibrary, declarations, load_tool_library
from runtime.bundle.machine import Machine
from runtime.errors import EXIT_FAILURE, EXIT_MACHINE, EngineError

_TOOLS = KERNELS / "tools"
_SOURCE = "bandwidth.c"

#: Far above any cache. Less is taken where this is more than a quarter of what memory is left.
BUFFER_BYTES = 1 << 30
#: Loops that a measurement runs: the fastest of so many looks at all of them.
KEPT_LOOPS = 4
FIRST_LOOKS = 2


class BandwidthProbe:
    """A buffer in memory, and loops that read all of it on ``threads`` of the engine's threads.

    Opening it maps and fills the buffer and looks at every loop there is (``read_loops.c``);
    :meth:`measure` may then be called between rounds of something else, and costs a few passes.
    One thread at a time may use it.

    ``bytes``  size of the buffer.
    ``loop``   what the fastest loop of the last measurement does, in words.
    """

    def __init__(self, threads: int, size: int | None = None) -> None:
        """``size``: bytes of the buffer, by default :data:`BUFFER_BYTES` or what memory allows.

        Builds the tool at its first use; raises as :func:`compiler.build.load_tool_library`,
        or ``bandwidth_unknown`` where the memory or the threads are refused.
        """
        if size is None:
            size = min(BUFFER_BYTES, (Machine.probe().memory_available or BUFFER_BYTES) // 4)
        self._tool = _tool()
        self._probe: Any = self._tool.lib.bandwidth_open(threads, size)
        if not self._probe:
            raise EngineError(
                "bandwidth_unknown",
                f"{threads} threads and {size >> 20} MiB to read were refused",
                hint="free memory, lower the threads, or do without the bandwidth",
                exit_code=EXIT_MACHINE,
            )
        self.threads = threads
        self.bytes = int(self._tool.lib.bandwidth_bytes(self._probe))
        loops = range(int(self._tool.lib.bandwidth_loops()))
        looks = [[self._pass(loop) for loop in loops] for _ in range(FIRST_LOOKS)]
        best = [max(rates) for rates in zip(*looks, strict=True)]
        self._kept = sorted(loops, key=lambda loop: -best[loop])[:KEPT_LOOPS]
        self.loop = self._name(self._kept[0])

    def measure(self, rounds: int = 3) -> float:
        """Bytes per second: the fastest pass of so many with each of the fastest loops."""
        best = 0.0
        for _ in range(rounds):
            for loop in self._kept:
                rate = self._pass(loop)
                if rate > best:
                    best, self.loop = rate, self._name(loop)
        return best

    def _pass(self, loop: int) -> float:
        rate = float(self._tool.lib.bandwidth_pass(self._probe, loop))
        if rate <= 0:
            raise EngineError(
                "bandwidth_unknown",
                "memory did not hold what was written to it",
                hint="test the memory of this machine",
                exit_code=EXIT_FAILURE,
            )
        return rate

    def _name(self, loop: int) -> str:
        ffi: Any = self._tool.ffi
        return str(ffi.string(self._tool.lib.bandwidth_loop(loop)).decode("ascii"))

    def close(self) -> None:
        """Gives the memory back. Harmless when repeated."""
        if self._probe:
            self._tool.lib.bandwidth_close(self._probe)
            self._probe = None

    def __enter__(self) -> BandwidthProbe:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _tool() -> ToolLibrary:
    cdef = declarations(_TOOLS / _SOURCE)
    needed = (KERNELS / "include", KERNELS / "threadpool.c")
    return load_tool_library(_TOOLS, [_SOURCE, "read_loops.c"], cdef, include=needed)
