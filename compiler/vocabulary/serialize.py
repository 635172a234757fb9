"""Vocabulary → the two JSON files of a bundle."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from compiler.vocabulary.pretokenizers import PRE_KINDS
from compiler.vocabulary.vocabulary import TokenType, Vocabulary

#: Raised when the meaning of ``vocabulary.json`` changes; the runtime refuses others.
VOCABULARY_FORMAT = 1


def _canonical(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=False).encode()


def byte_alphabet() -> list[str]:
    """The character GPT-2's byte-level BPE writes for each byte 0..255.

    Printable Latin-1 stands for itself; the other bytes take U+0100 and up in order
    (https://github.com/openai/gpt-2, ``bytes_to_unicode``).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


#: The bytes that occur in UTF-8; some vocabularies have pieces for these alone.
UTF8_BYTES = (*range(0xC0), *range(0xC2, 0xF5))


def byte_complete(vocabulary: Vocabulary) -> bool:
    """Whether every byte of UTF-8 has a piece, so that every text has ids that give it back."""
    alphabet = byte_alphabet() if vocabulary.kind == "bpe" else [f"<0x{byte:02X}>" for byte in range(256)]
    return {alphabet[byte] for byte in UTF8_BYTES} <= set(vocabulary.pieces)


def score_merges(pieces: tuple[str, ...], scores: tuple[float, ...]) -> list[tuple[str, str]]:
    """The merges by rank that give what SentencePiece's merging by score gives.

    SentencePiece joins the two neighbours whose joint piece has the highest score,
    the leftmost of equals. Every way to write a piece as two pieces becomes a merge,
    ranked by the score of the result. Among equal scores a longer result comes
    first: pieces of one score are runs of one character in practice, and there the
    leftmost pair is the one that a merge before has just made longer.
    """
    known = dict.fromkeys(pieces)
    merges: list[tuple[float, int, int, str, str]] = []
    for piece, score in zip(pieces, scores, strict=True):
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in known and right in known:
                merges.append((-score, -len(piece), -cut, left, right))
    merges.sort()
    return [(left, right) for *_, left, right in merges]


def tokenizer_json(vocabulary: Vocabulary) -> bytes:
    """The serialization that ``tokenizers.Tokenizer.from_str`` loads.

    It tokenizes plain text only: it lists no added tokens, because whether a special
    token in a text counts is decided call by call, before the text gets here.
    """
    spm = vocabulary.kind == "spm"
    unknown = vocabulary.ids.get("unk") if spm and not byte_complete(vocabulary) else None
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    kind = None
    if spm:
        normalizer = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        merges = score_merges(vocabulary.pieces, vocabulary.scores)
    else:
        kind = PRE_KINDS[vocabulary.pre]
        merges = list(vocabulary.merges)
        steps: list[dict[str, Any]] = [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
            for pattern in kind.patterns
        ]
        steps.append(
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
        )
        pre_tokenizer = {"type": "Sequence", "pretokenizers": steps}
    return _canonical(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": None,
            "decoder": None,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None if unknown is None else vocabulary.pieces[unknown],
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": spm,
                "ignore_merges": kind is not None and kind.ignore_merges,
                "vocab": {piece: i for i, piece in enumerate(vocabulary.pieces)},
                "merges": merges,
            },
        }
    )


def vocabulary_json(vocabulary: Vocabulary) -> bytes:
    """What ``tokenizer.json`` cannot say; token types as ascending lists of ids, normal ones left out."""

    def of_type(*types: TokenType) -> Iterable[int]:
        return [i for i, t in enumerate(vocabulary.types) if t in types]

    return _canonical(
        {
            "format": VOCABULARY_FORMAT,
            "kind": vocabulary.kind,
            "pre": vocabulary.pre,
            "n_vocab": len(vocabulary.pieces),
            **{
                f"{name}_id": vocabulary.ids.get(name)
                for name in ("bos", "eos", "eot", "eom", "unk", "pad", "sep", "mask")
            },
            "eos_ids": list(vocabulary.eos_ids),
            "add_bos": vocabulary.add_bos,
            "add_eos": vocabulary.add_eos,
            "add_space_prefix": vocabulary.add_space_prefix,
            "byte_complete": byte_complete(vocabulary),
            "control": of_type(TokenType.CONTROL),
            "unknown": of_type(TokenType.UNKNOWN),
            "user_defined": of_type(TokenType.USER_DEFINED),
            "unused": of_type(TokenType.UNUSED, TokenType.UNDEFINED),
            "byte": of_type(TokenType.BYTE),
            "rstrip": list(vocabulary.rstrip_ids),
            "chat_templates": dict(vocabulary.chat_templates),
        }
    )
