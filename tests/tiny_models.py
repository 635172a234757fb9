"""Whole small models, made from a seed: a byte-level vocabulary and a decoder of any family."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

VOCABULARY = 272


def byte_vocabulary() -> tuple[list[str], list[int], list[str]]:
    """Tokens, token types and merges of a byte-level BPE: 256 bytes, 15 pairs, one end mark."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {b: chr(b) for b in printable}
    others = [b for b in range(256) if b not in letters]
    letters |= {b: chr(256 + i) for i, b in enumerate(others)}
    tokens = [letters[b] for b in range(256)]
    space = letters[32]
    pairs = [*((space, c) for c in "taoswci")]
    pairs += [("h", "e"), ("i", "n"), ("e", "r"), ("a", "n"), ("r", "e")]
    pairs += [("o", "n"), ("a", "t"), (f"{space}t", "he")]
    tokens += [a + b for a, b in pairs] + ["<|end|>"]
    kinds = [int(gguf.TokenType.NORMAL)] * (len(tokens) - 1) + [int(gguf.TokenType.CONTROL)]
    return tokens, kinds, [f"{a} {b}" for a, b in pairs]


def write_model(
    path: Path,
    architecture: str,
    metadata: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    seed: int = 0,
    type: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    given: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Random weights of sensible scale for ``shapes`` (outermost first); vectors float32, norms near 1.

    ``given``: further tensors by their values.
    """
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    for key, value in metadata.items():
        kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
        kinds[str] = writer.add_string
        kinds[value.__class__](f"{architecture}.{key}", value)
    tokens, kinds, merges = byte_vocabulary()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(len(tokens) - 1)
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_add_bos_token(False)
    for name, shape in shapes.items():
        values = rng.standard_normal(shape).astype(np.float32)
        if len(shape) == 1:
            values = (1.0 if name.endswith("norm.weight") else 0.0) + 0.1 * values
            writer.add_tensor(name, values.astype(np.float32))
            continue
        scale = 1.0 if name == "token_embd.weight" else shape[-1] ** -0.5
        values *= np.float32(scale)
        writer.add_tensor(name, gguf.quants.quantize(values, type), raw_dtype=type)
    for name, values in (given or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def decoder_shapes(
    *, width: int, heads: int, kv_heads: int, ffn: int, layers: int, ffn_norm: bool = True
) -> dict[str, tuple[int, ...]]:
    """Tensors of an ordinary gated decoder with tied embeddings."""
    head_dim = width // heads
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (VOCABULARY, width),
        "output_norm.weight": (width,),
    }
    for i in range(layers):
        block = {
            "attn_norm.weight": (width,),
            "attn_q.weight": (width, width),
            "attn_k.weight": (kv_heads * head_dim, width),
            "attn_v.weight": (kv_heads * head_dim, width),
            "attn_output.weight": (width, width),
            "ffn_norm.weight": (width,),
            "ffn_gate.weight": (ffn, width),
            "ffn_up.weight": (ffn, width),
            "ffn_down.weight": (width, ffn),
        }
        shapes |= {f"blk.{i}.{name}": s for name, s in block.items() if ffn_norm or name != "ffn_norm.weight"}
    return shapes


def write_llama(
    path: Path,
    *,
    layers: int = 2,
    seed: int = 0,
    ffn: int = 512,
    type: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    **more: Any,
) -> Path:
    """A llama of width 256 (K-quants apply), 4 heads over 2, trained context 512."""
    metadata = {
        "context_length": 512,
        "embedding_length": 256,
        "block_count": layers,
        "feed_forward_length": ffn,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 10000.0,
        **more,
    }
    shapes = decoder_shapes(width=256, heads=4, kv_heads=2, ffn=ffn, layers=layers)
    return write_model(path, "llama", metadata, shapes, seed=seed, type=type)


def write_moe(path: Path, *, experts: int = 4, used: int = 2, seed: int = 3) -> Path:
    """A Mixtral of two layers and width 256, expert rows of 384."""
    shapes = decoder_shapes(width=256, heads=4, kv_heads=2, ffn=384, layers=2)
    for layer in range(2):
        for name in ("ffn_gate", "ffn_up", "ffn_down"):
            shape = shapes.pop(f"blk.{layer}.{name}.weight")
            shapes[f"blk.{layer}.{name}_exps.weight"] = (experts, *shape)
        shapes[f"blk.{layer}.ffn_gate_inp.weight"] = (experts, 256)
    metadata = {
        "context_length": 512,
        "embedding_length": 256,
        "block_count": 2,
        "feed_forward_length": 384,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "expert_count": experts,
        "expert_used_count": used,
    }
    return write_model(path, "llama", metadata, shapes, seed=seed)
