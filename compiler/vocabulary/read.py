"""GGUF metadata → :class:`Vocabulary`, refusing what is malformed.

Every count is bounded before anything is built from it; every id is checked
against the number of pieces; every refusal names the metadata key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NoReturn

from compiler.model.description import MetadataValue
from compiler.vocabulary.pretokenizers import PRE_KINDS
from compiler.vocabulary.serialize import byte_complete
from compiler.vocabulary.vocabulary import TokenType, Vocabulary
from runtime.errors import EXIT_MODEL, EngineError

#: Bounds far above any published vocabulary (the largest have about 262,000 pieces
#: and 515,000 merges), low enough that a hostile file costs seconds, not memory.
MAX_PIECES = 1 << 20
MAX_MERGES = 900_000
MAX_PIECE_CHARS = 1024
MAX_TEXT_CHARS = 1 << 24
MAX_TEMPLATE_CHARS = 1 << 18
MAX_TEMPLATES = 16

_KEY = "tokenizer.ggml."
_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>\Z")
_NAMED_IDS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "eot": "eot_token_id",
    "eom": "eom_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",  # spelt so in the GGUF specification
    "pad": "padding_token_id",
    "mask": "mask_token_id",
}
#: What SentencePiece models of the llama family use where the file names no id.
_SPM_DEFAULT_IDS = {"unk": 0, "bos": 1, "eos": 2}

#: Pieces that end an answer or a turn in the model families that have them, whatever
#: type the file gives them: a file may name one of them and the model emit another. The
#: last two rows are marks between files and gaps in code, which no answer goes on after.
END_PIECES = (
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>"),
    *("<|end_of_text|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<｜end▁of▁sentence｜>", "<end_of_utterance>"),
    *("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    *("<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>"),
)
#: Also an end where the file types it as special; elsewhere it is four characters of HTML.
_END_IF_SPECIAL = "</s>"
_REFUSED_MODELS = {
    "bert": "WordPiece (bert)",
    "t5": "Unigram (t5)",
    "rwkv": "RWKV",
    "plamo2": "PLaMo-2",
    "no_vocab": "no vocabulary at all",
    "none": "no vocabulary at all",
}


def read_vocabulary(metadata: Mapping[str, MetadataValue]) -> Vocabulary:
    """The vocabulary that ``tokenizer.*`` metadata describes.

    Raises EngineError: ``vocabulary_missing``, ``vocabulary_unsupported`` (kind or
    ``pre`` unknown, with those known), ``vocabulary_invalid`` (anything malformed).
    """
    model = _kind(metadata)
    pieces = _pieces(metadata)
    types = _types(metadata, pieces)
    ids = _ids(metadata, len(pieces), spm=model == "llama")
    by_text = {piece: i for i, piece in enumerate(pieces)}
    ends = _ends(by_text, types, ids)
    pre = "default"
    scores: tuple[float, ...] = ()
    merges: tuple[tuple[str, str], ...] = ()
    if model == "llama":
        scores = _scores(metadata, len(pieces))
        default_bos, default_prefix = True, True
    else:
        pre = _pre(metadata)
        merges = _merges(metadata, by_text)
        default_bos, default_prefix = PRE_KINDS[pre].add_bos and "bos" in ids, False
    vocabulary = Vocabulary(
        kind="spm" if model == "llama" else "bpe",
        pre=pre,
        pieces=pieces,
        scores=scores,
        merges=merges,
        types=tuple(types),
        ids=ids,
        eos_ids=tuple(sorted(ends)),
        rstrip_ids=_rstrip(metadata, pieces, types),
        add_bos=_flag(metadata, "add_bos_token", default_bos, needs="bos", ids=ids),
        add_eos=_flag(metadata, "add_eos_token", False, needs="eos", ids=ids),
        add_space_prefix=_flag(metadata, "add_space_prefix", default_prefix),
        chat_templates=_templates(metadata),
    )
    if model == "llama" and "unk" not in ids and not byte_complete(vocabulary):
        _refuse(
            "byte pieces are missing and there is no unknown id, so some text has no ids",
            "tokens",
            allowed="<0x00> to <0xFF>, or tokenizer.ggml.unknown_token_id",
        )
    return vocabulary


def _kind(metadata: Mapping[str, MetadataValue]) -> str:
    model = metadata.get(_KEY + "model")
    if model is None:
        _refuse("the file carries no vocabulary", "model", code="vocabulary_missing")
    if model not in ("llama", "gpt2"):
        what = _REFUSED_MODELS.get(str(model), repr(model)[:60])
        _refuse(
            f"vocabularies of kind {what} are not supported",
            "model",
            code="vocabulary_unsupported",
            allowed="llama (SentencePiece BPE), gpt2 (byte-level BPE)",
        )
    return str(model)


def _ends(by_text: Mapping[str, int], types: list[TokenType], ids: Mapping[str, int]) -> set[int]:
    """Ids that end an answer; those typed as ordinary text become control tokens in ``types``."""
    ends = {by_text[piece] for piece in END_PIECES if piece in by_text}
    slash_s = by_text.get(_END_IF_SPECIAL)
    if slash_s is not None and types[slash_s] in (TokenType.CONTROL, TokenType.USER_DEFINED):
        ends.add(slash_s)
    for end in ends:
        # An end of turn typed as ordinary text would be matched inside a user's words.
        if types[end] in (TokenType.NORMAL, TokenType.UNDEFINED, TokenType.USER_DEFINED):
            types[end] = TokenType.CONTROL
    ends.update(ids[name] for name in ("eos", "eot", "eom") if name in ids)
    return ends


def _refuse(
    message: str,
    key: str,
    *,
    code: str = "vocabulary_invalid",
    allowed: str | None = None,
    hint: str | None = None,
) -> NoReturn:
    path = key if key.startswith("tokenizer.") else _KEY + key
    raise EngineError(code, message, path=path, allowed=allowed, hint=hint, exit_code=EXIT_MODEL)


def _array(metadata: Mapping[str, MetadataValue], key: str) -> Sequence[MetadataValue] | None:
    value = metadata.get(_KEY + key)
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Sequence):
        _refuse("must be an array", key)
    return value


def _utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _pieces(metadata: Mapping[str, MetadataValue]) -> tuple[str, ...]:
    values = _array(metadata, "tokens")
    if not values:
        _refuse("the vocabulary has no pieces", "tokens", code="vocabulary_missing")
    if len(values) > MAX_PIECES:
        _refuse(f"{len(values)} pieces", "tokens", allowed=f"at most {MAX_PIECES}")
    pieces: list[str] = []
    seen: dict[str, int] = {}
    total = 0
    for i, value in enumerate(values):
        if not isinstance(value, str):
            _refuse(f"piece {i} is not a string", "tokens")
        if len(value) > MAX_PIECE_CHARS:
            _refuse(f"piece {i} has {len(value)} characters", "tokens", allowed=f"at most {MAX_PIECE_CHARS}")
        total += len(value)
        # Unnamed ids are padding of the embedding table; a name of their own keeps them apart.
        piece = value or f"[EMPTY_{i}]"
        if not _utf8(piece):
            _refuse(f"piece {i} is not valid UTF-8", "tokens")
        if (first := seen.setdefault(piece, i)) != i:
            _refuse(f"ids {first} and {i} have the same piece {piece[:60]!r}", "tokens")
        pieces.append(piece)
    if total > MAX_TEXT_CHARS:
        _refuse(f"{total} characters of pieces", "tokens", allowed=f"at most {MAX_TEXT_CHARS}")
    return tuple(pieces)


def _types(metadata: Mapping[str, MetadataValue], pieces: Sequence[str]) -> list[TokenType]:
    values = _array(metadata, "token_type")
    if values is None:
        return [TokenType.NORMAL] * len(pieces)
    if len(values) != len(pieces):
        _refuse(f"{len(values)} types for {len(pieces)} pieces", "token_type", allowed="one a piece")
    known = {int(t): t for t in TokenType}
    types: list[TokenType] = []
    for i, value in enumerate(values):
        if not isinstance(value, int) or value not in known:
            _refuse(f"piece {i} has the type {value!r}", "token_type", allowed="0 to 6")
        types.append(known[value])
        if types[-1] is TokenType.BYTE and not _BYTE_PIECE.match(pieces[i]):
            _refuse(
                f"piece {i} is typed as a byte but reads {pieces[i][:60]!r}",
                "tokens",
                allowed="<0x00> to <0xFF>",
            )
    return types


def _scores(metadata: Mapping[str, MetadataValue], n: int) -> tuple[float, ...]:
    values = _array(metadata, "scores")
    if values is None:
        _refuse("a SentencePiece vocabulary needs scores", "scores", code="vocabulary_missing")
    if len(values) != n:
        _refuse(f"{len(values)} scores for {n} pieces", "scores", allowed="one a piece")
    scores: list[float] = []
    for i, value in enumerate(values):
        if not isinstance(value, int | float) or not math.isfinite(value):
            _refuse(f"the score of piece {i} is {value!r}", "scores", allowed="finite numbers")
        scores.append(float(value))
    return tuple(scores)


def _merges(metadata: Mapping[str, MetadataValue], by_text: Mapping[str, int]) -> tuple[tuple[str, str], ...]:
    values = _array(metadata, "merges")
    if values is None:
        _refuse("a BPE vocabulary needs merges", "merges", code="vocabulary_missing")
    if len(values) > MAX_MERGES:
        _refuse(f"{len(values)} merges", "merges", allowed=f"at most {MAX_MERGES}")
    merges: dict[tuple[str, str], None] = {}
    for i, value in enumerate(values):
        if not isinstance(value, str):
            _refuse(f"merge {i} is not a string", "merges")
        left, _, right = value.partition(" ")
        if not left or not right or " " in right:
            _refuse(f"merge {i} reads {value[:60]!r}", "merges", allowed="two pieces with one space between")
        for piece in (left, right, left + right):
            if piece not in by_text:
                _refuse(f"merge {i} needs the piece {piece[:60]!r}, which the vocabulary lacks", "merges")
        merges.setdefault((left, right))  # of a repeated merge the first, strongest one counts
    return tuple(merges)


def _ids(metadata: Mapping[str, MetadataValue], n: int, *, spm: bool) -> dict[str, int]:
    ids = {name: i for name, i in _SPM_DEFAULT_IDS.items() if i < n} if spm else {}
    for name, key in _NAMED_IDS.items():
        value = metadata.get(_KEY + key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            _refuse(f"{value!r} is not an id", key, allowed=f"0 to {n - 1}")
        if value in (-1, 0xFFFFFFFF):  # how some converters write "none"
            ids.pop(name, None)
        elif not 0 <= value < n:
            _refuse(f"the id {value} is outside the vocabulary", key, allowed=f"0 to {n - 1}")
        else:
            ids[name] = value
    return ids


def _pre(metadata: Mapping[str, MetadataValue]) -> str:
    pre = metadata.get(_KEY + "pre", "default")
    if not isinstance(pre, str) or pre not in PRE_KINDS:
        _refuse(
            f"the splitting rule {str(pre)[:60]!r} is not known",
            "pre",
            code="vocabulary_unsupported",
            allowed=", ".join(sorted(PRE_KINDS)),
            hint="a rule is one row in compiler/vocabulary/pretokenizers.py",
        )
    return pre


def _flag(
    metadata: Mapping[str, MetadataValue],
    key: str,
    default: bool,
    *,
    needs: str | None = None,
    ids: Mapping[str, int] | None = None,
) -> bool:
    value = metadata.get(_KEY + key, default)
    if not isinstance(value, bool):
        _refuse(f"{value!r} is not a truth value", key, allowed="true, false")
    if value and needs is not None and needs not in (ids or {}):
        _refuse(f"asks for the {needs} id, which the vocabulary does not name", key)
    return value


def _rstrip(
    metadata: Mapping[str, MetadataValue], pieces: Sequence[str], types: Sequence[TokenType]
) -> tuple[int, ...]:
    """Phi-3's special tokens swallow the white space after them; no metadata key says so."""
    name = str(metadata.get("general.name", "")).lower()
    if "phi-3" not in name and "phi3" not in name:
        return ()
    special = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)
    keeps = ("<unk>", "<s>", "<|endoftext|>")
    return tuple(i for i, t in enumerate(types) if t in special and pieces[i] not in keeps)


def _templates(metadata: Mapping[str, MetadataValue]) -> dict[str, str]:
    templates: dict[str, str] = {}
    prefix = "tokenizer.chat_template"
    for key in sorted(metadata):
        if key != prefix and not key.startswith(prefix + "."):
            continue
        source = metadata[key]
        if not isinstance(source, str) or not _utf8(source):
            _refuse("a chat template must be text", key)
        if len(source) > MAX_TEMPLATE_CHARS:
            _refuse(
                f"a chat template of {len(source)} characters", key, allowed=f"at most {MAX_TEMPLATE_CHARS}"
            )
        templates["default" if key == prefix else key[len(prefix) + 1 :]] = source
    if len(templates) > MAX_TEMPLATES:
        _refuse(f"{len(templates)} chat templates", prefix, allowed=f"at most {MAX_TEMPLATES}")
    return templates
