"""Small GGUF files, made for each test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

Maker = Callable[..., Path]


@pytest.fixture(scope="session")
def write_model() -> Maker:
    """``write_model(path, split=0)`` writes a little llama of a few tensors with ordinary metadata."""

    def write(path: Path, split: int = 0, seed: int = 0) -> Path:
        writer = gguf.GGUFWriter(path, "llama", split_max_tensors=split)
        writer.add_name("tiny")
        writer.add_context_length(128)
        writer.add_block_count(1)
        writer.add_head_count(4)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_array("llama.head_kinds", [1, 2, 3])
        writer.add_bool("llama.finetuned", True)
        writer.add_token_list(["<s>", "olá", "▁mundo", "𝄞"])
        writer.add_token_scores([0.0, -1.0, -2.0, -3.5])
        rng = np.random.default_rng(seed)
        for name, shape in {
            "token_embd.weight": (4, 64),
            "blk.0.attn_q.weight": (64, 64),
            "output_norm.weight": (64,),
        }.items():
            writer.add_tensor(name, rng.standard_normal(shape).astype(np.float32))
        experts = rng.standard_normal((2, 3, 64)).astype(np.float32)
        writer.add_tensor("blk.0.ffn_up_exps.weight", experts.astype(np.float16))
        packed = gguf.quants.quantize(experts, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor("blk.0.ffn_down_exps.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


@pytest.fixture(scope="session")
def model_bytes(write_model: Maker, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of the little model."""
    return write_model(tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()
