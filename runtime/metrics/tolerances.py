"""By how much two equal executions may differ: one tolerance for each official metric.

The requirements (section 4.7) give two, for ``tokens_per_sec`` and ``watts_avg``, and by these
alone executions are judged. The others follow from them or from how the metric is measured.
"""

from __future__ import annotations

from dataclasses import dataclass

_RATE, _WATTS, _TAIL, _MEMORY = 0.03, 0.05, 0.05, 0.03

#: Of the same tokens the time is the rate's reciprocal: it accepts what the rate accepts.
_TIME = 1 / (1 - _RATE) - 1

#: What two readings of the clock around a token cannot tell apart, in milliseconds.
_CLOCK_MS = 0.01


@dataclass(frozen=True)
class Tolerance:
    """What still counts as the same value.

    ``relative``        accepted change, as a share of the first value.
    ``absolute``        accepted change in the metric's own unit, where the share would be less.
    ``required``        whether the requirements give it, so that executions are judged by it.
    ``more_is_better``  None where neither direction is better.
    """

    relative: float
    absolute: float = 0.0
    required: bool = False
    more_is_better: bool | None = None

    def accepts(self, a: float, b: float) -> bool:
        """Whether ``b`` is the same as ``a``."""
        change = abs(b - a)
        return change <= self.absolute or change <= self.relative * abs(a)


#: By official metric, in their order.
TOLERANCES: dict[str, Tolerance] = {
    "tokens_total": Tolerance(0.0),  # a count
    "tokens_per_sec": Tolerance(_RATE, required=True, more_is_better=True),
    "latency_total_ms": Tolerance(_TIME, _CLOCK_MS, more_is_better=False),
    "latency_p50_ms": Tolerance(_TIME, _CLOCK_MS, more_is_better=False),
    # One of the few slowest tokens, which is noisier than their middle.
    "latency_p95_ms": Tolerance(_TAIL, _CLOCK_MS, more_is_better=False),
    "watts_avg": Tolerance(_WATTS, required=True, more_is_better=False),
    # A quotient of two: what both accept together, it accepts.
    "tokens_per_watt": Tolerance((1 + _RATE) / (1 - _WATTS) - 1, more_is_better=True),
    # Counted, not measured; but prompts of other lengths fill other pages of the KV cache.
    "memory_peak_mb": Tolerance(_MEMORY, more_is_better=False),
}

#: Each entry of ``op_time_ms``, where a plan asks for it: a part of the time, by the same clock.
OP_TIME = Tolerance(_TAIL, _CLOCK_MS, more_is_better=False)
