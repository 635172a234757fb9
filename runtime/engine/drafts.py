"""Drafts: tokens that are guessed and verified together, so that one step may give several.

The guess costs no second model: what followed the last time that the sequence's latest
tokens stood together (in its prompt or its own output) is taken to follow again, which
quoted, repetitive and structured text does. The step then computes a row for each drafted
token, and the target's own sampler runs at each row as it would have: the longest
beginning that it agrees with is kept. Tokens and ``logits_digest`` are so those of
decoding one by one, greedy and sampled alike.

How many are drafted, k, follows from two measured things: r(k), how much longer a step
takes with k more rows (times of this engine's own steps), and a, the share of drafted
tokens that were kept so far after a match of this length. The k with the largest
(1 + a + a^2 + … + a^k) / r(k) is taken, none where that is not above 1. And drafts may not
cost what they have not saved: a sequence's account of time saved less time spent stays
above :data:`ALLOWANCE` of its decoding time, so that no text is slowed down by more.
(Prompt lookup decoding: A. Saxena, 2023; the rule for k and the account are ours.)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]

#: Lengths of the matches that are looked for, the longest first.
MATCHES = (4, 2)
#: Positions behind the newest that are searched.
MOST_INDEXED = 1 << 16
#: Share of a sequence's decoding time that drafts may cost it when they fail.
ALLOWANCE = 0.02
#: What a row is taken to add to a step while that has not been measured.
UNKNOWN_ROW = 0.15

#: Steps after which what more rows take is half forgotten: it costs time, so not every step does it.
FORGETTING = 64

#: The bits of a run of each length.
_MASKS = tuple((1 << 32 * length) - 1 for length in MATCHES)


def _run_before(ids: Ids, at: int) -> int:
    """The tokens before a position as one number, as many as the longest match has."""
    run = 0
    for token in ids[max(at - MATCHES[0], 0) : at].tolist():
        run = run << 32 | token
    return run


class LookupIndex:
    """What followed each run of tokens in one sequence: each token is indexed once and forgotten once.

    ``most``: positions behind the newest that are remembered, so a long text holds no more memory.
    """

    def __init__(self, most: int = MOST_INDEXED) -> None:
        self._most = most
        self._after: tuple[dict[int, int], ...] = tuple({} for _ in MATCHES)
        self._indexed = 0
        self._run = 0  # the tokens before it, 32 bits each: all runs that end there are its low bits

    def propose(self, ids: Ids, most: int) -> tuple[list[int], int]:
        """Up to ``most`` tokens that may follow ``ids`` (int32, whole sequence, contiguous), and which
        of :data:`MATCHES` found them; none where nothing matches."""
        n = len(ids)
        self._index(ids, n)
        for which, (length, mask, after) in enumerate(zip(MATCHES, _MASKS, self._after, strict=True)):
            if n < length or most < 1:
                continue
            at = after.get(self._run & mask, -1)
            if at >= 0:
                found: list[int] = ids[at : at + most].tolist()
                while len(found) < most:  # it repeats itself: on from what is drafted
                    found.append(found[len(found) - (n - at)])
                return found, which
        return [], -1

    def _index(self, ids: Ids, n: int) -> None:
        """Takes in the tokens that have come since, and leaves out those that are too far back now."""
        first, indexed = n - self._most, self._indexed
        if first > indexed:
            self._run = _run_before(ids, first)
        run = self._run
        for at, token in enumerate(ids[max(indexed, first) : n].tolist(), max(indexed, first)):
            for length, mask, after in zip(MATCHES, _MASKS, self._after, strict=True):
                if at >= length:
                    after[run & mask] = at
            run = (run << 32 | token) & _MASKS[0]
        self._run, self._indexed = run, n
        for at in range(max(indexed - self._most, 0), first):
            run = _run_before(ids, at)
            for mask, after in zip(_MASKS, self._after, strict=True):
                if after.get(run & mask) == at:  # else it has come again since
                    del after[run & mask]

    def __len__(self) -> int:
        """Runs that are remembered."""
        return sum(map(len, self._after))


class StepTimes:
    """Measured nanoseconds of steps by how many rows they had; prompts' steps are not counted.

    A step that something else held up says little: a reading counts as at most what its rows would
    have taken one by one (of a single row: twice what was expected), less weighs more than more, and
    what was not tried for long is slowly forgotten.
    """

    def __init__(self) -> None:
        self._ns: dict[int, float] = {}
        self._noted = 0

    def note(self, rows: int, ns: int) -> None:
        """A step of ``rows`` rows has taken ``ns``."""
        old = self._expected(rows)
        if old is None:
            self._ns[rows] = float(ns)
        elif ns <= old:
            self._ns[rows] = old + (ns - old) / 2
        else:
            self._ns[rows] = old + (min(float(ns), self.most(rows) or 2 * old) - old) / 8
        self._noted += 1
        if self._noted % FORGETTING:
            return
        for other in [n for n in self._ns if n > rows]:
            self._ns[other] += (self._guess(rows, other) - self._ns[other]) / 2

    def nanoseconds(self, rows: int) -> float | None:
        """What a step of ``rows`` rows takes; None where there was none yet."""
        return self._ns.get(rows)

    def most(self, rows: int) -> float | None:
        """What ``rows`` rows take one by one; None where fewer were never measured."""
        fewer = max((n for n in self._ns if n < rows), default=0)
        return self._ns[fewer] * rows / fewer if fewer else None

    def ratio(self, rows: int, more: int) -> float:
        """How much longer a step of ``rows`` takes with ``more`` rows, at least 1."""
        base, whole = self._ns.get(rows), self._expected(rows + more)
        if base is None or whole is None:
            return 1.0 + UNKNOWN_ROW * more / rows
        return max(1.0, whole / base)

    def _expected(self, rows: int) -> float | None:
        """What was measured, or what the next smaller step that was lets one expect."""
        if rows in self._ns:
            return self._ns[rows]
        smaller = max((n for n in self._ns if n < rows), default=0)
        return self._guess(smaller, rows) if smaller else None

    def _guess(self, rows: int, whole: int) -> float:
        return self._ns[rows] * (1.0 + UNKNOWN_ROW * (whole - rows) / rows)


class Drafts:
    """The drafts of one sequence: what to guess, and whether guessing has paid."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.drafted = self.kept = 0
        self._index = LookupIndex()
        self._which = -1
        self._kept = [1.2] * len(MATCHES)  # a prior of 0.6, worth two tokens
        self._tried = [2.0] * len(MATCHES)
        self._decoding_ns = 0.0
        self._account_ns = 0.0  # saved less spent

    def propose(self, ids: Ids, room: int, rows: int, times: StepTimes) -> list[int]:
        """The tokens to verify after ``ids``, at most ``room``, in a step of ``rows`` rows without them."""
        guess, which = self._index.propose(ids, min(self.most, room))
        self._which = which
        if not guess:
            return []
        rate = self._kept[which] / self._tried[which]
        best, best_gain, tokens, power = 0, 1.0, 1.0, 1.0
        for k in range(1, len(guess) + 1):
            power *= rate
            tokens += power
            ratio = times.ratio(rows, k)
            gain = tokens / ratio
            if gain > best_gain and self._affordable(rows, ratio, times):
                best, best_gain = k, gain
        if best == 0:  # what was learned is forgotten slowly: texts change
            self._kept[which] += (0.6 * self._tried[which] - self._kept[which]) / 64
        return guess[:best]

    def settle(self, drafted: int, kept: int, rows: int, ns: int, times: StepTimes) -> None:
        """A decoding step of ``rows`` rows, ``drafted`` of them this sequence's drafts, took ``ns`` and
        gave it ``kept`` tokens more than one."""
        self._decoding_ns += ns
        if not drafted:
            return
        self.drafted += drafted
        self.kept += kept
        tried = kept + (kept < drafted)
        which = self._which
        self._kept[which] = self._kept[which] * 0.9 + kept
        self._tried[which] = self._tried[which] * 0.9 + tried
        plain_ns = times.nanoseconds(rows - drafted)
        assert plain_ns is not None  # or nothing had been affordable
        spent_ns = min(float(ns), plain_ns * rows / (rows - drafted)) - plain_ns
        self._account_ns += kept * plain_ns - spent_ns

    def _affordable(self, rows: int, ratio: float, times: StepTimes) -> bool:
        base = times.nanoseconds(rows)
        if base is None:
            return False
        cost = base * (ratio - 1.0)
        return self._account_ns - cost >= -ALLOWANCE * self._decoding_ns
