"""A text run through several bundles at once, window by window, and judged at every position.

The text's tokens are cut into windows of ``context`` tokens, one after the other; what is left at the end
is not used. A window starts from an empty context (with BOS in place of its first token, where the
vocabulary wants one), and its first half is read but not judged: a position is judged with at least half a
window before it. Judged are so the predictions of tokens context // 2 + 1 … context - 1 of each window.

All bundles take a step with the same tokens, then its rows of logits are judged and forgotten: memory holds
one step's rows a bundle, of at most :data:`LOGITS_BYTES`, whatever the text and the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runtime.engine.executable import Executable
from runtime.engine.tokenizer import Tokenizer
from runtime.errors import EXIT_USAGE, EngineError
from runtime.metrics.quality import Quality, Scores, score_rows

Ids = npt.NDArray[np.int32]

#: Most bytes of logits that a step of one bundle gives.
LOGITS_BYTES = 64 << 20
#: The smallest window in which anything is judged with something before it.
LEAST_CONTEXT = 4


@dataclass(frozen=True)
class Windows:
    """The text in windows: ``ids`` int32 (windows, context); ``tokens``: of the whole text."""

    ids: Ids
    tokens: int

    @property
    def context(self) -> int:
        return int(self.ids.shape[1])

    @property
    def first(self) -> int:
        """The first position of a window whose prediction is judged."""
        return self.context // 2

    @property
    def scored(self) -> int:
        """Positions judged in all windows."""
        return len(self.ids) * self.per_window

    @property
    def per_window(self) -> int:
        """Positions judged in a window."""
        return self.context - 1 - self.first

    def to_json(self) -> dict[str, object]:
        return {
            "tokens": self.tokens,
            "context": self.context,
            "windows": len(self.ids),
            "positions": self.scored,
        }


def cut(tokenizer: Tokenizer, text: str, context: int, most: int | None = None) -> Windows:
    """The windows of a text, at most ``most``. Raises ``text_too_short``, ``invalid_option``."""
    if context < LEAST_CONTEXT:
        raise EngineError(
            "invalid_option",
            f"a window of {context} tokens leaves nothing to judge",
            path="--context",
            allowed=f"at least {LEAST_CONTEXT}",
            exit_code=EXIT_USAGE,
        )
    ids = np.asarray(tokenizer.encode(text), np.int32)
    count = len(ids) // context
    if count == 0:
        raise EngineError(
            "text_too_short",
            f"the text has {len(ids)} tokens, which do not fill one window of {context}",
            allowed=f"a text of at least {context} tokens",
            hint=f"or --context {len(ids)} or less" if len(ids) >= LEAST_CONTEXT else None,
            exit_code=EXIT_USAGE,
        )
    count = min(count, most or count)
    windows = ids[: count * context].reshape(count, context).copy()
    if tokenizer.add_bos and tokenizer.bos_id is not None:
        windows[:, 0] = tokenizer.bos_id
    return Windows(windows, len(ids))


def evaluate(
    executables: Sequence[Executable],
    windows: Windows,
    *,
    reference: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Quality]:
    """The quality of each bundle over all windows; ``reference`` is the index of the one to compare with.

    The bundles have one vocabulary, and each holds ``windows.context`` tokens. ``progress(done, total)``
    counts windows. Raises ``vocabularies_differ`` and the errors of a step.
    """
    if len({executable.limits.n_vocab for executable in executables}) != 1:
        counts = ", ".join(str(executable.limits.n_vocab) for executable in executables)
        raise EngineError(
            "vocabularies_differ",
            f"predictions over different vocabularies ({counts} tokens) cannot be compared",
            allowed="plans of models with one vocabulary",
            exit_code=EXIT_USAGE,
        )
    scores = [Scores() for _ in executables]
    step = min(executable.limits.step_tokens for executable in executables)
    rows = max(1, min(step, LOGITS_BYTES // (4 * executables[0].limits.n_vocab)))
    for done, window in enumerate(windows.ids):
        if progress is not None:
            progress(done, len(windows.ids))
        for begin in range(0, windows.first, step):
            _forward(executables, window, begin, min(begin + step, windows.first), judged=False)
        last = windows.context - 1  # nothing in the window follows its last token
        for begin in range(windows.first, last, rows):
            end = min(begin + rows, last)
            logits = _forward(executables, window, begin, end, judged=True)
            score_rows(logits, window[begin + 1 : end + 1], scores, reference=reference)
    if progress is not None:
        progress(len(windows.ids), len(windows.ids))
    return [score.quality(windows.per_window) for score in scores]


def _forward(
    executables: Sequence[Executable], window: Ids, begin: int, end: int, *, judged: bool
) -> list[npt.NDArray[np.float32]]:
    """One step of every bundle; the rows stay valid until its next."""
    positions = np.arange(begin, end, dtype=np.int32)
    slots = np.zeros(end - begin, np.int32)
    want = np.full(end - begin, judged, np.uint8)
    rows = []
    for executable in executables:
        try:
            rows.append(executable.forward(slots, positions, window[begin:end], want))
        except EngineError as error:
            manifest = executable.bundle.manifest
            error.path = error.path or f"{manifest.name} ({manifest.quantization})"
            raise
    return rows
