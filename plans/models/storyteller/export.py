"""Write a checkpoint of ``train.py`` as an F16 GGUF of the llama architecture.

    python export.py DIR ../storyteller-f16.gguf

Matrices are stored in F16, norms in F32. Rotary pairs are interleaved in training
(``model.py``), as in GGUF's llama tensors, so the rows of q and k keep their order.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import gguf
import numpy as np
import torch
from corpus import END, IM_END, IM_START, START
from model import Shape

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_vocabulary(writer: gguf.GGUFWriter, tokenizer: Path) -> None:
    """The byte-level BPE of ``tokenizer.json``: tokens in order of id, merges in order of rank."""
    data = json.loads(tokenizer.read_text(encoding="utf-8"))
    ids: dict[str, int] = data["model"]["vocab"]
    tokens = sorted(ids, key=ids.__getitem__)
    special = {START, END, IM_START, IM_END}
    types = [gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in data["model"]["merges"]])
    writer.add_bos_token_id(ids[START])
    writer.add_eos_token_id(ids[END])
    writer.add_eot_token_id(ids[IM_END])
    writer.add_pad_token_id(ids[END])
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_chat_template(TEMPLATE)


def write_parameters(writer: gguf.GGUFWriter, s: Shape) -> None:
    writer.add_name("Storyteller")
    writer.add_description("Short stories in English and Portuguese, from a grammar")
    writer.add_license("apache-2.0")
    writer.add_languages(["en", "pt"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(s.context)
    writer.add_embedding_length(s.dim)
    writer.add_block_count(s.layers)
    writer.add_feed_forward_length(s.ffn)
    writer.add_head_count(s.heads)
    writer.add_head_count_kv(s.kv_heads)
    writer.add_layer_norm_rms_eps(s.epsilon)
    writer.add_rope_dimension_count(s.head_dim)
    writer.add_rope_freq_base(s.rope_base)
    writer.add_vocab_size(s.vocabulary)


def export(work: Path, target: Path) -> None:
    state = torch.load(work / "checkpoint.pt", weights_only=True)
    beside = target.with_suffix(".part")
    writer = gguf.GGUFWriter(beside, "llama")
    write_parameters(writer, Shape(**state["shape"]))
    write_vocabulary(writer, work / "tokenizer.json")
    for name, value in state["model"].items():
        array = value.float().numpy()
        writer.add_tensor(name, array.astype(np.float16) if array.ndim == 2 else array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(beside, target)
    size = target.stat().st_size / 1e6
    print(f"{target}: step {state['step']}, {size:.1f} MB, held out {state['heldout']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="directory given to train.py")
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    export(arguments.work, arguments.target)


if __name__ == "__main__":
    main()
