"""The vocabulary as the compiler knows it: frozen and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal


class TokenType(IntEnum):
    """``tokenizer.ggml.token_type`` as GGUF numbers it."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """Everything that turns text into ids and back.

    ``kind``      ``spm``: pieces merged by score, spaces written ``▁``;
                  ``bpe``: pieces merged by rank over the GPT-2 byte alphabet.
    ``pre``       the splitting rule (bpe), a key of ``pretokenizers.PRE_KINDS``; ``default`` for spm.
    ``pieces``    the text of each id, all different, none empty.
    ``scores``    one a piece (spm), else empty.
    ``merges``    pairs of pieces by ascending rank (bpe), else empty.
    ``types``     one a piece.
    ``ids``       the ids with a name (``bos``, ``eos`` …) that the model has.
    ``eos_ids``   ascending: every id that ends a generation.
    ``rstrip_ids`` special tokens that swallow the white space after them.
    ``chat_templates`` jinja2 sources by name; ``default`` is the plain one.
    """

    kind: Literal["spm", "bpe"]
    pre: str
    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    merges: tuple[tuple[str, str], ...]
    types: tuple[TokenType, ...]
    ids: Mapping[str, int]
    eos_ids: tuple[int, ...]
    rstrip_ids: tuple[int, ...]
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool
    chat_templates: Mapping[str, str]
