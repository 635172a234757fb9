"""Every splitting rule (``tokenizer.ggml.pre``) cuts texts as llama.cpp does.

The vocabulary has a piece for every byte of :data:`TEXTS` and a merge for every pair of them, so that words
end up in pieces of one or two bytes and a cut in another place gives other pieces. ``pre_kinds.json`` holds
the lengths of the pieces that llama.cpp makes of each text (llama-cpp-python 0.3.36).
``python tests/tokenizer/test_pre_kinds.py FOLDER`` writes the vocabularies for recording them again.
"""

from __future__ import annotations

import json
import random
import sys
import unicodedata
from functools import cache
from pathlib import Path

import gguf
import pytest

from compiler.vocabulary.pretokenizers import PRE_KINDS, PreKind
from compiler.vocabulary.read import read_vocabulary
from compiler.vocabulary.serialize import byte_alphabet, tokenizer_json, vocabulary_json
from runtime.engine.tokenizer import Tokenizer

TEXTS = (
    "I'M you'LL We'Re don't 'tis x'S 'd'D it's 'llama he'LLo",
    "1234567890 12 123456 1 12345 v1.23.456  7",
    "a/b//c ./\n/x http://x.y/z?q=1",
    "!!!\n\n\n  x ...\n\ny",
    "  \n \n  a\t\tb\tc  ",
    "HTTPServer fooBar XMLHttp iPhone O'Neill",
    "é È ñandú ÀÉ Straße ŒUVRE",
    "北京大学12ab 漢字かなカナ 中文，标点。",
    "한국어 텍스트 привет МИР שלום",
    "(a)[b]{c}<d> $100+20=120^2|x~y`z",
    "…。，、、 hello… — “x” ‘y’",
    "   trailing   ",
    "\r\n\r\n a\r\nb\n",
    "ﬁ ﬂ Ǆ ǅ ǆ ʰʱ ½¾ Ⅷ",
    "x = foo(bar, 1)\n\n    if y:\n        return\n",
    "a" + " " * 37 + "b" + "\u2028" + " " * 8 + "c" + "\u2028" + " " * 11 + "d" + " " * 5,
    "🦙🦙 👩\u200d👧 ok 🇧🇷",
    "the quick  brown-fox_jumps  OVER",
    "e\u0301a n\u0303o मनीष ไทย",
    "\u0661\u0662\u0663\u0664 and 1234",
)
RECORDED: dict[str, list[str]] = json.loads(Path(__file__).with_name("pre_kinds.json").read_text())


def own_rule(pre: str, text: str) -> bool:
    """Where the model's own rule differs from llama.cpp's approximation of it, and ours is the model's."""
    cased = any(r"\p{Lu}" in pattern for pattern in PRE_KINDS[pre].patterns)
    marks = any(unicodedata.category(c).startswith("M") for c in text)
    digits = not text.isascii() and any(c.isdigit() for c in text)
    return (cased and marks) or (pre == "superbpe" and digits)


@cache
def vocabulary() -> tuple[list[str], list[str]]:
    """Pieces and merges: the bytes of the texts, and every pair of them in an order of no meaning."""
    alphabet = byte_alphabet()
    used = sorted({byte for text in TEXTS for byte in text.encode()})
    pairs = [(alphabet[a], alphabet[b]) for a in used for b in used]
    random.Random(5).shuffle(pairs)
    pieces = [*alphabet, *(a + b for a, b in pairs), "<|end|>"]
    return pieces, [f"{a} {b}" for a, b in pairs]


def tokenizer(pre: str) -> Tokenizer:
    pieces, merges = vocabulary()
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tuple(pieces),
        "tokenizer.ggml.token_type": (*[1] * (len(pieces) - 1), 3),
        "tokenizer.ggml.merges": tuple(merges),
        "tokenizer.ggml.bos_token_id": len(pieces) - 1,
    }
    made = read_vocabulary(metadata)
    return Tokenizer.from_files(tokenizer_json(made), vocabulary_json(made))


def distinct() -> dict[PreKind, str]:
    """One name for each rule."""
    found: dict[PreKind, str] = {}
    for name, kind in PRE_KINDS.items():
        found.setdefault(kind, name)
    return found


@pytest.mark.parametrize("pre", distinct().values())
def test_texts_are_cut_as_recorded(pre: str) -> None:
    made = tokenizer(pre)
    compared = 0
    for text, lengths in zip(TEXTS, RECORDED[pre], strict=True):
        if own_rule(pre, text):
            continue
        compared += 1
        pieces = [made.piece(i) for i in made.encode(text, add_special=False)]
        assert b"".join(pieces) == text.encode()
        assert "".join(str(len(piece)) for piece in pieces) == lengths, text
    assert compared >= len(TEXTS) - 2


def test_every_name_of_a_rule_was_recorded() -> None:
    """Names that share a row here share a rule there."""
    assert set(RECORDED) == set(PRE_KINDS)
    first = distinct()
    for name, kind in PRE_KINDS.items():
        assert RECORDED[name] == RECORDED[first[kind]], name


def test_the_recording_tells_rules_apart() -> None:
    by_lengths: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for name, lengths in RECORDED.items():
        by_lengths.setdefault(tuple(lengths), set()).add(PRE_KINDS[name].patterns)
    mixed = [patterns for patterns in by_lengths.values() if len(patterns) > 1]
    assert mixed == []


def test_words_are_taken_whole_where_the_rule_ignores_merges() -> None:
    """``abc`` is a piece that no merge makes."""
    for pre, kind in PRE_KINDS.items():
        pieces = [*byte_alphabet(), "ab", "abc"]
        metadata = {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": pre,
            "tokenizer.ggml.tokens": tuple(pieces),
            "tokenizer.ggml.merges": ("a b",),
        }
        made = read_vocabulary(metadata)
        merger = Tokenizer.from_files(tokenizer_json(made), vocabulary_json(made))
        expected = [257] if kind.ignore_merges else [256, pieces.index("c")]
        assert merger.encode("abc", add_special=False) == expected, pre


def write(folder: Path) -> None:
    """A vocabulary-only GGUF for each name, and the texts."""
    pieces, merges = vocabulary()
    for pre in PRE_KINDS:
        writer = gguf.GGUFWriter(folder / f"{pre}.gguf", "llama")
        writer.add_block_count(1)
        writer.add_context_length(32)
        writer.add_embedding_length(32)
        writer.add_head_count(1)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(pieces)
        writer.add_token_types([1] * (len(pieces) - 1) + [3])
        writer.add_token_merges(merges)
        writer.add_bos_token_id(len(pieces) - 1)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
    (folder / "texts.json").write_text(json.dumps(TEXTS))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
