"""Text ↔ token ids, from a bundle's ``tokenizer.json`` and ``vocabulary.json``.

Merging is done by the ``tokenizers`` library. What happens around it follows
llama.cpp: special tokens are cut out of the text first, longest first;
user-defined ones always, control and unknown ones only with ``parse_special``;
SentencePiece vocabularies put a space before each stretch of text that begins
the sequence or follows a special token.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

from tokenizers import Tokenizer as MergeTokenizer

from runtime.engine.literals import Literals
from runtime.engine.marks import ControlTexts
from runtime.errors import EXIT_BUNDLE, EXIT_RUN, EXIT_USAGE, EngineError

if TYPE_CHECKING:
    from runtime.engine.constraint import Grammars

#: The meaning of ``vocabulary.json`` this module knows.
VOCABULARY_FORMAT = 1

#: Characters from which merging takes long enough to matter to other threads.
LONG_TEXT = 4096

#: What turn markers look like, whichever type their vocabulary gives them.
_MARKER = re.compile(r"<\|[^|]+\|>|<｜[^｜]+｜>|<(?:start|end)_of_turn>|\[/?INST\]")

_NAMED_IDS = ("bos", "eos", "eot", "eom", "unk", "pad", "sep", "mask")


class FileSource(Protocol):
    """Anything that hands out a bundle's files by name."""

    def read(self, name: str, /) -> bytes: ...


