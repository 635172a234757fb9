"""Tiny models, one for each word of ``family.schema.json`` that no shared model speaks, from their seeds."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.tiny_models import VOCABULARY, write_model

WIDTH, HEADS, KV_HEADS, HEAD_DIM, FFN = 64, 4, 2, 16, 96
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Case:
    """A model; ``layer``: the tensors of each layer, ``dense``: those of the first ones where they differ."""

    architecture: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    layer: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dense: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dense_layers: int = 0
    whole: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    given: Mapping[str, np.ndarray] = field(default_factory=dict)
    layers: int = 2
    context: int = 64


def norm(name: str, bias: bool = False) -> Shapes:
    return {f"{name}.weight": (WIDTH,)} | ({f"{name}.bias": (WIDTH,)} if bias else {})


def attention(
    bias: bool = False, out_bias: bool = False, head: int = HEAD_DIM, kv_heads: int = KV_HEADS
) -> Shapes:
    rows = {"attn_q": HEADS * head, "attn_k": kv_heads * head, "attn_v": kv_heads * head}
    shapes: Shapes = {f"{name}.weight": (n, WIDTH) for name, n in rows.items()}
    shapes |= {f"{name}.bias": (n,) for name, n in rows.items()} if bias else {}
    shapes["attn_output.weight"] = (WIDTH, HEADS * head)
    return shapes | ({"attn_output.bias": (WIDTH,)} if out_bias else {})


def fused_attention(bias: bool = False) -> Shapes:
    rows = (HEADS + 2 * KV_HEADS) * HEAD_DIM
    shapes: Shapes = {"attn_qkv.weight": (rows, WIDTH), "attn_output.weight": (WIDTH, WIDTH)}
    return shapes | ({"attn_qkv.bias": (rows,)} if bias else {})


def ffn(gate: bool = True, bias: bool = False, fused: bool = False) -> Shapes:
    shapes: Shapes = {"ffn_gate.weight": (FFN, WIDTH)} if gate else {}
    shapes |= {"ffn_up.weight": ((2 if fused else 1) * FFN, WIDTH), "ffn_down.weight": (WIDTH, FFN)}
    return shapes | ({"ffn_up.bias": (FFN,), "ffn_down.bias": (WIDTH,)} if bias else {})


def experts(count: int = 4, hidden: int = 32, shared: int = 0) -> Shapes:
    shapes: Shapes = {
        "ffn_gate_inp.weight": (count, WIDTH),
        "ffn_gate_exps.weight": (count, hidden, WIDTH),
        "ffn_up_exps.weight": (count, hidden, WIDTH),
        "ffn_down_exps.weight": (count, WIDTH, hidden),
    }
    if shared:
        shapes |= {
            "ffn_gate_shexp.weight": (shared, WIDTH),
            "ffn_up_shexp.weight": (shared, WIDTH),
            "ffn_down_shexp.weight": (WIDTH, shared),
        }
    return shapes


def pair(bias: bool = False) -> Shapes:
    return norm("attn_norm", bias) | norm("ffn_norm", bias)


PLAIN = pair() | attention() | ffn()
MOE = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 32}
HEAD_NORMS = (
    pair()
    | attention(kv_heads=HEADS)
    | {"attn_q_norm.weight": (HEAD_DIM,), "attn_k_norm.weight": (HEAD_DIM,)}
)
OUTPUT = {"output.weight": (VOCABULARY, WIDTH)}
BOTH_NORMS = pair() | norm("post_attention_norm") | norm("post_ffw_norm")


def _factors(seed: int, low: float, high: float, pairs: int = HEAD_DIM // 2) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, pairs).astype(np.float32)


LONGROPE = {
    "rope_factors_long.weight": _factors(1, 1.0, 40.0),
    "rope_factors_short.weight": _factors(2, 1.0, 1.5),
}
GRANITE = {"embedding_scale": 12.0, "residual_scale": 1.5, "attention.scale": 2.0, "logit_scale": 8.0}

CASES: dict[str, Case] = {
    "llama-rope-factors": Case("llama", layer=PLAIN, given={"rope_freqs.weight": _factors(3, 1.0, 8.0)}),
    "phi3-long-factors": Case(
        "phi3",
        {"rope.scaling.original_context_length": 32, "rope.scaling.attn_factor": 1.19},
        pair() | fused_attention() | ffn(gate=False, fused=True),
        whole=OUTPUT,
        given=LONGROPE,
    ),
    "phi3-short-factors": Case(
        "phi3",
        {"rope.scaling.original_context_length": 512, "rope.scaling.attn_factor": 1.19},
        pair() | fused_attention() | ffn(gate=False, fused=True),
        whole=OUTPUT,
        given=LONGROPE,
    ),
    "mistral3-yarn": Case(
        "mistral3",
        {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 16.0,
            "rope.scaling.original_context_length": 64,
            "rope.scaling.yarn_log_multiplier": 1.0,
            "rope.scaling.yarn_beta_fast": 8.0,
            "attention.temperature_scale": 0.1,
        },
        PLAIN,
    ),
    "olmo3-yarn": Case(
        "olmo2",
        {
            "attention.head_count_kv": HEADS,
            "attention.sliding_window": 8,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 8.0,
            "rope.scaling.original_context_length": 32,
        },
        norm("post_attention_norm")
        | norm("post_ffw_norm")
        | attention(kv_heads=HEADS)
        | {"attn_q_norm.weight": (WIDTH,), "attn_k_norm.weight": (WIDTH,)}
        | ffn(),
        whole=OUTPUT,
        layers=4,
    ),
    "smollm3-nope-layer": Case("smollm3", layer=PLAIN, layers=4),
    "gemma2-scale-by-layers": Case(
        "gemma2",
        {
            "attention.key_length": 32,
            "attention.value_length": 32,
            "attention.sliding_window": 8,
            "attn_logit_softcapping": 20.0,
            "final_logit_softcapping": 5.0,
        },
        BOTH_NORMS | attention(head=32) | ffn(),
        layers=46,
    ),
    "gemma3-window-base": Case(
        "gemma3",
        {
            "attention.key_length": HEAD_DIM,
            "attention.value_length": HEAD_DIM,
            "attention.sliding_window": 8,
            "rope.freq_base": 1e6,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
        },
        BOTH_NORMS
        | attention()
        | ffn()
        | {"attn_q_norm.weight": (HEAD_DIM,), "attn_k_norm.weight": (HEAD_DIM,)},
        layers=7,
    ),
    "granite-scales": Case("granite", GRANITE, PLAIN),
    "granite-no-rotation": Case("granite", {**GRANITE, "rope.scaling.finetuned": False}, PLAIN),
    "granitemoe-shared": Case(
        "granitemoe",
        {**GRANITE, **MOE, "feed_forward_length": 32, "expert_shared_feed_forward_length": 48},
        pair() | attention() | experts(shared=48),
    ),
    "arcee-relu2": Case("arcee", layer=pair() | attention() | ffn(gate=False)),
    "nemotron-relu2": Case(
        "nemotron",
        {"rope.dimension_count": 8},
        pair(bias=True) | attention(bias=True, out_bias=True) | ffn(gate=False, bias=True),
        whole={"output_norm.bias": (WIDTH,), **OUTPUT},
    ),
    "dots1-sigmoid-experts": Case(
        "dots1",
        {
            **MOE,
            "attention.head_count_kv": HEADS,
            "leading_dense_block_count": 1,
            "expert_shared_count": 2,
            "expert_gating_func": 2,
            "expert_weights_norm": True,
            "expert_weights_scale": 2.5,
        },
        HEAD_NORMS | experts(shared=64),
        HEAD_NORMS | ffn(),
        1,
        whole=OUTPUT,
        layers=3,
    ),
    "deepseek-shared-experts": Case(
        "deepseek",
        {**MOE, "leading_dense_block_count": 1, "expert_shared_count": 2, "expert_weights_scale": 1.0},
        pair() | attention() | experts(shared=64),
        PLAIN,
        1,
        whole=OUTPUT,
        layers=3,
    ),
    "olmoe": Case(
        "olmoe",
        {**MOE, "feed_forward_length": 32, "attention.head_count_kv": HEADS},
        pair()
        | attention(kv_heads=HEADS)
        | {"attn_q_norm.weight": (WIDTH,), "attn_k_norm.weight": (WIDTH,)}
        | experts(),
        whole=OUTPUT,
    ),
    "internlm2": Case("internlm2", layer=PLAIN, whole=OUTPUT),
    "xverse": Case("xverse", layer=PLAIN, whole=OUTPUT),
    "orion": Case(
        "orion", layer=pair(bias=True) | attention() | ffn(), whole={"output_norm.bias": (WIDTH,), **OUTPUT}
    ),
    "exaone": Case("exaone", layer=PLAIN, whole=OUTPUT),
    "phi2-one-norm": Case(
        "phi2",
        {"rope.dimension_count": 8},
        norm("attn_norm", bias=True) | attention(bias=True, out_bias=True) | ffn(gate=False, bias=True),
        whole={"output_norm.bias": (WIDTH,), "output.bias": (VOCABULARY,), **OUTPUT},
    ),
    "glm4": Case(
        "glm4",
        {"rope.dimension_count": 8},
        BOTH_NORMS | attention(bias=True) | ffn(gate=False, fused=True),
        whole=OUTPUT,
    ),
    "chatglm": Case(
        "chatglm",
        {"rope.dimension_count": 8},
        pair() | fused_attention(bias=True) | ffn(gate=False, fused=True),
        whole=OUTPUT,
    ),
    "command-r-plus": Case(
        "command-r",
        {"logit_scale": 0.5},
        norm("attn_norm")
        | attention()
        | {"attn_q_norm.weight": (HEADS, HEAD_DIM), "attn_k_norm.weight": (KV_HEADS, HEAD_DIM)}
        | ffn(),
        layers=64,
    ),
    "ernie4_5": Case("ernie4_5", layer=PLAIN),
    "codeshell": Case(
        "codeshell",
        layer=pair(bias=True)
        | fused_attention(bias=True)
        | {"attn_output.bias": (WIDTH,)}
        | ffn(gate=False, bias=True),
        whole={"output_norm.bias": (WIDTH,), **OUTPUT},
    ),
}


def tokens(case: Case, count: int = 40) -> np.ndarray:
    return np.random.default_rng(len(case.architecture)).integers(0, 256, count)


def write_case(path: Path, case: Case, seed: int = 29) -> Path:
    metadata = {
        "context_length": 128,
        "embedding_length": WIDTH,
        "block_count": case.layers,
        "feed_forward_length": FFN,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.layer_norm_epsilon": 1e-5,
        "rope.freq_base": 10000.0,
        **case.metadata,
    }
    shapes: Shapes = {"token_embd.weight": (VOCABULARY, WIDTH), "output_norm.weight": (WIDTH,), **case.whole}
    for i in range(case.layers):
        block = case.dense if i < case.dense_layers else case.layer
        shapes |= {f"blk.{i}.{name}": shape for name, shape in block.items()}
    return write_model(path, case.architecture, metadata, shapes, seed=seed, given=case.given)


if __name__ == "__main__":
    for case_name, case in CASES.items():
        write_case(Path(sys.argv[1]) / f"{case_name}.gguf", case)
        np.savetxt(Path(sys.argv[1]) / f"{case_name}.txt", tokens(case)[None], fmt="%d", delimiter=",")
