"""Vocabularies for the tests: the shared real ones, and small ones made here."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from compiler.model.reader import read_model
from compiler.vocabulary import build_vocabulary, read_vocabulary
from compiler.vocabulary.serialize import byte_alphabet, tokenizer_json, vocabulary_json
from runtime.engine.tokenizer import Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
REAL = ("llama-spm", "llama-bpe", "qwen2", "gpt-2", "deepseek-llm", "phi-3", "starcoder")


def vocabulary_file(shared_data: Path, name: str) -> Path:
    return shared_data / "vocab" / f"ggml-vocab-{name}.gguf"


@cache
def real_files(shared_data: Path, name: str) -> dict[str, bytes]:
    return build_vocabulary(read_model(vocabulary_file(shared_data, name)))


@cache
def real(shared_data: Path, name: str) -> Tokenizer:
    files = real_files(shared_data, name)
    return Tokenizer.from_files(files["tokenizer.json"], files["vocabulary.json"])


def cases(shared_data: Path, name: str) -> list[tuple[str, list[int]]]:
    """(text, ids) of a vocabulary's ``.inp`` and ``.out``."""
    file = vocabulary_file(shared_data, name)
    texts = file.with_name(file.name + ".inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = file.with_name(file.name + ".out").read_text().split("\n")
    ids = [[int(i) for i in line.split()] for line in lines[: len(texts)]]
    return list(zip(texts, ids, strict=True))


def tokenizer_of(metadata: dict[str, Any]) -> Tokenizer:
    vocabulary = read_vocabulary(metadata)
    return Tokenizer.from_files(tokenizer_json(vocabulary), vocabulary_json(vocabulary))


def metadata_of(kind: str, extra: dict[str, int], **keys: Any) -> dict[str, Any]:
    """A byte-complete vocabulary; ``extra``: further pieces → type; ``keys``: ``tokenizer.ggml.*``.

    ``spm``: <unk> 0, <s> 1, </s> 2, bytes 3..258, then ``extra``, longer ones with higher scores.
    ``bpe``: the byte alphabet 0..255, then ``extra``; merges join any two neighbours
    that are pieces.
    """
    if kind == "spm":
        pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *extra]
        types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *extra.values()]
        scores = [0.0] * 259 + [float(len(piece)) - 100 - i / 1000 for i, piece in enumerate(extra)]
        metadata: dict[str, Any] = {
            "model": "llama",
            "scores": tuple(scores),
            "bos_token_id": 1,
            "eos_token_id": 2,
            "unknown_token_id": 0,
        }
    else:
        pieces = [*byte_alphabet(), *extra]
        types = [NORMAL] * 256 + list(extra.values())
        merges = [
            f"{piece[:cut]} {piece[cut:]}"
            for piece, kind_of in extra.items()
            if kind_of == NORMAL
            for cut in range(1, len(piece))
            if piece[:cut] in pieces and piece[cut:] in pieces
        ]
        metadata = {"model": "gpt2", "pre": "gpt-2", "merges": tuple(merges)}
    metadata |= {"tokens": tuple(pieces), "token_type": tuple(types)} | keys
    named = {f"tokenizer.ggml.{key}": value for key, value in metadata.items() if value is not None}
    return {"general.architecture": "llama", **named}


SPM_PIECES = {"▁": NORMAL, "a": NORMAL, "b": NORMAL, "▁a": NORMAL, "ab": NORMAL, "▁▁": NORMAL, "é": NORMAL}