def _byte_of_char() -> dict[str, int]:
    """The byte behind each character of GPT-2's byte alphabet (``bytes_to_unicode``)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return {chr(byte) if byte in printable else chr(next(spare)): byte for byte in range(256)}


_BYTE_OF_CHAR = _byte_of_char()


class Tokenizer:
    """One vocabulary. Immutable after construction, apart from caches; safe to share between threads.

    ``n_vocab``       number of ids: ``0 <= id < n_vocab``.
    ``bos_id``, ``eos_id``, ``eot_id``, ``eom_id``, ``unk_id``, ``pad_id``, ``sep_id``, ``mask_id``  or None.
    ``eos_ids``       every id that ends a generation.
    ``special_ids``   control and unknown tokens: what ``skip_special`` leaves out.
    ``byte_complete`` every text has ids that give it back.
    ``chat_template`` the model's jinja2 source, None where it has none; ``chat_templates`` by name.
    """

    def __init__(self, merger: MergeTokenizer, vocabulary: dict[str, Any]) -> None:
        """Use :meth:`from_files` or :meth:`from_bundle`."""
        self._merger = merger
        self.kind: str = vocabulary["kind"]
        self.pre: str = vocabulary["pre"]
        self.n_vocab: int = vocabulary["n_vocab"]
        ids: dict[str, int | None] = {name: vocabulary[f"{name}_id"] for name in _NAMED_IDS}
        self.bos_id = ids["bos"]
        self.eos_id = ids["eos"]
        self.eot_id = ids["eot"]
        self.eom_id = ids["eom"]
        self.unk_id = ids["unk"]
        self.pad_id = ids["pad"]
        self.sep_id = ids["sep"]
        self.mask_id = ids["mask"]
        self.eos_ids: frozenset[int] = frozenset(vocabulary["eos_ids"])
        self.add_bos: bool = vocabulary["add_bos"]
        self.add_eos: bool = vocabulary["add_eos"]
        self.add_space_prefix: bool = vocabulary["add_space_prefix"]
        self.byte_complete: bool = vocabulary["byte_complete"]
        self.chat_templates: dict[str, str] = vocabulary["chat_templates"]
        self._user_defined: frozenset[int] = frozenset(vocabulary["user_defined"])
        self._unused: frozenset[int] = frozenset(vocabulary["unused"])
        self._bytes: frozenset[int] = frozenset(vocabulary["byte"])
        self._rstrip: frozenset[int] = frozenset(vocabulary["rstrip"])
        self.special_ids: frozenset[int] = frozenset(vocabulary["control"]) | frozenset(vocabulary["unknown"])
        self._control: frozenset[int] = frozenset(vocabulary["control"])
        self._matched = self.special_ids | self._user_defined
        self._pieces: dict[int, bytes] = {}

    @classmethod
    def from_files(cls, tokenizer_json: bytes, vocabulary_json: bytes) -> Tokenizer:
        """From the contents of the two files; EngineError ``tokenizer_damaged`` where they do not agree."""
        try:
            vocabulary = json.loads(vocabulary_json)
            if vocabulary["format"] != VOCABULARY_FORMAT:
                raise _damaged(f"vocabulary.json has format {vocabulary['format']!r}", str(VOCABULARY_FORMAT))
            merger = MergeTokenizer.from_buffer(tokenizer_json)
            if merger.get_vocab_size() != vocabulary["n_vocab"]:
                raise _damaged("tokenizer.json and vocabulary.json differ in size")
            return cls(merger, vocabulary)
        except EngineError:
            raise
        except Exception as error:  # the tokenizers library raises plain Exception
            raise _damaged(f"the tokenizer cannot be loaded: {str(error)[:200]}") from error

    @classmethod
    def from_bundle(cls, bundle: FileSource) -> Tokenizer:
        """From ``tokenizer.json`` and ``vocabulary.json`` of a bundle."""
        return cls.from_files(bundle.read("tokenizer.json"), bundle.read("vocabulary.json"))

    @property
    def chat_template(self) -> str | None:
        """The model's plain chat template."""
        return self.chat_templates.get("default")

    @cached_property
    def grammars(self) -> Grammars:
        """The constraints compiled for this vocabulary so far."""
        from runtime.engine.constraint import Grammars

        return Grammars(self)

    # ---- text → ids ----------------------------------------------------

    def encode(
        self,
        text: str,
        add_special: bool = True,
        parse_special: bool = False,
        *,
        continuation: bool = False,
        guarded: str | None = None,
    ) -> list[int]:
        """The ids of ``text``.

        ``add_special`` adds BOS and EOS where the model wants them; ``parse_special``
        lets control tokens written in the text stand for themselves (a rendered chat
        template), otherwise they are plain text (anything a user wrote). ``guarded``, as long
        as ``text``, is where they are looked for instead: it differs from ``text`` where a
        character must not be part of one (:mod:`runtime.engine.marks`).
        ``continuation`` says that other text stands before: no space is put in front then.
        A vocabulary that is not ``byte_complete`` loses the bytes it has no piece for.

        Raises EngineError ``text_invalid`` for lone surrogates.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise EngineError(
                "text_invalid",
                f"the text has a lone surrogate at character {error.start}",
                allowed="Unicode text",
                exit_code=EXIT_USAGE,
            ) from error
        ids: list[int] = []
        if add_special and self.add_bos and self.bos_id is not None:
            ids.append(self.bos_id)
        after_special = not continuation
        for fragment in self._partition(text, parse_special, text if guarded is None else guarded):
            if isinstance(fragment, int):
                ids.append(fragment)
                after_special = True
                continue
            if self.add_space_prefix and after_special:
                fragment = " " + fragment
            ids.extend(self._merge(fragment))
            after_special = False
        if add_special and self.add_eos and self.eos_id is not None:
            ids.append(self.eos_id)
        return ids

    def _merge(self, text: str) -> list[int]:
        """The ids of plain text; none is a control token's, even if its pieces merge into its spelling."""
        if len(text) < LONG_TEXT:
            ids: list[int] = self._merger.encode(text, add_special_tokens=False).ids
        else:  # of the library's calls only those for batches let other threads run meanwhile
            ids = self._merger.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids if self._control.isdisjoint(ids) else self._cut(text)

    def _cut(self, text: str) -> list[int]:
        """The ids of plain text in which control tokens were found: cut within each."""
        encoded = self._merger.encode(text, add_special_tokens=False)
        spans = zip(encoded.ids, encoded.offsets, strict=True)
        cuts = [start + 1 for id, (start, end) in spans if id in self._control and end - start > 1]
        if not cuts:  # a control token of one character
            return list(encoded.ids)
        return [id for start, end in pairwise([0, *cuts, len(text)]) for id in self._merge(text[start:end])]

    @cached_property
    def _special_texts(self) -> list[tuple[int, str, bool, bool]]:
        """(id, text, counts without parse_special, swallows white space after it), longest first."""
        rows = [(i, self._text(i), i in self._user_defined, i in self._rstrip) for i in self._matched]
        return sorted(rows, key=lambda row: (-len(row[1].encode()), row[0]))

    @cached_property
    def controls(self) -> ControlTexts:
        """How tokens are spelled that nothing said in a conversation may become: control and unknown
        ones, those that end an answer, and those that look like turn markers though the vocabulary
        declares them as user-defined."""
        texts = {i: self._text(i) for i in self._matched}
        control = [i for i in texts if i not in self._user_defined or i in self.eos_ids]
        control += [i for i, text in texts.items() if _MARKER.fullmatch(text)]
        user_defined = self._user_defined.difference(control)
        return ControlTexts(Literals(texts[i] for i in control), Literals(texts[i] for i in user_defined))

    @cached_property
    def _literals(self) -> Literals:
        return Literals(row[1] for row in self._special_texts)

    def _partition(self, text: str, parse_special: bool, guarded: str) -> list[str | int]:
        """``text`` cut into stretches of plain text and ids of special tokens."""
        present = self._literals.present(text)
        if guarded is not text:
            present |= self._literals.present(guarded)
        fragments: list[tuple[int, int] | int] = [(0, len(text))]
        for special, needle, always, rstrip in self._special_texts:
            if needle not in present or not (always or parse_special):
                continue
            where = guarded if needle in self.controls.control.texts else text
            cut: list[tuple[int, int] | int] = []
            for fragment in fragments:
                if isinstance(fragment, int):
                    cut.append(fragment)
                    continue
                start, end = fragment
                while (found := where.find(needle, start, end)) >= 0:
                    cut += [(start, found), special]
                    start = found + len(needle)
                    while rstrip and start < end and text[start] in " \t\n\v\f\r":
                        start += 1
                cut.append((start, end))
            fragments = cut
        parts = (f if isinstance(f, int) else text[f[0] : f[1]] for f in fragments)
        return [part for part in parts if part != ""]

    # ---- ids → text ----------------------------------------------------

    def piece(self, token: int) -> bytes:
        """The bytes ``token`` stands for; not always whole UTF-8 characters, empty for unused ids.

        Raises EngineError ``token_out_of_range``.
        """
        if (piece := self._pieces.get(token)) is None:
            piece = self._pieces[token] = self._make_piece(token)
        return piece

    def _text(self, token: int) -> str:
        text = self._merger.id_to_token(token) if 0 <= token < self.n_vocab else None
        if text is None:
            raise EngineError(
                "token_out_of_range",
                f"the token id {token} is outside the vocabulary",
                allowed=f"0 to {self.n_vocab - 1}",
                exit_code=EXIT_RUN,
            )
        return text

    def _make_piece(self, token: int) -> bytes:
        text = self._text(token)
        if token in self._matched:
            return text.encode()
        if token in self._bytes:
            return bytes([int(text[3:5], 16)])
        if token in self._unused:
            return b""
        if self.kind == "spm":
            return text.replace("▁", " ").encode()
        # A character outside the byte alphabet (a damaged or hand-made piece) stands for itself.
        return b"".join(bytes([_BYTE_OF_CHAR[c]]) if c in _BYTE_OF_CHAR else c.encode() for c in text)

    def _bytes_of(self, skip_special: bool, continuation: bool) -> Callable[[int], bytes]:
        """A function from each id of a sequence, in order, to the bytes it adds to the text."""
        # The space that encode() put before a stretch of text is not part of the text.
        drop_space = self.add_space_prefix and not continuation

        def step(token: int) -> bytes:
            nonlocal drop_space
            piece = self.piece(token)
            if token in self._matched:
                drop_space = self.add_space_prefix
                return b"" if skip_special and token in self.special_ids else piece
            if drop_space and piece.startswith(b" "):
                piece = piece[1:]
            drop_space = False
            return piece

        return step

    def decode(self, ids: Iterable[int], skip_special: bool = False, *, continuation: bool = False) -> str:
        """The text of ``ids``; bytes that are not UTF-8 become U+FFFD.

        ``skip_special`` leaves out control and unknown tokens. ``continuation`` says that
        other text stands before: the leading space a SentencePiece vocabulary writes at the
        beginning of a text is then kept.
        """
        step = self._bytes_of(skip_special, continuation)
        return b"".join([step(token) for token in ids]).decode(errors="replace")

    def stream(self, skip_special: bool = False, *, continuation: bool = False) -> StreamDecoder:
        """A decoder that takes one id at a time; the same switches as :meth:`decode`."""
        return StreamDecoder(self._bytes_of(skip_special, continuation))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Each id's piece as text for people to read; bytes that are not UTF-8 show as ``\\xNN``."""
        return [self.piece(token).decode(errors="backslashreplace") for token in ids]


class StreamDecoder:
    """Ids in, text out, holding back the beginning of a character until it is whole.

    The concatenation of all :meth:`push` results and :meth:`flush` equals
    :meth:`Tokenizer.decode` of the ids.
    """

    def __init__(self, bytes_of: Callable[[int], bytes]) -> None:
        self._bytes_of = bytes_of
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that ``token`` completes; empty while a character is unfinished."""
        return self._decoder.decode(self._bytes_of(token))

    def flush(self) -> str:
        """What is left at the end: U+FFFD for an unfinished character, usually nothing."""
        return self._decoder.decode(b"", final=True)


def _damaged(message: str, allowed: str | None = None) -> EngineError:
    return EngineError(
        "tokenizer_damaged",
        message,
        path="tokenizer.json",
        allowed=allowed,
        hint="compile the plan again",
        exit_code=EXIT_BUNDLE,
    )
