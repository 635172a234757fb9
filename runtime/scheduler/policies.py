"""The policies the engine ships. Every constant that steers one is a field with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runtime.scheduler.policy import (
    Policy,
    Prefilling,
    View,
    Waiting,
    evenly,
    oldest_first,
    register,
    shortest_first,
)

MILLISECOND = 1_000_000


def beside_decodes(budget: int, view: View, stretch_percent: int) -> int:
    """Prefill tokens of a step that lasts at most ``stretch_percent`` of a pure decode step.

    An eighth of the step even where the estimate allows none: prompts must go on too.
    """
    if not view.decoding:
        return budget
    allowed = view.cost.step_ns(view.decoding, view.kv_tokens) * stretch_percent // 100
    return min(budget, max(view.cost.tokens_within(allowed) - view.decoding, view.step_tokens // 8, 1))


@dataclass(frozen=True)
class FirstComeFirstServed:
    """``default``: admitted in order of arrival, at once; prompts share a step's tokens evenly.
    While anyone decodes, a step may last at most ``stretch_percent`` of a pure decode step:
    a stream slows down behind a long prompt, and does not stand still."""

    name: str = "default"
    stretch_percent: int = 400

    def admission_key(self, waiting: Waiting, view: View) -> tuple[int, ...]:
        return (waiting.order,)

    def hold_ns(self, view: View) -> int:
        return 0

    def prefill_tokens(self, budget: int, view: View) -> int:
        return beside_decodes(budget, view, self.stretch_percent)

    def divide(self, budget: int, prefilling: Sequence[Prefilling]) -> Mapping[str, int]:
        return evenly(budget, prefilling)


@dataclass(frozen=True)
class Latency:
    """``latency``: least expected work first; while anyone decodes, a step may last at most
    ``stretch_percent`` of a pure decode step, so that a long prompt does not stall the streams."""

    name: str = "latency"
    stretch_percent: int = 200

    def admission_key(self, waiting: Waiting, view: View) -> tuple[int, ...]:
        return (
            waiting.prompt_tokens * view.cost.flops_per_token // max(1, view.step_tokens)
            + waiting.max_new_tokens * max(1, view.cost.flops_per_token),
        )

    def hold_ns(self, view: View) -> int:
        return 0

    def prefill_tokens(self, budget: int, view: View) -> int:
        return beside_decodes(budget, view, self.stretch_percent)

    def divide(self, budget: int, prefilling: Sequence[Prefilling]) -> Mapping[str, int]:
        return shortest_first(budget, prefilling)


@dataclass(frozen=True)
class Cost:
    """``cost``: fullest steps, since the weights are read once a step whatever it holds.

    Admissions wait up to ``gather_ns`` until as many are queued as slots are free;
    prompts are prefilled one after the other in whole chunks.
    """

    name: str = "cost"
    gather_ns: int = 20 * MILLISECOND

    def admission_key(self, waiting: Waiting, view: View) -> tuple[int, ...]:
        return (waiting.order,)

    def hold_ns(self, view: View) -> int:
        return 0 if len(view.waiting) >= view.free_slots else self.gather_ns

    def prefill_tokens(self, budget: int, view: View) -> int:
        return budget

    def divide(self, budget: int, prefilling: Sequence[Prefilling]) -> Mapping[str, int]:
        return oldest_first(budget, prefilling)


@dataclass(frozen=True)
class Energy:
    """``energy``: tokens per joule. Sequences that start together share every read of the
    weights, so admissions wait longer for company, and among the queued those of like length
    are taken together (they also end together, and no step is left half empty)."""

    name: str = "energy"
    gather_ns: int = 60 * MILLISECOND

    def admission_key(self, waiting: Waiting, view: View) -> tuple[int, ...]:
        oldest = min(view.waiting, key=lambda w: w.order)
        return (abs(waiting.max_new_tokens - oldest.max_new_tokens),)

    def hold_ns(self, view: View) -> int:
        return 0 if len(view.waiting) >= view.free_slots else self.gather_ns

    def prefill_tokens(self, budget: int, view: View) -> int:
        return budget

    def divide(self, budget: int, prefilling: Sequence[Prefilling]) -> Mapping[str, int]:
        return oldest_first(budget, prefilling)


@dataclass(frozen=True)
class Balanced:
    """``latency_energy_balanced``: a short wait for company only while nothing runs, in order of
    arrival; half of a step's free tokens to prompts while anyone decodes."""

    name: str = "latency_energy_balanced"
    gather_ns: int = 5 * MILLISECOND

    def admission_key(self, waiting: Waiting, view: View) -> tuple[int, ...]:
        return (waiting.order,)

    def hold_ns(self, view: View) -> int:
        idle = not view.decoding and not view.prefilling
        return self.gather_ns if idle and len(view.waiting) < view.free_slots else 0

    def prefill_tokens(self, budget: int, view: View) -> int:
        return max(1, budget // 2) if view.decoding else budget

    def divide(self, budget: int, prefilling: Sequence[Prefilling]) -> Mapping[str, int]:
        return evenly(budget, prefilling)


SHIPPED: tuple[Policy, ...] = (FirstComeFirstServed(), Latency(), Cost(), Energy(), Balanced())

for _policy in SHIPPED:
    register(_policy)
