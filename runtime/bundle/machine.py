"""What this machine offers an execution: cores, CPU features, memory, a meter.

The counts are those the process may use, not those the host has: a cgroup's CPU
quota and the affinity mask decide (kernel documentation: admin-guide/cgroup-v2.rst,
``cpu.max``; scheduler/sched-bwc.rst, ``cpu.cfs_quota_us``). Every root is a
parameter, so a test can describe a machine as a directory.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import EXIT_MACHINE, EngineError


@dataclass(frozen=True)
class Machine:
    """A frozen probe of the machine.

    ``cpus``              CPU numbers in the order threads should take them: one of each
                          physical core first, then their siblings; affinity applied.
    ``physical_cores``    distinct physical cores among ``cpus``.
    ``quota``             CPUs' worth of time the cgroup grants, or None where unlimited.
    ``threads``           how many threads a plan gets by default: one a physical core, as far as
                          affinity and quota allow.
    ``threads_because``   which of these decided that, in words.
    ``features``          CPU flags as ``/proc/cpuinfo`` spells them.
    ``memory_total``      bytes; the smaller of the machine's and the cgroup's limit.
    ``memory_available``  bytes that can still be taken without swapping.
    ``has_energy_meter``  an energy counter exists, can be read and is not stuck at zero.
    """

    cpu_model: str
    cpus: tuple[int, ...]
    physical_cores: int
    quota: float | None
    threads: int
    threads_because: str
    features: frozenset[str]
    memory_total: int
    memory_available: int
    has_energy_meter: bool

    def require_features(self, backend: str, needed: Collection[str]) -> None:
        """Raises ``unsupported_cpu`` where a feature that ``backend`` needs is missing."""
        missing = sorted(set(needed) - self.features)
        if missing:
            raise EngineError(
                "unsupported_cpu",
                f"backend {backend!r} needs {', '.join(missing)}, which this CPU ({self.cpu_model}) lacks",
                path="backend",
                hint="choose a backend that `engine doctor` lists as usable, such as 'reference'",
                exit_code=EXIT_MACHINE,
            )

    @classmethod
    def probe(
        cls,
        proc: Path = Path("/proc"),
        sys: Path = Path("/sys"),
        affinity: Collection[int] | None = None,
    ) -> Machine:
        """Reads the machine; ``affinity`` defaults to the calling process's own mask."""
        allowed = sorted(os.sched_getaffinity(0) if affinity is None else affinity)
        model, features = _cpuinfo(proc)
        cpus, physical = _physical_first(allowed, sys)
        quota = _cpu_quota(proc, sys)
        threads = max(1, physical if quota is None else min(physical, int(quota)))
        total, available = _memory(proc, sys)
        return cls(
            cpu_model=model,
            cpus=cpus,
            physical_cores=physical,
            quota=quota,
            threads=threads,
            threads_because=_because(threads, physical, len(cpus), quota, _cores_of_the_host(sys)),
            features=features,
            memory_total=total,
            memory_available=available,
            has_energy_meter=_has_energy_meter(sys),
        )


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _integer(path: Path) -> int | None:
    text = _text(path)
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def _cpuinfo(proc: Path) -> tuple[str, frozenset[str]]:
    model, flags = "unknown", frozenset[str]()
    for line in (_text(proc / "cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            model = value.strip()
        elif name.strip() == "flags":
            flags = frozenset(value.split())
            break  # the first CPU speaks for all: x86 Linux offers only flags that all have
    return model, flags


def _physical_first(allowed: list[int], sys: Path) -> tuple[tuple[int, ...], int]:
    """CPUs ordered core by core, then sibling by sibling, and the number of cores."""
    seen: dict[tuple[int, int], int] = {}
    ranked = []
    for cpu in allowed:
        topology = sys / "devices/system/cpu" / f"cpu{cpu}" / "topology"
        core, package = _integer(topology / "core_id"), _integer(topology / "physical_package_id")
        # Without a topology every CPU counts as a core of its own.
        key = (package or 0, core) if core is not None else (-1, cpu)
        ranked.append((seen.get(key, 0), cpu))
        seen[key] = seen.get(key, 0) + 1
    return tuple(cpu for _, cpu in sorted(ranked)), max(1, len(seen))


def _cores_of_the_host(sys: Path) -> int:
    """Physical cores that show a topology, whatever the process may use of them."""
    folder = sys / "devices/system/cpu"
    present = [int(path.parent.name[3:]) for path in folder.glob("cpu[0-9]*/topology")]
    return _physical_first(sorted(present), sys)[1] if present else 0


def _because(threads: int, cores: int, cpus: int, quota: float | None, host_cores: int) -> str:
    """What bounds ``threads``: the cgroup's quota, the affinity mask or the cores there are."""
    noun = f"physical core{'s' * (cores != 1)}"
    if quota is not None and quota < cores:
        return f"the cgroup grants {quota:g} CPUs of time, for {cores} {noun}"
    if cores < host_cores:
        return f"affinity allows {cores} of {host_cores} physical cores"
    if cpus > cores:
        return f"{cores} {noun}; of {cpus} CPUs the others share a core with one of these"
    return f"{cores} {noun}, as far as the CPUs' topology shows"


def _cgroup_folders(proc: Path, sys: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """The process's own cgroup and its ancestors, with whether they are version 2.

    Inside a container the path of ``/proc/self/cgroup`` may be the host's and not
    exist below the mount; the mount's root is then the container's own group.
    """
    for line in (_text(proc / "self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        names, _, group = rest.partition(":")
        if not names:
            roots, version2 = (sys / "fs/cgroup", sys / "fs/cgroup/unified"), True
        elif controller in names.split(","):
            roots, version2 = (sys / "fs/cgroup" / controller, sys / "fs/cgroup" / names), False
        else:
            continue
        for root in roots:
            folder = root / group.lstrip("/")
            while folder != root and root in folder.parents:
                yield folder, version2
                folder = folder.parent
            yield root, version2


def _cpu_quota(proc: Path, sys: Path) -> float | None:
    quotas = []
    for folder, version2 in _cgroup_folders(proc, sys, "cpu"):
        if version2:
            words = (_text(folder / "cpu.max") or "").split()
            if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
                quotas.append(int(words[0]) / int(words[1]))
        else:
            quota, period = _integer(folder / "cpu.cfs_quota_us"), _integer(folder / "cpu.cfs_period_us")
            if quota is not None and quota > 0 and period:
                quotas.append(quota / period)
    return min(quotas, default=None)


def _memory(proc: Path, sys: Path) -> tuple[int, int]:
    fields = {}
    for line in (_text(proc / "meminfo") or "").splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if words and words[0].isdigit():
            fields[name] = int(words[0]) * 1024
    total = host = fields.get("MemTotal", 0)
    available = fields.get("MemAvailable", fields.get("MemFree", 0))
    for folder, version2 in _cgroup_folders(proc, sys, "memory"):
        limit = _integer(folder / ("memory.max" if version2 else "memory.limit_in_bytes"))
        used = _integer(folder / ("memory.current" if version2 else "memory.usage_in_bytes"))
        if limit is None or limit >= host:  # "max", or version 1's way to say so: an absurd number
            continue
        total = min(total, limit)
        if used is not None:
            available = min(available, max(0, limit - used + _reclaimable(folder)))
    return total, min(available, total)


def _reclaimable(folder: Path) -> int:
    """Bytes of page cache charged to the group that the kernel drops before it refuses memory."""
    for line in (_text(folder / "memory.stat") or "").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file") and value.isdigit():
            return int(value)
    return 0


def _has_energy_meter(sys: Path) -> bool:
    """Whether a powercap zone or a hwmon counter gives a number above zero, or a power PMU exists.

    A quick look for validation; what is measured, and how, is decided by the meters.
    """
    patterns = ("class/powercap/*/energy_uj", "class/hwmon/hwmon*/energy*_input")
    if any((_integer(path) or 0) > 0 for pattern in patterns for path in sys.glob(pattern)):
        return True
    return any(sys.glob("bus/event_source/devices/power/events/energy-*"))
