"""Make a llama of any size with random weights: a valid GGUF to measure and to test with.

    python tests/benchmarks/make_llama.py model.gguf                 1.24 B, F16, 2.5 GB
    python tests/benchmarks/make_llama.py tiny.gguf --dim 256 --layers 2 --ffn 512 \\
        --heads 4 --kv-heads 2 --vocabulary 1024
    … --experts 8 --experts-used 2                                   Mixtral's tensors

The weights are normal with the scale that keeps every activation near one: a projection's
deviation is 1/sqrt(inputs), the two that write to the residual stream are smaller by
sqrt(2 layers), attention scores have a deviation near one, and logits near three, so that
neither softmax is flat or decided by one entry. The vocabulary is a byte-level BPE made
of syllables, in the form of Llama 3's (``llama-bpe``).

Everything is a function of the seed, and is written in blocks of rows: memory stays small.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

BLOCK_VALUES = 1 << 22
LETTERS = "etaoinsrhldcumfpgwybvkxjqz"
NAMED = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
TYPES = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "bf16": gguf.GGMLQuantizationType.BF16,
}
FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
}


@dataclass(frozen=True)
class Shape:
    """Sizes of the model; the defaults are those of Llama 3.2 1B."""

    dim: int = 2048
    layers: int = 16
    ffn: int = 8192
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 64
    vocabulary: int = 128256
    context: int = 131072
    rope_base: float = 500000.0
    experts: int = 0
    experts_used: int = 0
    type: str = "f16"
    seed: int = 0


@dataclass(frozen=True)
class TensorPlan:
    """A tensor to be: ``shape`` outermost first; values ``mean + deviation * normal``."""

    name: str
    shape: tuple[int, ...]
    deviation: float
    mean: float = 0.0
    type: str = "f32"


def tensors(s: Shape) -> Iterator[TensorPlan]:
    """Every tensor of the file, in the file's order."""

    def matrix(name: str, shape: tuple[int, ...], scale: float = 1.0) -> TensorPlan:
        return TensorPlan(f"{name}.weight", shape, scale * shape[-1] ** -0.5, type=s.type)

    def norm(name: str, mean: float = 1.0) -> TensorPlan:
        return TensorPlan(f"{name}.weight", (s.dim,), 0.1 * mean, mean)

    residual = (2 * s.layers) ** -0.5
    q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
    # logits = gain * normalized state · embedding row: deviation 3 at gain 3 with rows of norm one
    yield matrix("token_embd", (s.vocabulary, s.dim))
    yield norm("output_norm", 3.0)
    for n in range(s.layers):
        yield norm(f"blk.{n}.attn_norm")
        yield matrix(f"blk.{n}.attn_q", (q, s.dim))
        yield matrix(f"blk.{n}.attn_k", (kv, s.dim))
        yield matrix(f"blk.{n}.attn_v", (kv, s.dim))
        yield matrix(f"blk.{n}.attn_output", (s.dim, q), 2 * residual)
        yield norm(f"blk.{n}.ffn_norm")
        if s.experts:
            # the router stays in F32, as llama.cpp writes it
            yield TensorPlan(f"blk.{n}.ffn_gate_inp.weight", (s.experts, s.dim), s.dim**-0.5)
            yield matrix(f"blk.{n}.ffn_gate_exps", (s.experts, s.ffn, s.dim))
            yield matrix(f"blk.{n}.ffn_up_exps", (s.experts, s.ffn, s.dim))
            yield matrix(f"blk.{n}.ffn_down_exps", (s.experts, s.dim, s.ffn), 3 * residual)
        else:
            yield matrix(f"blk.{n}.ffn_gate", (s.ffn, s.dim))
            yield matrix(f"blk.{n}.ffn_up", (s.ffn, s.dim))
            yield matrix(f"blk.{n}.ffn_down", (s.dim, s.ffn), 3 * residual)


def blocks(plan: TensorPlan, rng: np.random.Generator) -> Iterator[bytes]:
    """The tensor's bytes in pieces of at most BLOCK_VALUES values; the pieces' size does not
    change the values, for they are drawn in order from one generator."""
    left = int(np.prod(plan.shape))
    while left:
        count = min(left, BLOCK_VALUES)
        left -= count
        values = rng.standard_normal(count, dtype=np.float32)
        values *= np.float32(plan.deviation)
        values += np.float32(plan.mean)
        if plan.type == "f16":
            values = values.astype(np.float16)
        elif plan.type == "bf16":
            bits = values.view(np.uint32)
            values = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        yield values.tobytes()


