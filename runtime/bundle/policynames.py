"""Names of scheduler policies that a plan may give, for those who read plans and know no scheduler.

A policy is the engine's own, or a package's that declares it as an entry point of the group
``engine.policies``, or one that this process has registered.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

GROUP = "engine.policies"

#: The engine's own, known even where it runs from a checkout.
SHIPPED = ("default", "latency", "cost", "energy", "latency_energy_balanced")

_announced: list[str] = []


def announce(name: str) -> None:
    """Makes a name known to plans of this process; the scheduler's registry calls it."""
    if name not in (*SHIPPED, *_announced):
        _announced.append(name)


def installed_policies() -> dict[str, EntryPoint]:
    """Entry points of the policies of installed packages by name, without importing them."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}


def known_policies() -> tuple[str, ...]:
    """Every name a plan may give: the engine's own, then the others."""
    return tuple(dict.fromkeys((*SHIPPED, *_announced, *installed_policies())))
