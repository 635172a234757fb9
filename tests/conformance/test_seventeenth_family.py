"""A family added by one YAML file (``compiler/architectures/command-r.yaml``) and this test.

``command-r.logits.npz`` holds what llama.cpp computed (llama-cpp-python 0.3.36, float weights, float
cache) for the model that ``write_command_r`` makes; ``python -m tests.conformance.test_seventeenth_family
FILE`` writes that model for computing them again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conformance.conftest import nmse, plan_of, run_logits, runnable_backends
from tests.tiny_models import decoder_shapes, write_model

STORED = Path(__file__).parent / "command-r.logits.npz"


def write_command_r(path: Path) -> Path:
    metadata = {
        "context_length": 256,
        "embedding_length": 256,
        "block_count": 2,
        "feed_forward_length": 384,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.layer_norm_epsilon": 1e-5,
        "rope.freq_base": 10000.0,
        "logit_scale": 0.0625,
    }
    shapes = decoder_shapes(width=256, heads=4, kv_heads=2, ffn=384, layers=2, ffn_norm=False)
    return write_model(path, "command-r", metadata, shapes, seed=17)


@pytest.mark.parametrize("backend", runnable_backends())
def test_a_family_described_in_one_file_agrees(
    backend: str, tmp_path: Path, compiled: Callable[..., Path]
) -> None:
    stored = np.load(STORED)
    bundle = compiled(plan_of(write_command_r(tmp_path / "command-r.gguf"), "f32", backend))
    assert nmse(run_logits(bundle, stored["tokens"]), stored["logits"]) <= 1e-6


if __name__ == "__main__":
    write_command_r(Path(sys.argv[1]))