def vocabulary(size: int) -> tuple[list[str], list[str], int]:
    """``(tokens, merges, specials)``: bytes, then syllables, then ``specials`` control tokens.

    Every merge joins two tokens that come before its result, so any text has a
    segmentation and every token but the control tokens can be reached.
    """
    specials = 256 if size >= 4096 else 16
    tokens = sorted(ByteLevel.alphabet())
    ordinary = size - specials
    if ordinary < len(tokens):
        raise SystemExit(f"--vocabulary must be at least {len(tokens) + specials}")
    merges: list[str] = []
    pairs = ["".join(p) for p in itertools.product(LETTERS, repeat=2)]
    # A token may be the result of one merge only: prefix spaces go to pairs, further
    # letters to the right.
    joined = itertools.chain(
        itertools.product(LETTERS, LETTERS),
        (("Ġ", p) for p in pairs),
        itertools.product((f"Ġ{p}" for p in pairs), LETTERS),
        itertools.product(pairs, LETTERS),
        itertools.product(pairs, pairs),
    )
    for left, right in itertools.islice(joined, ordinary - len(tokens)):
        merges.append(f"{left} {right}")
        tokens.append(left + right)
    reserved = (f"<|reserved_special_token_{n}|>" for n in itertools.count())
    tokens += itertools.islice(itertools.chain(NAMED, reserved), specials)
    if len(tokens) != size:
        raise SystemExit(f"--vocabulary can be at most {len(tokens)}")
    return tokens, merges, specials


def write_header(writer: gguf.GGUFWriter, s: Shape) -> None:
    tokens, merges, specials = vocabulary(s.vocabulary)
    writer.add_name("Random Llama")
    writer.add_file_type(FILE_TYPES[s.type])
    writer.add_context_length(s.context)
    writer.add_embedding_length(s.dim)
    writer.add_block_count(s.layers)
    writer.add_feed_forward_length(s.ffn)
    writer.add_head_count(s.heads)
    writer.add_head_count_kv(s.kv_heads)
    writer.add_key_length(s.head_dim)
    writer.add_value_length(s.head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(s.head_dim)
    writer.add_rope_freq_base(s.rope_base)
    writer.add_vocab_size(s.vocabulary)
    if s.experts:
        writer.add_expert_count(s.experts)
        writer.add_expert_used_count(s.experts_used)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    ordinary = len(tokens) - specials
    writer.add_token_types([gguf.TokenType.NORMAL] * ordinary + [gguf.TokenType.CONTROL] * specials)
    writer.add_token_merges(merges)
    for name, add in zip(
        ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"),
        (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_eot_token_id),
        strict=True,
    ):
        add(tokens.index(name, ordinary))
    writer.add_add_bos_token(True)
    writer.add_chat_template(TEMPLATE)


def make(target: Path, s: Shape) -> None:
    """Write the model to ``target`` (beside it first, then renamed into place)."""
    if s.heads % s.kv_heads:
        raise SystemExit("--heads must be a multiple of --kv-heads")
    if bool(s.experts) != bool(s.experts_used) or s.experts_used > s.experts:
        raise SystemExit("--experts and --experts-used go together, and no more can be used than there are")
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(target.name + ".part")
    writer = gguf.GGUFWriter(beside, "llama")
    write_header(writer, s)
    plans = list(tensors(s))
    for plan in plans:
        kind = TYPES[plan.type]
        width = gguf.GGML_QUANT_SIZES[kind][1]
        size = int(np.prod(plan.shape)) * width
        writer.add_tensor_info(plan.name, plan.shape, np.dtype(np.float32), size, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    (out,) = writer.fout
    for number, plan in enumerate(plans):
        out.write(b"\0" * (-out.tell() % writer.data_alignment))
        for piece in blocks(plan, np.random.Generator(np.random.SFC64([s.seed, number]))):
            out.write(piece)
    out.write(b"\0" * (-out.tell() % writer.data_alignment))
    writer.close()
    os.replace(beside, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path)
    for name, value in Shape().__dict__.items():
        flag = "--" + name.replace("_", "-")
        if name == "type":
            parser.add_argument(flag, choices=sorted(TYPES), default=value)
        else:
            parser.add_argument(flag, type=type(value), default=value, help=f"default {value}")
    arguments = vars(parser.parse_args())
    target = arguments.pop("target")
    shape = Shape(**arguments)
    make(target, shape)
    count = sum(int(np.prod(p.shape)) for p in tensors(shape))
    print(f"{target}: {count / 1e9:.3f} B parameters, {target.stat().st_size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
