"""What is wrong with a vocabulary is found before anything is built from it, and named."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from vocabularies import CONTROL, NORMAL, SPM_PIECES, metadata_of, tokenizer_of

from compiler.model.description import ModelDescription, Tensor
from compiler.vocabulary import build_vocabulary, read_vocabulary
from compiler.vocabulary.pretokenizers import PRE_KINDS
from runtime.engine.tokenizer import Tokenizer
from runtime.errors import EXIT_MODEL, EngineError

SPM = metadata_of("spm", SPM_PIECES)
BPE = metadata_of("bpe", {"ab": NORMAL})
N = len(SPM["tokenizer.ggml.tokens"])


def refusal(metadata: dict[str, Any]) -> EngineError:
    with pytest.raises(EngineError) as error:
        read_vocabulary(metadata)
    assert error.value.exit_code == EXIT_MODEL
    assert error.value.path is not None
    assert error.value.path.startswith("tokenizer.")
    return error.value


def changed(metadata: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return metadata | {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


def replaced(values: tuple[Any, ...], at: int, value: Any) -> tuple[Any, ...]:
    return (*values[:at], value, *values[at + 1 :])


TOKENS, SCORES = SPM["tokenizer.ggml.tokens"], SPM["tokenizer.ggml.scores"]
TYPES = SPM["tokenizer.ggml.token_type"]
LONG = "x" * (1 << 20)

FAULTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no pieces": (changed(SPM, tokens=()), "tokens", "no pieces"),
    "pieces not an array": (changed(SPM, tokens="abc"), "tokens", "array"),
    "a piece that is a number": (changed(SPM, tokens=replaced(TOKENS, 5, 7)), "tokens", "piece 5"),
    "a piece that is twice there": (changed(SPM, tokens=replaced(TOKENS, 260, "b")), "tokens", "260 and 261"),
    "a piece of a megabyte": (
        changed(SPM, tokens=replaced(TOKENS, 260, "x" * (1 << 20))),
        "tokens",
        "1048576",
    ),
    "a piece that is not UTF-8": (changed(SPM, tokens=replaced(TOKENS, 260, "\udc80")), "tokens", "UTF-8"),
    "too many pieces": (changed(SPM, tokens=("x",) * ((1 << 20) + 1)), "tokens", "1048577 pieces"),
    "a byte piece that is no byte": (changed(SPM, tokens=replaced(TOKENS, 3, "<0xZZ>")), "tokens", "byte"),
    "a byte piece too long": (changed(SPM, tokens=replaced(TOKENS, 3, "<0x000>")), "tokens", "byte"),
    "byte pieces missing, no unknown id": (
        changed(SPM, tokens=replaced(TOKENS, 3, "zz"), token_type=replaced(TYPES, 3, 1), unknown_token_id=-1),
        "tokens",
        "byte pieces are missing",
    ),
    "fewer types than pieces": (changed(SPM, token_type=TYPES[:-1]), "token_type", f"{N - 1} types"),
    "a type of 99": (changed(SPM, token_type=replaced(TYPES, 4, 99)), "token_type", "99"),
    "fewer scores than pieces": (changed(SPM, scores=SCORES[:-1]), "scores", f"{N - 1} scores"),
    "more scores than pieces": (changed(SPM, scores=(*SCORES, 0.0)), "scores", f"{N + 1} scores"),
    "a score that is NaN": (changed(SPM, scores=replaced(SCORES, 9, float("nan"))), "scores", "piece 9"),
    "an infinite score": (changed(SPM, scores=replaced(SCORES, 9, float("-inf"))), "scores", "piece 9"),
    "no scores": ({k: v for k, v in SPM.items() if "scores" not in k}, "scores", "needs scores"),
    "bos beyond the end": (changed(SPM, bos_token_id=N), "bos_token_id", "outside"),
    "a negative eos": (changed(SPM, eos_token_id=-7), "eos_token_id", "outside"),
    "an id that is text": (changed(SPM, eos_token_id="2"), "eos_token_id", "not an id"),
    "add_bos that is no truth value": (changed(SPM, add_bos_token=1), "add_bos_token", "truth"),
    "add_bos without bos": (changed(BPE, add_bos_token=True), "add_bos_token", "does not name"),
    "no merges": ({k: v for k, v in BPE.items() if "merges" not in k}, "merges", "needs merges"),
    "a merge of one piece": (changed(BPE, merges=("ab",)), "merges", "merge 0"),
    "a merge of three pieces": (changed(BPE, merges=("a b c",)), "merges", "merge 0"),
    "a merge with an empty side": (changed(BPE, merges=("a ",)), "merges", "merge 0"),
    "a merge of a missing piece": (changed(BPE, merges=("a b", "ab zz")), "merges", "merge 1"),
    "a merge into a missing piece": (changed(BPE, merges=("b a",)), "merges", "'ba'"),
    "a million merges": (changed(BPE, merges=("a b",) * 1_000_000), "merges", "1000000 merges"),
    "a template that is a number": (SPM | {"tokenizer.chat_template": 3}, "chat_template", "text"),
    "a template of a megabyte": (
        SPM | {"tokenizer.chat_template": "x" * (1 << 20)},
        "chat_template",
        "1048576",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_it_is_refused_with_the_key_and_what_is_wrong(fault: str) -> None:
    metadata, key, message = FAULTS[fault]
    begin = time.process_time()
    error = refusal(metadata)
    assert error.path is not None
    assert key in error.path
    assert message in error.message
    assert time.process_time() - begin < 1


def test_an_unknown_splitting_rule_is_refused_with_those_known() -> None:
    error = refusal(changed(BPE, pre="gpt-5"))
    assert error.code == "vocabulary_unsupported"
    assert error.allowed is not None
    assert all(name in error.allowed for name in PRE_KINDS)


@pytest.mark.parametrize("model", ["bert", "t5", "rwkv", "no_vocab", "something else", 7])
def test_other_kinds_of_vocabulary_are_refused_by_name(model: object) -> None:
    error = refusal(changed(SPM, model=model))
    assert error.code == "vocabulary_unsupported"
    assert error.allowed is not None
    assert "gpt2" in error.allowed


def test_a_file_without_a_vocabulary_is_refused() -> None:
    assert refusal({"general.architecture": "llama"}).code == "vocabulary_missing"


@pytest.mark.parametrize("pre", PRE_KINDS)
def test_every_known_splitting_rule_loads_and_round_trips(pre: str) -> None:
    tokenizer = tokenizer_of(changed(BPE, pre=pre, bos_token_id=0))
    text = "Hello  WORLD's 12345 ½ não 漢字かな \t\r\n\n  x_y…  "
    assert tokenizer.decode(tokenizer.encode(text, add_special=False)) == text


def model_of(metadata: dict[str, Any], rows: int) -> ModelDescription:
    table = Tensor("token_embd.weight", (rows, 8), "f32", Path("m.gguf"), 0, rows * 32)
    return ModelDescription(Path("m.gguf"), (), "llama", "m", metadata, {table.name: table}, "00")


@pytest.mark.parametrize("metadata", [SPM, BPE], ids=["spm", "bpe"])
def test_further_rows_of_the_embedding_are_ids_without_text(metadata: dict[str, Any]) -> None:
    n = len(metadata["tokenizer.ggml.tokens"])
    files = build_vocabulary(model_of(metadata, n + 64))
    padded = Tokenizer.from_files(files["tokenizer.json"], files["vocabulary.json"])
    assert padded.n_vocab == n + 64
    assert padded.decode([n, n + 63, 97]) == padded.decode([97])
    assert padded.encode("ab [PAD300] é漢") == tokenizer_of(metadata).encode("ab [PAD300] é漢")


@pytest.mark.parametrize("rows", [N - 1, 1, 1 << 24])
def test_an_embedding_that_cannot_hold_the_vocabulary_is_refused(rows: int) -> None:
    with pytest.raises(EngineError, match=f"{N} pieces"):
        build_vocabulary(model_of(SPM, rows))


def test_unnamed_ids_get_a_name_of_their_own() -> None:
    vocabulary = read_vocabulary(metadata_of("bpe", {"": NORMAL, "<e>": CONTROL}))
    assert vocabulary.pieces[256] == "[EMPTY_256]"


def test_of_a_repeated_merge_the_first_counts() -> None:
    assert read_vocabulary(changed(BPE, merges=("a b", "a b"))).merges == (("a", "b"),)


def test_an_absent_id_may_be_written_as_minus_one() -> None:
    assert "bos" not in read_vocabulary(changed(BPE, bos_token_id=0xFFFFFFFF)).ids
