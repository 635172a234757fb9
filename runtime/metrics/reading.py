"""What an energy meter says of a span of time: frozen, in joules and seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

#: A mean is given only if at least this share of the span was measured.
MIN_COVERAGE = 0.9

#: ``source`` of a reading that no meter stands behind.
SOURCE_NONE = "none"


@dataclass(frozen=True)
class EnergyReading:
    """Energy of one span.

    ``joules``   energy of ``domains`` over the measured ``seconds``; None: not measured.
    ``seconds``  measured time: the span without its gaps.
    ``source``   ``perf``, ``powercap``, ``hwmon`` or ``none``.
    ``domains``  joules by domain (``package-0``, ``package-0/dram`` …); they add up to ``joules``.
    ``gaps``     unmeasured stretches, (begin, end) in seconds since the span began.
    ``reason``   why joules are missing or incomplete; None if nothing is.
    """

    joules: float | None
    seconds: float
    source: str
    domains: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    gaps: tuple[tuple[float, float], ...] = ()
    reason: str | None = None

    @classmethod
    def none(cls, reason: str) -> EnergyReading:
        """A reading without a meter, and why there is none."""
        return cls(None, 0.0, SOURCE_NONE, reason=reason)

    @property
    def gap_seconds(self) -> float:
        """Unmeasured seconds of the span."""
        return sum(end - begin for begin, end in self.gaps)

    @property
    def coverage(self) -> float:
        """Measured share of the span, 0 … 1."""
        span = self.seconds + self.gap_seconds
        return self.seconds / span if span > 0 else 0.0

    @property
    def watts(self) -> float | None:
        """Mean power over the measured time; None unless MIN_COVERAGE of the span was measured."""
        if self.joules is None or self.seconds <= 0 or self.coverage < MIN_COVERAGE:
            return None
        return self.joules / self.seconds

    @property
    def complete_joules(self) -> float | None:
        """Energy of the whole span: None where a part of it was not measured."""
        return self.joules if not self.gaps else None
