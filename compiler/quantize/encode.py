"""The C encoders and packers, on rows that lie in memory.

The functions release the interpreter's lock while they work, so threads of Python run them side by
side. ``kernels_c/tools/quantize.h`` states their contract; :mod:`compiler.formats` defines
the bytes they give.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import cffi
import numpy as np
import numpy.typing as npt

from compiler.build import KERNELS, TOOL_FLAGS, ToolLibrary, declarations, load_tool_library
from compiler.formats import FORMATS, PANEL_ROWS, panel_bytes
from compiler.formats.parts.record import Bytes, Floats
from compiler.model.description import Tensor
from compiler.model.reader import decode
from runtime.errors import EXIT_MODEL, EngineError

#: The files with the formats' encoders and decoders, and with their packers.
_ENCODERS = tuple(dict.fromkeys(format.quantizer_source for format in FORMATS.values()))
_PACKERS = tuple(format.packer_source for format in FORMATS.values())
_E_NONFINITE, _E_RANGE = 2, 3


@cache
def library() -> ToolLibrary:
    """Encoders and packers, built once a toolchain. Raises as ``load_tool_library`` does."""
    tools = KERNELS / "tools"
    return load_tool_library(
        tools,
        (*_ENCODERS, *_PACKERS),
        tool_declarations(),
        include=(KERNELS / "include",),
        flags=(*TOOL_FLAGS, "-fvisibility=default"),
    )


def tool_declarations() -> str:
    """The C functions of all formats, for cffi; their contract is in ``quantize.h`` and ``pack.h``."""
    rows = "int64_t rows, int64_t k"
    lines = [declarations(KERNELS / "tools" / "quantize.h")]
    for name, format in FORMATS.items():
        if format.encode is not None:
            lines.append(
                f"int32_t quantize_{name}(const float *x, const float *importance, {rows}, uint8_t *out);"
            )
        lines.append(f"void dequantize_{name}(const uint8_t *in, {rows}, float *out);")
        lines.append(
            f"void pack_{name}(const uint8_t *rows16, int64_t row_bytes, int64_t k, uint8_t *panel);"
        )
    return "\n".join(lines)


def source_files() -> tuple[Path, ...]:
    """The C files that decide the bytes of encoded and packed weights."""
    tools = (*_ENCODERS, *_PACKERS, "quantize.h", "lanes.h", "symmetric.h", "pack.h")
    headers = ("packed.h", *(format.packed_header for format in FORMATS.values()))
    return (*(KERNELS / "tools" / n for n in tools), *(KERNELS / "include" / n for n in headers))


def widen(raw: Bytes, tensor: Tensor) -> Floats:
    """Rows as stored, ``uint8 (rows, row_bytes)`` → ``float32 (rows, k)``, exact.

    Raises ``unsupported_tensor_type`` where the type cannot be decoded.
    """
    if tensor.type in FORMATS:
        return dequantize(raw, tensor.type, tensor.shape[-1])
    return decode(raw, tensor)


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
    """Blocks of ``format``, ``uint8 (rows, row_bytes)`` → ``float32 (rows, k)``."""
    ffi, lib = library().ffi, library().lib
    rows = np.ascontiguousarray(rows)
    out = np.empty((len(rows), k), np.float32)
    function = getattr(lib, f"dequantize_{format}")
    function(_address(ffi, rows, "uint8_t *"), len(rows), k, _address(ffi, out, "float *"))
    return out


def pack(rows: Bytes, format: str, k: int) -> Bytes:
    """Rows of blocks → panels of 16 rows, ``uint8 (panels * panel_bytes,)``; rows that the last panel
    lacks are zeros. Layouts: ``kernels_c/include/packed_<format>.h``."""
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


def _wider(format: str) -> list[str]:
    """The formats that hold larger weights, the narrowest and the widest of them."""
    limit = FORMATS[format].limit
    floats = [name for name, other in FORMATS.items() if not other.quantized and other.limit > limit]
    return list(dict.fromkeys((floats[-1], floats[0]))) if floats else [format]


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
        hint=f"give this tensor the type {' or '.join(_wider(format))} with an override",
        exit_code=EXIT_MODEL,
    )
