"""Strict JSON within bounds that are known before anything is built of it.

What a text would become is counted first, by passes over its bytes: a body of a few
megabytes can ask for millions of lists, and their memory is not given back. Every
pass is linear in the bytes, whatever is in them.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from runtime.errors import EngineError

MAX_DEPTH = 32
#: Objects and lists together; members of objects; texts; values separated by commas.
MAX_CONTAINERS = 1 << 14
MAX_MEMBERS = 1 << 16
MAX_TEXTS = 1 << 17
MAX_VALUES = (1 << 20) + (1 << 17)
#: Numbers with a fraction or an exponent.
MAX_FRACTIONS = 1 << 15

#: A string; an unfinished one takes the rest, so that no quote is looked at twice. Possessive: what a
#: string has taken is never given back.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
#: A run of more than 32 digits, with the point that makes them a fraction.
_DIGITS = re.compile(rb"\.?\d{33,}+")
_AS_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_ZEROS = b"0" * 33
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse(data: bytes) -> Any:
    """The value: UTF-8, no NaN, no duplicate keys, no half of a surrogate pair, no integer of more
    than 32 digits, at most ``MAX_DEPTH`` levels and the counts above. Raises ``invalid_json``."""
    _bounded(data)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise EngineError("invalid_json", f"the body is not UTF-8 at byte {error.start}") from None
    fractions = 0

    def fraction(number: str) -> float:
        nonlocal fractions
        fractions += 1
        if fractions > MAX_FRACTIONS:
            raise _too_many("numbers with a fraction", MAX_FRACTIONS)
        return _float(number)

    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=fraction)
    except json.JSONDecodeError as error:
        raise EngineError(
            "invalid_json",
            f"the body is not JSON: {error.msg}",
            path=f"line {error.lineno} column {error.colno}",
        ) from None
    if _SURROGATE_ESCAPE.search(text) is not None and _has_half_a_pair(value):
        raise EngineError("invalid_json", "a text holds half of a surrogate pair")
    return value


def parse_again(data: bytes) -> Any:
    """The value of a text that :func:`parse` has accepted, without looking for faults again."""
    return json.loads(data, parse_float=_float)


def _bounded(data: bytes) -> None:
    """Raises ``invalid_json`` for what would be too deep or too much; builds nothing as large as that."""
    bare, texts = _STRING.subn(b"", data, count=MAX_TEXTS + 1)
    if texts > MAX_TEXTS:
        raise _too_many("texts", MAX_TEXTS)
    brackets = bare.translate(None, _NO_BRACKETS)
    containers = brackets.count(b"[") + brackets.count(b"{")
    if containers > MAX_DEPTH and _depth(brackets[: 2 * MAX_CONTAINERS]) > MAX_DEPTH:
        raise EngineError(
            "invalid_json", "the body is nested too deeply", allowed=f"at most {MAX_DEPTH} levels"
        )
    for what, count, most in (
        ("objects and lists", containers, MAX_CONTAINERS),
        ("members of objects", bare.count(b":"), MAX_MEMBERS),
        ("values", bare.count(b","), MAX_VALUES),
    ):
        if count > most:
            raise _too_many(what, most)
    long = _ZEROS in bare.translate(_AS_ZEROS)  # looked for first: a search by substring is far faster
    if long and any(run[0][:1] != b"." for run in _DIGITS.finditer(bare)):
        raise EngineError("invalid_json", "a number has more than 32 digits")


def _depth(brackets: bytes) -> int:
    """Deepest nesting, as far as ``MAX_DEPTH`` and one more."""
    deepest = level = 0
    for bracket in brackets:
        if bracket in b"[{":
            level += 1
            if level > deepest:
                deepest = level
                if deepest > MAX_DEPTH:
                    break
        else:
            level -= 1
    return deepest


def _has_half_a_pair(value: Any) -> bool:
    """Whether any text or key holds a lone surrogate (a whole pair has become one character)."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            if not item.isascii() and _SURROGATE.search(item) is not None:
                return True
        elif isinstance(item, dict):
            waiting += item.keys()
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
    return False


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise EngineError("invalid_json", f"the key {key[:64]!r} occurs twice", path=key[:64])
            seen.add(key)
    return found


def _no_constant(name: str) -> NoReturn:
    raise EngineError("invalid_json", f"{name} is not a JSON number")


def _float(text: str) -> float:
    """A number; 2.0 is the integer 2, as JSON Schema has it. Plans make floats of what must be one."""
    value = float(text)
    if not math.isfinite(value):
        raise EngineError("invalid_json", f"{text[:32]} is too large for a number")
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _too_many(what: str, most: int) -> EngineError:
    return EngineError("invalid_json", f"the body has too many {what}", allowed=f"at most {most}")
