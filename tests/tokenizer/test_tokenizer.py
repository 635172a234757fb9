"""The tokenizer's promises on small vocabularies, where every id can be told by eye."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vocabularies import (
    CONTROL,
    NORMAL,
    SPM_PIECES,
    UNUSED,
    USER_DEFINED,
    metadata_of,
    tokenizer_of,
)

from runtime.engine.tokenizer import Tokenizer
from runtime.errors import EngineError

SPM = tokenizer_of(metadata_of("spm", SPM_PIECES | {"<mark>": USER_DEFINED, "<|im_end|>": NORMAL}))
BPE = tokenizer_of(
    metadata_of(
        "bpe",
        {"ab": NORMAL, "Ġa": NORMAL, "abb": NORMAL, "<|x|>": CONTROL, "<|x|>y": USER_DEFINED, "gone": UNUSED},
        bos_token_id=259,
        add_bos_token=True,
    )
)
TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="▁"), max_size=60)


def pieces(tokenizer: Tokenizer, text: str, **switches: bool) -> list[str]:
    return tokenizer.pieces(tokenizer.encode(text, **switches))


def test_a_sentencepiece_text_begins_with_a_space_and_bos() -> None:
    assert pieces(SPM, "ab") == ["<s>", " a", "b"]
    assert pieces(SPM, "ab", add_special=False) == [" a", "b"]
    assert pieces(SPM, "") == ["<s>"]
    assert pieces(SPM, "", add_special=False) == []


def test_the_highest_score_merges_first() -> None:
    """``▁a`` and ``ab`` both fit; ``ab`` comes later in the list, so its score is lower."""
    assert pieces(SPM, "ab", add_special=False) == [" a", "b"]
    better = tokenizer_of(metadata_of("spm", dict(reversed(SPM_PIECES.items()))))
    assert pieces(better, "ab", add_special=False) == [" ", "ab"]


def test_unknown_characters_become_bytes_and_come_back() -> None:
    assert pieces(SPM, "é漢", add_special=False) == [" ", "é", "\\xe6", "\\xbc", "\\xa2"]
    assert SPM.decode(SPM.encode("é漢")) == "<s>é漢"


def test_user_defined_tokens_always_match_and_control_ones_on_request() -> None:
    assert pieces(SPM, "a<mark>b", add_special=False) == [" a", "<mark>", " ", "b"]
    assert "</s>" not in pieces(SPM, "a</s>", add_special=False)
    assert pieces(SPM, "a</s>", add_special=False, parse_special=True) == [" a", "</s>"]


def test_an_end_of_turn_typed_as_text_is_still_a_control_token() -> None:
    end = SPM.encode("<|im_end|>", add_special=False, parse_special=True)
    assert len(end) == 1
    assert end[0] in SPM.eos_ids & SPM.special_ids
    assert end[0] not in SPM.encode("<|im_end|>")


def test_the_longest_special_token_wins() -> None:
    assert pieces(BPE, "<|x|>y<|x|>z", parse_special=True) == ["<|x|>", "<|x|>y", "<|x|>", "z"]


def test_add_bos_and_add_eos_follow_the_file() -> None:
    both = metadata_of("spm", SPM_PIECES, add_bos_token=False, add_eos_token=True)
    assert pieces(tokenizer_of(both), "a") == [" a", "</s>"]
    assert pieces(BPE, "ab") == ["<|x|>", "ab"]


def test_add_space_prefix_follows_the_file() -> None:
    bare = tokenizer_of(metadata_of("spm", SPM_PIECES, add_space_prefix=False))
    assert pieces(bare, "ab", add_special=False) == ["ab"]
    assert bare.decode(bare.encode(" a", add_special=False)) == " a"


@pytest.mark.parametrize("tokenizer", [SPM, BPE], ids=["spm", "bpe"])
@settings(max_examples=200, deadline=None)
@given(text=TEXT, parse_special=st.booleans())
def test_any_text_round_trips_whole_and_streamed(
    tokenizer: Tokenizer, text: str, parse_special: bool
) -> None:
    ids = tokenizer.encode(text, add_special=False, parse_special=parse_special)
    assert tokenizer.decode(ids) == text
    stream = tokenizer.stream()
    assert "".join([*map(stream.push, ids), stream.flush()]) == text


@pytest.mark.parametrize("tokenizer", [SPM, BPE], ids=["spm", "bpe"])
@settings(max_examples=200, deadline=None)
@given(data=st.data(), skip_special=st.booleans(), continuation=st.booleans())
def test_a_stream_of_any_ids_equals_decode_and_never_breaks_a_character(
    tokenizer: Tokenizer, data: st.DataObject, skip_special: bool, continuation: bool
) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.n_vocab - 1), max_size=30))
    stream = tokenizer.stream(skip_special, continuation=continuation)
    shown = [*map(stream.push, ids), stream.flush()]
    assert "".join(shown) == tokenizer.decode(ids, skip_special, continuation=continuation)


def test_a_character_in_three_tokens_is_shown_with_the_third() -> None:
    ids = SPM.encode("漢", add_special=False)
    stream = SPM.stream()
    assert [stream.push(i) for i in ids] == ["", "", "", "漢"]
    assert stream.flush() == ""


def test_an_unfinished_character_shows_as_a_replacement_at_the_end() -> None:
    ids = SPM.encode("漢", add_special=False)[:-1]
    stream = SPM.stream()
    assert "".join(map(stream.push, ids)) == ""
    assert stream.flush() == "\ufffd" == SPM.decode(ids)


def test_a_continuation_keeps_its_leading_space() -> None:
    ids = SPM.encode("a", add_special=False)
    assert SPM.decode(ids) == "a"
    assert SPM.decode(ids, continuation=True) == " a"


def test_skip_special_leaves_control_tokens_out() -> None:
    ids = SPM.encode("a<mark>a</s>", parse_special=True)
    assert SPM.decode(ids) == "<s>a<mark>a</s>"
    assert SPM.decode(ids, skip_special=True) == "a<mark>a"


def test_unused_ids_have_no_bytes() -> None:
    assert BPE.piece(261) == b""


@pytest.mark.parametrize("token", [-1, 1 << 20])
def test_ids_outside_the_vocabulary_are_an_error(token: int) -> None:
    with pytest.raises(EngineError, match="outside the vocabulary") as error:
        SPM.decode([token])
    assert error.value.code == "token_out_of_range"


def test_a_lone_surrogate_is_an_error() -> None:
    with pytest.raises(EngineError) as error:
        SPM.encode("a\ud800")
    assert error.value.code == "text_invalid"


def test_an_incomplete_vocabulary_says_so() -> None:
    metadata = metadata_of("bpe", {})
    few = {**metadata, "tokenizer.ggml.tokens": ("a", "b"), "tokenizer.ggml.token_type": (1, 1)}
    tokenizer = tokenizer_of(few)
    assert not tokenizer.byte_complete
    assert tokenizer.encode("abc") == [0, 1]
    with_unknown = tokenizer_of(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": ("?", "a", "▁"),
            "tokenizer.ggml.scores": (0.0, -1.0, -2.0),
            "tokenizer.ggml.unknown_token_id": 0,
            "tokenizer.ggml.add_bos_token": False,
        }
    )
    assert with_unknown.encode("ax") == [2, 1, 0]


@pytest.mark.parametrize(
    ("merger", "vocabulary"),
    [
        (b"", b""),
        (b"{}", b"{}"),
        (b"\xff", b'{"format": 1}'),
        (b'{"model": 1}', b'{"format": 2}'),
        (b"[]", b"[]"),
    ],
)
def test_damaged_files_are_refused(merger: bytes, vocabulary: bytes) -> None:
    with pytest.raises(EngineError) as error:
        Tokenizer.from_files(merger, vocabulary)
    assert error.value.code == "tokenizer_damaged"


@pytest.mark.parametrize("tokenizer", [SPM, BPE], ids=["spm", "bpe"])
def test_a_long_text_is_merged_without_holding_others_and_to_the_same_ids(tokenizer, monkeypatch) -> None:
    text = "ab abb ç<|x|>a" * 20
    ids = tokenizer.encode(text)
    monkeypatch.setattr("runtime.engine.tokenizer.LONG_TEXT", 1)
    assert tokenizer.encode(text) == ids
