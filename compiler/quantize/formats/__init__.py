"""Block formats: how a row of weights becomes bytes. One module a format, all with one interface.

Adding a format: a module with ``decode``, ``encode`` and ``FORMAT``; its row below; the C encoder
``kernels_c/tools/quantize_<name>.c`` that gives the same bytes; a packer; a kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from compiler.quantize.formats import bf16, f16, f32, q4_k, q5_0, q6_k, q8_0
from compiler.quantize.formats.block import BlockFormat

__all__ = ["FORMATS", "BlockFormat"]

#: The types that kernels exist for, by lower-case GGML name, widest first.
FORMATS: Mapping[str, BlockFormat] = MappingProxyType(
    {module.FORMAT.name: module.FORMAT for module in (f32, f16, bf16, q8_0, q6_k, q5_0, q4_k)}
)
