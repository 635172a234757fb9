"""The interface of a scheduler policy and the registry of names.

A policy answers three questions and holds no state; the scheduler keeps the
promises that hold under every policy (a decode is never left out while it fits,
nobody is passed over more than a bounded number of times, a step never exceeds
its tokens), so a policy cannot break them.

To add one: write a small class with a ``name`` and these methods, and declare an object of it in a
package's entry points, group ``engine.policies``, under its name; or call :func:`register`, for one process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Protocol, runtime_checkable

from runtime.bundle.policynames import announce, installed_policies
from runtime.bundle.spelling import did_you_mean
from runtime.errors import EXIT_PLAN, EngineError
from runtime.scheduler.cost import CostModel


@dataclass(frozen=True)
class Waiting:
    """A queued execution: ``order`` is its place of arrival, ``since_ns`` when it came."""

    id: str
    order: int
    since_ns: int
    prompt_tokens: int
    max_new_tokens: int
    deadline_ns: int | None


@dataclass(frozen=True)
class Prefilling:
    """A resident execution whose prompt has ``remaining`` >= 1 tokens to go."""

    id: str
    order: int
    remaining: int


@dataclass(frozen=True)
class View:
    """What a policy may look at. Counts are of this moment, before the step is filled."""

    now_ns: int
    slots: int
    free_slots: int
    step_tokens: int
    decoding: int
    kv_tokens: int
    waiting: tuple[Waiting, ...]
    prefilling: tuple[Prefilling, ...]
    cost: CostModel


@runtime_checkable
class Policy(Protocol):
    """Stateless choices; every method is a pure function of its arguments."""

    @property
    def name(self) -> str: ...

    def admission_key(self, waiting: Waiting, view: View) -> tuple[int, ...]:
        """Sort key: the smallest is admitted first. Ties fall to the order of arrival."""
        ...

    def hold_ns(self, view: View) -> int:
        """How long after the oldest arrival admissions wait for company; 0: admit now.

        Asked only while somebody waits and a slot is free.
        """
        ...

    def prefill_tokens(self, budget: int, view: View) -> int:
        """Most prefill tokens of this step, out of ``budget`` >= 1 left after the decodes."""
        ...

    def divide(self, budget: int, prefilling: Sequence[Prefilling]) -> Mapping[str, int]:
        """Tokens for each prefill, at most ``budget`` in all and ``remaining`` each."""
        ...


_REGISTRY: dict[str, Policy] = {}


def register(policy: Policy) -> None:
    """Makes a policy known by its name; a name is registered once."""
    if policy.name in _REGISTRY:
        raise ValueError(f"scheduler policy {policy.name!r} is registered already")
    _REGISTRY[policy.name] = policy
    announce(policy.name)


def get(name: str) -> Policy:
    """The policy of that name; that of an installed package is imported when it is first asked for.

    Raises ``unknown_scheduler_policy``, and ``scheduler_policy_invalid`` if what a package
    declares cannot be imported or is no policy of that name.
    """
    if (known := _REGISTRY.get(name)) is not None:
        return known
    point = installed_policies().get(name)
    if point is None:
        raise EngineError(
            "unknown_scheduler_policy",
            f"there is no scheduler policy {name!r}",
            path="scheduler_policy",
            allowed=", ".join(names()),
            hint=did_you_mean(name, names()),
            exit_code=EXIT_PLAN,
        )
    policy = _load(point)
    return _REGISTRY.setdefault(name, policy)


def _load(point: EntryPoint) -> Policy:
    try:
        policy = point.load()
    except Exception as cause:  # a third party's module may raise anything
        raise _invalid(point, f"cannot be imported: {cause}") from cause
    if isinstance(policy, type) or not isinstance(policy, Policy) or policy.name != point.name:
        raise _invalid(point, f"is not an object with a policy's methods and the name {point.name!r}")
    return policy


def _invalid(point: EntryPoint, what: str) -> EngineError:
    return EngineError(
        "scheduler_policy_invalid",
        f"the scheduler policy {point.name!r} ({point.value}) {what}",
        path="scheduler_policy",
        hint="the package that declares it in engine.policies is at fault",
        exit_code=EXIT_PLAN,
    )


def names() -> tuple[str, ...]:
    """Registered names, in order of registration, then those of installed packages."""
    return tuple(dict.fromkeys((*_REGISTRY, *installed_policies())))


def oldest_first(budget: int, prefilling: Sequence[Prefilling]) -> dict[str, int]:
    """The budget to the oldest prompt, what it leaves to the next."""
    given: dict[str, int] = {}
    for entry in sorted(prefilling, key=lambda p: p.order):
        count = min(entry.remaining, budget)
        if count == 0:
            break
        given[entry.id] = count
        budget -= count
    return given


def shortest_first(budget: int, prefilling: Sequence[Prefilling]) -> dict[str, int]:
    """Half the budget evenly, so that no prompt stands still, the rest to the shortest remainder."""
    given = evenly(budget // 2, prefilling)
    budget -= sum(given.values())
    for entry in sorted(prefilling, key=lambda p: (p.remaining, p.order)):
        count = min(entry.remaining - given.get(entry.id, 0), budget)
        if count > 0:
            given[entry.id] = given.get(entry.id, 0) + count
            budget -= count
    return given


def evenly(budget: int, prefilling: Sequence[Prefilling]) -> dict[str, int]:
    """Equal shares (max-min fair); what cannot be divided goes to the oldest.

    A short prompt therefore ends in its first step, whatever else is being
    prefilled, as long as it is no longer than its share.
    """
    given: dict[str, int] = {}
    by_length = sorted(prefilling, key=lambda p: (p.remaining, -p.order))
    for index, entry in enumerate(by_length):
        count = min(entry.remaining, budget // (len(by_length) - index))
        if count:
            given[entry.id] = count
            budget -= count
    for entry in sorted(prefilling, key=lambda p: p.order):
        extra = min(entry.remaining - given.get(entry.id, 0), budget)
        if extra > 0:
            given[entry.id] = given.get(entry.id, 0) + extra
            budget -= extra
    return given
