"""The quantization that a model's file suggests where nobody names one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from compiler.formats import FORMATS
from compiler.model.description import Tensor
from compiler.model.reader import peek_model
from compiler.quantize.recipes import EXACT, FLOAT_TYPES, check_decodable, kept_reason, stand_in

#: What matrices of plain floats become.
DEFAULT_RECIPE = "q4_k_m"


def suggested_quantization(path: Path) -> tuple[str | dict[str, Any], str | None]:
    """A plan's ``quantization`` for the model at ``path``, and what is worth telling of it.

    Floats are quantized to :data:`DEFAULT_RECIPE`. A quantized file keeps its types (recipe ``source``);
    what has no kernel is converted, which the second value says. Reads the header alone; raises
    ``model_unreadable``, ``model_part_missing``, ``bad_gguf``, ``unsupported_source_type``.
    """
    return _suggested(peek_model(path)[1])


def _suggested(tensors: Iterable[Tensor]) -> tuple[str | dict[str, Any], str | None]:
    tensors = list(tensors)
    check_decodable(tensors)
    matrices = [tensor for tensor in tensors if kept_reason(tensor) is None]
    kinds = {tensor.type for tensor in matrices}
    if kinds <= FLOAT_TYPES:
        return DEFAULT_RECIPE, None
    lacking = {kind for kind in kinds if kind not in FORMATS and kind not in EXACT}
    if not lacking:
        return "source", None
    pairs = {(t.type, stand_in(t.type, t.shape[-1])) for t in matrices if t.type in lacking}
    said = ", ".join(f"{kind} as {other}" for kind, other in sorted(pairs))
    return (
        {"recipe": "source", "requantize": True},
        f"the file's types are kept, except those without a kernel, at some loss: {said}; --quant chooses",
    )
