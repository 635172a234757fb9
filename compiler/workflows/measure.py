"""The error of a plan's weights, from the plan alone: what ``engine eval`` shows beside the logits'."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from compiler import declare
from compiler.model.reader import peek_model, read_model
from compiler.plan import locate_imatrix, locate_model
from compiler.plan.explain import declared_quantization
from compiler.quantize.error import TensorError, tensor_errors
from compiler.quantize.imatrix import read_importance
from compiler.quantize.recipes import FLOAT_TYPES, assign_types, kept_reason

#: ``progress(done, total)``, in weights.
Progress = Callable[[int, int], None]


def plan_errors(
    plan: str | Path | Mapping[str, Any], truth: Path | None = None, progress: Progress | None = None
) -> tuple[TensorError, ...]:
    """The error of every matrix that the plan's quantization decides about, in the file's order.

    ``truth``: the GGUF whose weights are the right ones; None: the plan's own model. Vectors, norms
    and what else stays f32 in every recipe is left out. Raises as compiling the plan's weights does,
    and ``models_differ``.
    """
    declared = declare(plan)
    path = locate_model(declared)
    model = read_model(path)
    types = assign_types(model, declared_quantization(declared))
    imatrix = locate_imatrix(declared)
    importance = None if imatrix is None else read_importance(imatrix)
    if importance is not None:
        importance.check(model)
    return tensor_errors(
        model,
        [decided for decided in types if kept_reason(model.tensors[decided.name]) is None],
        importance,
        truth=None if truth is None or truth.samefile(path) else read_model(truth),
        progress=progress,
    )


def stored_types(path: Path) -> dict[str, int]:
    """How many matrices a GGUF holds in each type, most frequent first; f32 by rule is not counted."""
    counts: dict[str, int] = {}
    for tensor in peek_model(path)[1]:
        if kept_reason(tensor) is None:
            counts[tensor.type] = counts.get(tensor.type, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def are_floats(types: Mapping[str, int]) -> bool:
    """Whether all the types are plain floats, so that nothing of the weights has been lost yet."""
    return FLOAT_TYPES.issuperset(types)
