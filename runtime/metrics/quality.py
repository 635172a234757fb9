"""How much a model's predictions suffer: perplexity, KL divergence, top-token agreement.

For a position with logits z, log p = z - max z - log Σ exp(z - max z), in float64. With t the token
that follows in the text, p the reference's probabilities and q those of the weights that are judged:

======================  ===========================================================
perplexity              exp(mean of -log q(t))
KL divergence           Σ p (log p - log q) over the vocabulary, a value a position, in nats
top-token agreement     share of positions where p and q have the same likeliest token
change of probability   q(t) - p(t)
======================  ===========================================================

Of equally likely tokens the one with the lowest id is the likeliest, as in sampling. What is kept of a
position is a few numbers, whatever the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int32]

#: Rows are widened to float64 in blocks of about so many bytes.
BLOCK_BYTES = 8 << 20


def log_softmax(logits: Floats) -> Doubles:
    """float32 (rows, vocabulary) → the logarithms of the probabilities, float64."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return wide


def divergence(p: Doubles, q: Doubles) -> Doubles:
    """KL divergence of each row, from log-probabilities (rows, vocabulary); nats, never negative.

    Exactly 0 where the rows are equal.
    """
    sums: Doubles = (np.exp(p) * (p - q)).sum(axis=1)
    # The true value is not negative; the rounding of the sum may be, by some 1e-16.
    return np.maximum(sums, 0.0)


@dataclass(frozen=True)
class Estimate:
    """A mean over positions and its standard error (0 for a single position)."""

    value: float
    error: float

    @classmethod
    def of(cls, values: Doubles) -> Estimate:
        spread = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
        return cls(float(values.mean()), spread)

    def exponential(self) -> Estimate:
        """exp of it, the error carried along to first order; infinite where no float holds it."""
        try:
            value = math.exp(self.value)
        except OverflowError:
            value = math.inf
        return Estimate(value, value * self.error if self.error else 0.0)


@dataclass(frozen=True)
class Divergence:
    """KL divergence over all positions, in nats: mean with its standard error, percentiles, largest.

    ``by_window``: the mean of each window, so that two evaluations of one text can be compared in pairs.
    """

    mean: float
    error: float
    median: float
    p99: float
    p99_9: float
    largest: float
    by_window: tuple[float, ...]

    @classmethod
    def of(cls, values: Doubles, per_window: int) -> Divergence:
        mean = Estimate.of(values)
        median, p99, p99_9 = (float(v) for v in np.quantile(values, (0.5, 0.99, 0.999)))
        windows = tuple(float(v) for v in values.reshape(-1, per_window).mean(axis=1))
        return cls(mean.value, mean.error, median, p99, p99_9, float(values.max()), windows)


@dataclass(frozen=True)
class Quality:
    """What the positions add up to.

    ``perplexity``            with its standard error.
    ``perplexity_ratio``      over the reference's, with its standard error: of the differences
                              position by position, which is much smaller than those of the two.
    ``kl_divergence``         against the reference.
    ``top_token_agreement``   share of positions, 0 … 1.
    ``probability_change``    mean of q(t) - p(t); ``probability_change_rms`` its root mean square.

    All but the first are None without a reference.
    """

    positions: int
    perplexity: Estimate
    perplexity_ratio: Estimate | None = None
    kl_divergence: Divergence | None = None
    top_token_agreement: float | None = None
    probability_change: float | None = None
    probability_change_rms: float | None = None

    def to_json(self) -> dict[str, object]:
        """Numbers as they are; what is infinite as null."""
        body: dict[str, object] = asdict(self)
        for name in ("perplexity", "perplexity_ratio"):
            estimate: Estimate | None = getattr(self, name)
            finite = estimate is not None and math.isfinite(estimate.value + estimate.error)
            body[name] = estimate.value if finite and estimate else None
            body[f"{name}_error"] = estimate.error if finite and estimate else None
        return body


class Scores:
    """The numbers of one model at every position so far; rows of logits go in, a Quality comes out."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Doubles]] = {"loss": [], "kl": [], "same": [], "change": [], "excess": []}

    def quality(self, per_window: int) -> Quality:
        """All positions together; a window has ``per_window`` of them. ``ValueError`` if there are none."""
        values = {name: np.concatenate(parts) for name, parts in self._parts.items() if parts}
        if not values:
            raise ValueError("no position has been scored")
        perplexity = Estimate.of(values["loss"]).exponential()
        count = len(values["loss"])
        if "kl" not in values:
            return Quality(count, perplexity)
        change = values["change"]
        return Quality(
            count,
            perplexity,
            Estimate.of(values["excess"]).exponential(),
            Divergence.of(values["kl"], per_window),
            float(values["same"].mean()),
            float(change.mean()),
            math.sqrt(float(np.square(change).mean())),
        )

    def add(self, log_q: Doubles, targets: Ids, log_p: Doubles | None = None) -> None:
        """Positions with log-probabilities (rows, vocabulary), the tokens that follow, the reference's."""
        every = np.arange(len(targets))
        hit = log_q[every, targets]
        self._parts["loss"].append(-hit)
        if log_p is None:
            return
        expected = log_p[every, targets]
        self._parts["kl"].append(divergence(log_p, log_q))
        self._parts["same"].append((log_p.argmax(axis=1) == log_q.argmax(axis=1)).astype(np.float64))
        self._parts["change"].append(np.exp(hit) - np.exp(expected))
        self._parts["excess"].append(expected - hit)


def score_rows(
    logits: Sequence[Floats], targets: Ids, scores: Sequence[Scores], *, reference: int | None
) -> None:
    """Adds the same positions of several models to their scores.

    ``logits[i]``: float32 (rows, vocabulary) of model i, in the order of ``targets`` (rows,).
    ``reference``: the model that the others, and itself, are compared with, or None.
    """
    step = max(1, BLOCK_BYTES // (8 * logits[0].shape[1]))
    for begin in range(0, len(targets), step):
        rows = slice(begin, begin + step)
        log_p = None if reference is None else log_softmax(logits[reference][rows])
        for index, (values, into) in enumerate(zip(logits, scores, strict=True)):
            log_q = log_p if index == reference and log_p is not None else log_softmax(values[rows])
            into.add(log_q, targets[rows], log_p)
