"""The C encoders and packers, on rows that lie in memory.

The functions release the interpreter's lock while they work, so threads of Python run them side by
side. ``kernels_c/tools/quantize.h`` states their contract; :mod:`compiler.quantize.formats` defines
the bytes they give.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import cffi
import numpy as np
import numpy.typing as npt

from compiler.build import TOOL_FLAGS, ToolLibrary, declarations, load_tool_library
from compiler.kernels import PANEL_ROWS, panel_bytes
from compiler.model.description import Tensor
from compiler.model.reader import decode
from compiler.quantize.formats import FORMATS
from compiler.quantize.formats.block import Bytes, Floats
from runtime.errors import EXIT_MODEL, EngineError

_KERNELS = Path(__file__).resolve().parent.parent.parent / "kernels_c"
_ENCODERS = (
    "quantize_float.c",
    "quantize_q8_0.c",
    "quantize_q5_0.c",
    "quantize_q6_k.c",
    "quantize_q4_k.c",
)
_E_NONFINITE, _E_RANGE = 2, 3


@cache
def library() -> ToolLibrary:
    """Encoders and packers, built once a toolchain. Raises as ``load_tool_library`` does."""
    tools = _KERNELS / "tools"
    cdef = "".join(declarations(tools / name) for name in ("quantize.h", "pack.c"))
    return load_tool_library(
        tools,
        (*_ENCODERS, "pack.c"),
        cdef,
        include=(_KERNELS / "include",),
        flags=(*TOOL_FLAGS, "-fvisibility=default"),
    )


def source_files() -> tuple[Path, ...]:
    """The C files that decide the bytes of encoded and packed weights."""
    names = (*_ENCODERS, "quantize.h", "lanes.h", "symmetric.h", "pack.c")
    return (*(_KERNELS / "tools" / name for name in names), _KERNELS / "include" / "packed.h")


def widen(raw: Bytes, tensor: Tensor) -> Floats:
    """Rows as stored, ``uint8 (rows, row_bytes)`` → ``float32 (rows, k)``, exact.

    Raises ``unsupported_tensor_type`` where the type cannot be decoded.
    """
    if tensor.type == "f32":
        return raw.view(np.float32)
    if tensor.type in FORMATS and FORMATS[tensor.type].quantized:
        return dequantize(raw, tensor.type, tensor.shape[-1])
    if tensor.type not in ("f16", "bf16"):
        return decode(raw, tensor)
    ffi, lib = library().ffi, library().lib
    out = np.empty((len(raw), raw.shape[1] // 2), np.float32)
    function = lib.widen_f16 if tensor.type == "f16" else lib.widen_bf16
    function(_address(ffi, raw, "uint8_t *"), out.size, _address(ffi, out, "float *"))
    return out


def encode(
    x: Floats, format: str, importance: Floats | None = None, *, name: str = "", begin: int = 0
) -> Bytes:
    """``float32 (rows, k)`` → blocks of ``format``, ``uint8 (rows, row_bytes)``.

    ``importance``: the weight of each column's squared error, ``float32 (k,)``, positive. ``name`` and
    ``begin``, the tensor and its first row here, are for errors: ``weight_not_finite`` and
    ``weight_out_of_range`` name the tensor, row and column.
    """
    ffi, lib = library().ffi, library().lib
    rows, k = x.shape
    out = np.empty((rows, FORMATS[format].row_bytes(k)), np.uint8)
    x = np.ascontiguousarray(x, np.float32)
    weights: Any = ffi.NULL
    if importance is not None:
        importance = np.ascontiguousarray(importance, np.float32)
        if importance.shape != (k,):
            raise ValueError(f"importance of {importance.shape} for rows of {k}")
        weights = _address(ffi, importance, "float *")
    function = getattr(lib, f"quantize_{format}")
    status = function(_address(ffi, x, "float *"), weights, rows, k, _address(ffi, out, "uint8_t *"))
    if status in (_E_NONFINITE, _E_RANGE):
        raise _bad_weight(x, format, name, begin, status == _E_NONFINITE)
    if status:
        raise ValueError(f"rows of {k} in {format}: status {status}")
    return out


def dequantize(rows: Bytes, format: str, k: int) -> Floats:
    """Blocks of a quantized ``format``, ``uint8 (rows, row_bytes)`` → ``float32 (rows, k)``."""
    ffi, lib = library().ffi, library().lib
    rows = np.ascontiguousarray(rows)
    out = np.empty((len(rows), k), np.float32)
    function = getattr(lib, f"dequantize_{format}")
    function(_address(ffi, rows, "uint8_t *"), len(rows), k, _address(ffi, out, "float *"))
    return out


def pack(rows: Bytes, format: str, k: int) -> Bytes:
    """Rows of blocks → panels of 16 rows, ``uint8 (panels * panel_bytes,)``; rows that the last panel
    lacks are zeros. Layouts: ``kernels_c/include/packed.h``."""
    ffi, lib = library().ffi, library().lib
    missing = -len(rows) % PANEL_ROWS
    if missing:
        rows = np.concatenate([rows, np.zeros((missing, rows.shape[1]), np.uint8)])
    rows = np.ascontiguousarray(rows)
    size = panel_bytes(format, k)
    out = np.empty(len(rows) // PANEL_ROWS * size, np.uint8)
    function = getattr(lib, f"pack_{format}")
    source, target = _address(ffi, rows, "uint8_t *"), _address(ffi, out, "uint8_t *")
    row_bytes = rows.shape[1]
    for panel in range(len(rows) // PANEL_ROWS):
        function(source + panel * PANEL_ROWS * row_bytes, row_bytes, k, target + panel * size)
    return out


def _address(ffi: cffi.FFI, array: npt.NDArray[Any], kind: str) -> Any:
    return ffi.cast(kind, array.ctypes.data)


def _bad_weight(x: Floats, format: str, name: str, begin: int, nonfinite: bool) -> EngineError:
    bad = ~np.isfinite(x) if nonfinite else np.abs(x) > FORMATS[format].limit
    row, column = (int(i) for i in np.argwhere(bad)[0])
    what = f"{name or 'a tensor'} holds {x[row, column]:g} in row {begin + row}, column {column}"
    if nonfinite:
        return EngineError(
            "weight_not_finite",
            what,
            hint="the file is damaged or its conversion failed",
            exit_code=EXIT_MODEL,
        )
    return EngineError(
        "weight_out_of_range",
        f"{what}, too large for {format}",
        allowed=f"magnitudes up to {FORMATS[format].limit:g}",
        hint="give this tensor the type bf16 or f32 with an override",
        exit_code=EXIT_MODEL,
    )
