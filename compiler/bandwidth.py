"""The read bandwidth of this machine, measured by a small C tool."""

from __future__ import annotations

from pathlib import Path

from compiler.build import load_tool_library

_TOOLS = Path(__file__).resolve().parents[1] / "kernels_c" / "tools"
_SOURCE = "bandwidth.c"

#: Far larger than a core's share of any cache, small enough to be had.
BUFFER_BYTES = 256 << 20


def read_bandwidth(threads: int, bytes: int = BUFFER_BYTES, passes: int = 2) -> float | None:
    """Bytes per second that ``threads`` read together from memory; None if memory was refused.

    Builds the tool at its first use; raises as :func:`compiler.build.load_tool_library`.
    """
    text = (_TOOLS / _SOURCE).read_text("utf-8")
    cdef = text.split("/* cdef-begin */")[1].split("/* cdef-end */")[0]
    tool = load_tool_library(_TOOLS, [_SOURCE], cdef)
    checksum = tool.ffi.new("uint64_t *")
    return float(tool.lib.read_bandwidth(threads, bytes, passes, checksum)) or None
