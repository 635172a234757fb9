"""Sets of tokens as the sampler takes them: a bit a token."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from runtime.engine.tokenizer import Tokenizer

#: Token t is bit ``t % 32`` of word ``t // 32``; ``ceil(n_vocab / 32)`` words.
TokenSet = npt.NDArray[np.uint32]


def token_set(ids: Iterable[int], n_vocab: int) -> TokenSet:
    """The set of ``ids``."""
    words = np.zeros((n_vocab + 31) // 32, np.uint32)
    for token in ids:
        words[token // 32] |= np.uint32(1 << token % 32)
    return words


@lru_cache(maxsize=64)
def breaker_set(tokenizer: Tokenizer, texts: tuple[str, ...]) -> TokenSet:
    """The tokens with one of ``texts`` in what they stand for: no repetition goes past them."""
    wanted = [text.encode(errors="replace") for text in texts]
    n = tokenizer.n_vocab
    return token_set(
        (token for token in range(n) if any(text in tokenizer.piece(token) for text in wanted)), n
    )
