"""The nearest valid spelling of a word that was not understood."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: object, options: Iterable[str]) -> str | None:
    """The option most like ``word``, or None where nothing is near enough to suggest.

    Case and the choice between ``-``, ``_`` and blanks do not count as differences.
    """
    if not isinstance(word, str):
        return None

    def key(text: str) -> str:
        return text.lower().replace("-", "_").replace(" ", "_")

    by_key = {key(option): option for option in options}
    # Beyond this length a "word" is not a misspelling, and difflib's cost is quadratic.
    if len(word) > 128:
        return None
    found = difflib.get_close_matches(key(word), list(by_key), n=1, cutoff=0.6)
    return by_key[found[0]] if found else None


def did_you_mean(word: object, options: Iterable[str]) -> str | None:
    """``did you mean 'x'?`` for the nearest option, or None."""
    found = nearest(word, options)
    return f"did you mean {found!r}?" if found else None
