"""The multiply-adds this machine can do with a backend's instructions, measured by a small C tool."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any

from compiler import backends
from compiler.build import KERNELS, declarations, load_tool_library
from compiler.formats import FORMATS
from runtime.errors import EXIT_MACHINE, EngineError

#: Bits of a weight's code in the formats there are; 0: floats.
WIDTHS = tuple(sorted({0, *(format.code_bits for format in FORMATS.values())}))


@dataclass(frozen=True)
class Peak:
    """Multiply-adds per second, and the instructions that reach them, in words."""

    rate: float
    loop: str


class PeakProbe:
    """Loops of multiply-adds on registers (``tools/peak.c``), compiled with the flags of ``backend``, on
    ``threads`` of the engine's threads: what no kernel of the backend can beat.

    One thread at a time may use it.
    """

    def __init__(self, backend: str, threads: int) -> None:
        """Raises ``backend_unknown``, ``unsupported_cpu``, ``threads_unavailable``, or as building does."""
        chosen = backends.runnable(backend)
        tools = KERNELS / "tools"
        cdef = declarations(tools / "peak.c")
        needed = (KERNELS / "include", KERNELS / "threadpool.c")
        tool = load_tool_library(tools, ["peak.c"], cdef, include=needed, flags=chosen.cflags)
        self._ffi: Any = tool.ffi
        self._lib: Any = tool.lib
        self._probe: Any = self._lib.peak_open(threads)
        if not self._probe:
            raise EngineError(
                "threads_unavailable", f"{threads} threads could not be started", exit_code=EXIT_MACHINE
            )

    def measure(self, rounds: int = 3) -> dict[int, Peak]:
        """The fastest loop by the width of the weights' codes in bits (:data:`WIDTHS`; 0: floats), each
        the best of so many passes. Narrow codes can be added up before they are widened."""
        best: dict[int, Peak] = {}
        for _ in range(rounds):
            for loop in range(self._lib.peak_loops()):
                bits = int(self._lib.peak_bits(loop))
                name = self._ffi.string(self._lib.peak_loop(loop)).decode("ascii")
                peak = Peak(float(self._lib.peak_pass(self._probe, loop)), name)
                for width in WIDTHS:
                    right = width == bits == 0 or 0 < width <= bits
                    if right and (width not in best or peak.rate > best[width].rate):
                        best[width] = peak
        return best

    def close(self) -> None:
        """Stops the threads. Harmless when repeated."""
        if self._probe:
            self._lib.peak_close(self._probe)
            self._probe = None

    def __enter__(self) -> PeakProbe:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
