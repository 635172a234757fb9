"""Finds a source of energy that works: every candidate is read twice under load.

A counter that exists proves nothing: in a virtual machine it may be missing,
read 0, or stand still. The first source whose packages all advance by a
plausible amount is taken, in the order perf PMU, powercap, hwmon; if none does,
the meter says why and what would help.
"""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.metrics.energy import Counter, EnergyMeter, difference
from runtime.metrics.energy_perf import OpenEvent, open_event, perf_counters
from runtime.metrics.energy_sysfs import hwmon_counters, powercap_counters, uncounted_zones

#: Rounds of load before a counter that does not move is called frozen.
PROBE_ROUNDS = 3

PERF_FIX = (
    "sudo sysctl kernel.perf_event_paranoid=0, or CAP_PERFMON for the process "
    "(systemd: AmbientCapabilities=CAP_PERFMON)"
)
POWERCAP_FIX = (
    "sudo chmod a+r /sys/class/powercap/*/energy_uj (until the next boot; it lets every local user "
    "observe power, CVE-2020-8694), or run as a user who may read them"
)
HWMON_FIX = "sudo chmod a+r /sys/class/hwmon/*/energy*_input, or run as a user who may read them"
MISSING_FIX = (
    "on the machine itself: sudo modprobe intel_rapl_msr (Intel and AMD); a virtual machine or a "
    "container sees counters only if its host passes them on"
)
FROZEN_FIX = "counters that stand still are usual in a virtual machine: measure on the host"


@dataclass(frozen=True)
class EnergyFinding:
    """What became of one candidate.

    ``status``: ``ok``, ``missing``, ``permission``, ``zero``, ``frozen`` or ``unusable``.
    ``fix`` is None where nothing needs mending.
    """

    source: str
    status: str
    detail: str
    fix: str | None = None


def burn(seconds: float = 0.06) -> None:
    """Keeps one core busy, so that a working counter must advance."""
    block = bytes(1 << 18)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        hashlib.blake2b(block).digest()


def probe_meters(
    sysfs_root: str | Path = "/sys",
    *,
    load: Callable[[], None] = burn,
    open_event: OpenEvent = open_event,
    clock: Callable[[], int] = time.monotonic_ns,
    sampling: bool = True,
) -> EnergyMeter:
    """The meter of the first source that works, or one without counters that says why.

    ``load`` runs between the two reads of a probe; ``clock`` gives monotonic
    nanoseconds. Takes about 0.1 s where a counter exists, nothing where none does.
    """
    findings, source, counters = _probe(Path(sysfs_root), load, open_event, clock)
    if counters:
        return EnergyMeter(source, counters, clock=clock, sampling=sampling)
    troubled = [f for f in findings if f.status != "missing"] or findings[:1]
    reason = "; ".join(f"{f.source}: {f.detail}" for f in troubled)
    if len(troubled) == 1 and troubled[0].status == "missing":
        reason = "no energy counter: neither a power perf PMU, nor powercap (RAPL), nor hwmon"
    return EnergyMeter("none", (), reason=reason, fix=troubled[0].fix, clock=clock)


def describe_energy(
    sysfs_root: str | Path = "/sys",
    *,
    load: Callable[[], None] = burn,
    open_event: OpenEvent = open_event,
    clock: Callable[[], int] = time.monotonic_ns,
) -> list[EnergyFinding]:
    """What was found of each source in order of preference; the first ``ok`` is the one used."""
    findings, _, counters = _probe(Path(sysfs_root), load, open_event, clock)
    for counter in counters:
        counter.close()
    return findings


def _probe(
    root: Path, load: Callable[[], None], open_event: OpenEvent, clock: Callable[[], int]
) -> tuple[list[EnergyFinding], str, Sequence[Counter]]:
    sources: dict[str, tuple[Callable[[], Sequence[Counter]], str]] = {
        "perf": (lambda: perf_counters(root, open_event), PERF_FIX),
        "powercap": (lambda: powercap_counters(root), POWERCAP_FIX),
        "hwmon": (lambda: hwmon_counters(root), HWMON_FIX),
    }
    findings: list[EnergyFinding] = []
    for source, (find, permission_fix) in sources.items():
        try:
            counters: Sequence[Counter] = find()
        except (OSError, ValueError) as error:
            findings.append(_failure(source, error, permission_fix))
            continue
        finding, working = _examine(source, counters, load, clock, permission_fix, root)
        findings.append(finding)
        for counter in counters:
            if counter not in working:
                counter.close()
        if working:
            return findings, source, working
    return findings, "none", ()


def _failure(source: str, error: Exception, permission_fix: str) -> EnergyFinding:
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM):
        return EnergyFinding(source, "permission", f"not permitted: {error}", permission_fix)
    return EnergyFinding(source, "unusable", f"cannot be read: {error}", MISSING_FIX)


def _examine(
    source: str,
    counters: Sequence[Counter],
    load: Callable[[], None],
    clock: Callable[[], int],
    permission_fix: str,
    root: Path,
) -> tuple[EnergyFinding, list[Counter]]:
    """Reads every counter before and after load. A package that fails fails the source; DRAM is left out."""
    packages = [counter for counter in counters if counter.kind == "package"]
    if not packages:
        others = uncounted_zones(root) if source == "powercap" else []
        beside = f" (only {', '.join(others)}, which is not a package)" if others else ""
        return EnergyFinding(source, "missing", f"no counter of a CPU package{beside}", MISSING_FIX), []
    working: list[Counter] = []
    notes: list[str] = []
    for counter in counters:
        try:
            trouble = _trouble(counter, load, clock)
        except (OSError, ValueError) as error:
            failure = _failure(source, error, permission_fix)
            if counter.kind == "package":
                return failure, []
            notes.append(f"{counter.domain} left out, {failure.detail}")
            continue
        if trouble is None:
            working.append(counter)
        elif counter.kind == "package":
            status, detail = trouble
            return EnergyFinding(source, status, f"{counter.domain} {detail}", FROZEN_FIX), []
        else:
            notes.append(f"{counter.domain} left out, it {trouble[1]}")
    domains = ", ".join(counter.domain for counter in working)
    return EnergyFinding(source, "ok", "; ".join([domains, *notes])), working


def _trouble(counter: Counter, load: Callable[[], None], clock: Callable[[], int]) -> tuple[str, str] | None:
    """(status, what is wrong) with a counter, or None if it advances as energy does."""
    begin, first = clock(), counter.read()
    last = first
    for _ in range(PROBE_ROUNDS):
        load()
        last = counter.read()
        if last != first:
            break
    if last == first:
        return ("zero", "reads 0") if first == 0 else ("frozen", f"stands still at {first} under load")
    if difference(counter, first, last, (clock() - begin) / 1e9) is None:
        return "unusable", f"went from {first} to {last} in {(clock() - begin) / 1e9:.3g} s, which no CPU can"
    return None
