"""Energy of executions that share steps: each step's joules, divided by work."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from fractions import Fraction
from math import frexp
from types import MappingProxyType

from runtime.metrics.energy import EnergyMark, EnergyMeter
from runtime.metrics.reading import EnergyReading


def share_step(joules: float, works: Sequence[float]) -> list[float]:
    """``joules`` divided in proportion to ``works``; the shares add up to it exactly.

    The joules are dealt out as integers in units of their own last place (largest
    remainder first, ties to the earlier), so that the floating-point sum is exact
    in any order. Equal shares where nobody had work. Raises ValueError on a
    negative or non-finite amount, and where there is nobody to share.
    """
    if not works:
        raise ValueError("nobody to share the step's energy")
    if not (0 <= joules < float("inf")) or not all(0 <= work < float("inf") for work in works):
        raise ValueError("joules and works must be finite and not negative")
    mantissa, exponent = frexp(joules)
    units = int(mantissa * 2**53)  # joules == units * 2^(exponent - 53), exactly
    total = sum(map(Fraction, works))
    parts = [Fraction(w) / total for w in works] if total else [Fraction(1, len(works))] * len(works)
    exact = [units * part for part in parts]
    dealt = [int(amount) for amount in exact]
    by_remainder = sorted(range(len(works)), key=lambda i: (dealt[i] - exact[i], i))
    for i in by_remainder[: units - sum(dealt)]:
        dealt[i] += 1
    return [float(Fraction(amount) * Fraction(2) ** (exponent - 53)) for amount in dealt]


class _Account:
    """What one execution has been charged so far."""

    def __init__(self, opened: EnergyMark) -> None:
        self.opened = opened
        self.joules = 0.0
        self.domains: dict[str, float] = {}


class EnergyLedger:
    """Charges the meter's joules to the executions that are active. One thread at a time.

    While any execution is open every joule goes to somebody: what passed between
    two calls of :meth:`step` (waiting included) is shared by the work of the
    later step. While none is open nothing is charged, so idle time is excluded.
    """

    def __init__(self, meter: EnergyMeter) -> None:
        self.meter = meter
        self._mark: EnergyMark | None = None
        self._accounts: dict[Hashable, _Account] = {}
        self._totals: dict[str, float] = {}

    def open(self, key: Hashable) -> None:
        """An execution begins. Its span is measured from here."""
        if key in self._accounts:
            raise ValueError(f"{key!r} is open already")
        if not self._accounts:
            self._mark = self.meter.start()
            self._accounts[key] = _Account(self._mark)
        else:
            self._accounts[key] = _Account(self.meter.mark())

    def step(self, works: Mapping[Hashable, float]) -> EnergyReading:
        """A step has ended: shares what it took by ``works`` (open keys only); returns the whole."""
        if self._mark is None or not self._accounts:
            raise ValueError("no execution is open")
        if unknown := [key for key in works if key not in self._accounts]:
            raise ValueError(f"not open: {unknown!r}")
        reading, self._mark = self.meter.advance(self._mark)
        keys = list(works) or list(self._accounts)
        weights = [works[key] for key in keys] if works else [1.0] * len(keys)
        for domain, joules in reading.domains.items():
            self._totals[domain] = self._totals.get(domain, 0.0) + joules
            for key, share in zip(keys, share_step(joules, weights), strict=True):
                domains = self._accounts[key].domains
                domains[domain] = domains.get(domain, 0.0) + share
        if reading.joules is not None:
            for key, share in zip(keys, share_step(reading.joules, weights), strict=True):
                self._accounts[key].joules += share
        return reading

    def joules(self, key: Hashable) -> float | None:
        """Charged so far to an open execution; None without a meter."""
        account = self._accounts[key]
        return account.joules if self.meter.available else None

    def close(self, key: Hashable) -> EnergyReading:
        """An execution has ended: its reading, over its own active time."""
        account = self._accounts.pop(key)
        whole = self.meter.read(account.opened)
        if not self._accounts:
            self._mark = None
        if whole.joules is None:
            return whole
        if not account.joules:
            reason = "shorter than the counter's refresh"
            return EnergyReading(None, whole.seconds, whole.source, gaps=whole.gaps, reason=reason)
        return EnergyReading(
            account.joules,
            whole.seconds,
            whole.source,
            MappingProxyType(account.domains),
            whole.gaps,
            whole.reason,
        )

    @property
    def totals(self) -> Mapping[str, float]:
        """Joules charged since the ledger was made, by domain: a counter that only grows."""
        return MappingProxyType(self._totals)
