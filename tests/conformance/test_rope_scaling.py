"""Stretched rotations agree with what llama.cpp computes for the same files.

``yarn.logits.npz`` and ``linear.logits.npz`` come from llama-cpp-python 0.3.36 (float weights, float
cache) and the models that :func:`model` writes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conformance.conftest import nmse, plan_of, run_logits
from tests.tiny_models import write_llama

SCALINGS = {
    "yarn": {"rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64},
    "linear": {"rope.scaling.factor": 4.0},
}


def model(path: Path, kind: str) -> Path:
    return write_llama(path, seed=21, **{"rope.scaling.type": kind, **SCALINGS[kind]})


@pytest.mark.parametrize("kind", SCALINGS)
def test_scaled_rotation_agrees(kind: str, tmp_path: Path, compiled: Callable[..., Path]) -> None:
    stored = np.load(Path(__file__).parent / f"{kind}.logits.npz")
    bundle = compiled(plan_of(model(tmp_path / f"{kind}.gguf", kind), "f32", "reference"))
    assert nmse(run_logits(bundle, stored["tokens"]), stored["logits"]) <= 1e-6
