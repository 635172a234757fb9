"""Sampling parameters as people write them: bounds, validation, and what each one does.

:class:`Sampling` (in :mod:`runtime.engine.types`) is the frozen set of parameters;
its fields are those of ``engine_sampling`` in the C ABI, and ``kernels_c/sampling.c``
documents the order in which they apply.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from runtime.engine.request import Sampling
from runtime.errors import EXIT_RUN, EngineError


@dataclass(frozen=True)
class Bound:
    """``low <= value <= high``; ``meaning`` is for messages and generated documentation."""

    integer: bool
    low: float
    high: float
    meaning: str

    @property
    def allowed(self) -> str:
        """The bound as text."""
        kind = "an integer" if self.integer else "a number"
        return f"{kind} from {self.low:.16g} to {self.high:.16g}"

    def holds(self, value: object) -> bool:
        """Whether ``value`` is a number of the right kind in range."""
        if isinstance(value, bool) or not isinstance(value, int if self.integer else int | float):
            return False
        return math.isfinite(value) and self.low <= value <= self.high


#: The parameters in the order in which they apply. ``sampling.c`` refuses what lies outside.
BOUNDS: dict[str, Bound] = {
    "repetition_penalty": Bound(False, 1e-6, 1000, "divides positive logits of tokens already seen; 1: off"),
    "frequency_penalty": Bound(False, -1000, 1000, "subtracted once for each time a token was seen; 0: off"),
    "presence_penalty": Bound(False, -1000, 1000, "subtracted if a token was seen at all; 0: off"),
    "dry_multiplier": Bound(False, 0, 1000, "what a token that would prolong a repetition loses; 0: off"),
    "dry_base": Bound(False, 1, 100, "factor of that loss for each token the repetition is longer"),
    "dry_allowed_length": Bound(True, 1, (1 << 31) - 1, "repetitions shorter than this cost nothing"),
    "dry_penalty_last_n": Bound(True, -1, (1 << 31) - 1, "how many of the last tokens DRY looks at; -1: all"),
    "top_k": Bound(True, 0, (1 << 31) - 1, "keeps the k most likely tokens; 0: off"),
    "typical_p": Bound(False, 0, 1, "keeps the tokens of typical surprise up to this share; 1: off"),
    "top_p": Bound(False, 0, 1, "keeps the most likely tokens up to this share; 1: off"),
    "min_p": Bound(False, 0, 1, "keeps tokens at least this likely, relative to the likeliest; 0: off"),
    "xtc_probability": Bound(False, 0, 1, "how often the most probable tokens are excluded; 0: off"),
    "xtc_threshold": Bound(False, 0, 1, "of tokens at least this probable only the last one stays"),
    "temperature": Bound(False, 0, 1e6, "divides the logits of what is left; 0: greedy"),
    "seed": Bound(True, 0, (1 << 64) - 1, "with a token's position, determines the draw"),
}


def validated_sampling(sampling: Sampling) -> Sampling:
    """A copy of ``sampling``; EngineError ``invalid_request`` with every field that is out of range."""
    return sampling_of(vars(sampling))


def sampling_of(values: Mapping[str, Any], base: Sampling | None = None) -> Sampling:
    """``base`` (default: all off) with ``values`` in it, as a request's JSON has them.

    Raises EngineError ``invalid_request``; all faults together, in ``causes``.
    """
    faults = []
    for name, value in values.items():
        bound, path = BOUNDS.get(name), f"sampling.{name}"
        if name == "dry_sequence_breakers":
            faults += _breaker_faults(path, value)
            continue
        if bound is None:
            near = difflib.get_close_matches(name, BOUNDS, n=1)
            hint = f"did you mean {near[0]}?" if near else None
            faults.append(_fault(path, "there is no such parameter", ", ".join(BOUNDS), hint))
        elif not bound.holds(value):
            faults.append(_fault(path, f"{value!r} is not allowed", bound.allowed, bound.meaning))
    if len(faults) == 1:
        raise faults[0]
    if faults:
        message = f"{len(faults)} sampling parameters are wrong"
        raise EngineError("invalid_request", message, exit_code=EXIT_RUN, causes=tuple(faults))
    made = replace(base or Sampling(), **values)
    return replace(made, dry_sequence_breakers=tuple(made.dry_sequence_breakers))


def _breaker_faults(path: str, value: object) -> list[EngineError]:
    fine = isinstance(value, list | tuple) and all(isinstance(item, str) and item for item in value)
    return [] if fine else [_fault(path, f"{value!r:.60} is not allowed", "texts that are not empty")]


def _fault(path: str, message: str, allowed: str, hint: str | None = None) -> EngineError:
    return EngineError("invalid_request", message, path, allowed, hint, EXIT_RUN)
