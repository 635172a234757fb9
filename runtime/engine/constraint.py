"""What an answer must look like: a JSON Schema, a regular expression or a grammar, as masks of tokens.

The masks are computed by the library llguidance, which parses the bytes of the
tokens, so that any tokenization of an allowed text is allowed. A mask forbids
tokens; it changes no logit of the others, so a constrained execution has the
digest of an unconstrained one that happens to choose the same tokens.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from runtime.engine.request import Constraint
from runtime.engine.tokenizer import Tokenizer
from runtime.engine.tokensets import TokenSet
from runtime.errors import EXIT_RUN, EXIT_USAGE, EngineError

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

#: Longest text of a constraint, in characters.
MAX_TEXT = 1 << 20

#: Compiled grammars kept per vocabulary; the least recently used goes first.
KEPT = 64

#: White space between the parts of JSON: a blank or the beginning of an indented line. Bounded: a
#: model at a loss must not fill pages with it.
_WHITESPACE = r"[ \t]{1,4}|\n[ \t]{0,24}"


class LiveConstraint:
    """A constraint's place in one sequence. One thread at a time."""

    def __init__(self, matcher: LLMatcher, n_vocab: int) -> None:
        self._matcher = matcher
        self._mask = np.zeros((n_vocab + 31) // 32, np.uint32)
        self._known = False

    def allowed(self) -> TokenSet:
        """The tokens that may come next, a bit each; valid until the next :meth:`accept` or :meth:`rollback`.

        Raises ``constraint_failed`` where the grammar became too complex to go on.
        """
        if not self._known:
            self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
            if self._matcher.is_error():
                raise _failed(self._matcher.get_error())
            self._known = True
        return self._mask

    def accept(self, token: int) -> None:
        """Goes on past a token that :meth:`allowed` had."""
        self._known = False
        if not self._matcher.consume_token(token):
            raise _failed(self._matcher.get_error())

    def rollback(self, count: int) -> None:
        """Takes back the last ``count`` tokens."""
        self._known = False
        if count and not self._matcher.rollback(count):
            raise _failed(self._matcher.get_error())

    @property
    def complete(self) -> bool:
        """Whether nothing but an end-of-sequence token can follow."""
        return bool(self._matcher.is_stopped())


class Grammars:
    """The compiled constraints of one vocabulary (``Tokenizer.grammars``). Safe to share between threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._library: LLTokenizer | None = None
        self._compiled: OrderedDict[Constraint, LLMatcher] = OrderedDict()

    def check(self, constraint: Constraint) -> None:
        """Compiles it; takes milliseconds to a second, so requests do it before they are queued.

        Raises ``constraint_unsupported`` with what the library says of it.
        """
        self._matcher(constraint)

    def begin(self, constraint: Constraint) -> LiveConstraint:
        """The constraint at the start of an answer; errors as :meth:`check`."""
        return LiveConstraint(self._matcher(constraint).deep_copy(), self._tokenizer.n_vocab)

    def _matcher(self, constraint: Constraint) -> LLMatcher:
        with self._lock:
            if (found := self._compiled.get(constraint)) is not None:
                self._compiled.move_to_end(constraint)
                return found
            if self._library is None:
                self._library = _library_tokenizer(self._tokenizer)
        made = LLMatcher(self._library, _grammar(constraint), log_level=0)
        if made.is_error():
            raise _unsupported(constraint, made.get_error())
        with self._lock:
            self._compiled[constraint] = made
            while len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
        return made


def _grammar(constraint: Constraint) -> str:
    if len(constraint.text) > MAX_TEXT:
        raise EngineError(
            "constraint_unsupported",
            f"it has {len(constraint.text)} characters",
            path=constraint.kind,
            allowed=f"at most {MAX_TEXT} characters",
            exit_code=EXIT_USAGE,
        )
    if constraint.kind == "regex":
        return LLMatcher.grammar_from_regex(constraint.text)
    if constraint.kind == "grammar":
        return LLMatcher.grammar_from_lark(constraint.text)
    try:
        json.loads(constraint.text)
        options: JsonCompileOptions = {"whitespace_pattern": _WHITESPACE}
        return LLMatcher.grammar_from_json_schema(constraint.text, defaults=options)
    except (ValueError, RecursionError) as error:
        raise _unsupported(constraint, str(error)) from error


def _library_tokenizer(tokenizer: Tokenizer) -> LLTokenizer:
    return LLTokenizer(
        TokenizerWrapper(_Vocabulary(tokenizer)),
        n_vocab=tokenizer.n_vocab,
        eos_token=sorted(tokenizer.eos_ids) or None,
    )


class _Vocabulary:
    """A vocabulary as llguidance asks for it: the bytes of each token; control tokens by their ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.bos_token_id = tokenizer.bos_id
        self.eos_token_id = min(tokenizer.eos_ids, default=0)
        self.special_token_ids = sorted(tokenizer.special_ids)
        # 0xFF begins no UTF-8 text, and the library marks control tokens with it.
        pieces = (tokenizer.piece(token) for token in range(tokenizer.n_vocab))
        self.tokens = [b"" if piece.startswith(b"\xff") else piece for piece in pieces]

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenizer.encode(text.decode(errors="replace"), add_special=False, continuation=True)


def _unsupported(constraint: Constraint, why: str) -> EngineError:
    return EngineError(
        "constraint_unsupported",
        f"it cannot be kept to: {' '.join(why.split())[:500]}",
        path=constraint.kind + (_place(constraint, why) if constraint.kind == "json_schema" else ""),
        allowed=_ALLOWED[constraint.kind],
        exit_code=EXIT_USAGE,
    )


def _place(constraint: Constraint, why: str) -> str:
    """Where in a schema the keywords stand that the library does not know; empty where it names none."""
    named = re.search(r"Unimplemented keys: \[(.*?)\]", why)
    keys = set(re.findall(r'"([^"]+)"', named[1])) if named else set()
    nodes: list[tuple[str, Any]] = [("", json.loads(constraint.text))] if keys else []
    while nodes:
        path, node = nodes.pop()
        if isinstance(node, dict):
            if keys <= set(node):
                return path + (f".{keys.pop()}" if len(keys) == 1 else "")
            nodes += [(f"{path}.{name}", value) for name, value in reversed(node.items())]
        elif isinstance(node, list):
            nodes += [(f"{path}[{i}]", value) for i, value in reversed(list(enumerate(node)))]
    return ""


_ALLOWED = {
    "json_schema": "JSON Schema draft 2020-12 as llguidance knows it: types, enum, const, properties, "
    "required, additionalProperties, items, prefixItems, bounds of numbers and lengths, pattern, "
    "the usual formats, anyOf, oneOf, allOf and $ref within the schema",
    "regex": "a regular expression in the syntax of the Rust crate regex, without look-around",
    "grammar": "a grammar in llguidance's variant of Lark, with a rule called start",
}


def _failed(why: str) -> EngineError:
    return EngineError(
        "constraint_failed",
        f"the answer cannot be kept to its constraint any longer: {' '.join(why.split())[:300]}",
        hint="a simpler schema or grammar",
        exit_code=EXIT_RUN,
    )
