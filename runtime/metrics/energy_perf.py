"""Energy counters of the kernel's ``power`` perf PMU, which undoes wraps itself.

Opening one needs CAP_PERFMON or ``kernel.perf_event_paranoid`` <= 0, since the
counters are system-wide. See perf_event_open(2) and arch/x86/events/rapl.c.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cffi

from runtime.metrics.energy_sysfs import read_number, read_word

#: perf_event_open: (PMU type, config, cpu) -> file descriptor. Raises OSError.
OpenEvent = Callable[[int, int, int], int]

#: Events that are summed; psys and gpu are not, cores lie inside pkg.
EVENTS = {"energy-pkg": "package", "energy-ram": "dram"}

_SYS_PERF_EVENT_OPEN = 298  # x86_64
_ATTR_SIZE = 64  # PERF_ATTR_SIZE_VER0: every kernel knows it
_FLAG_CLOEXEC = 8


def open_event(pmu: int, config: int, cpu: int) -> int:
    """perf_event_open(2) for all processes on one CPU, counting; the descriptor."""
    ffi = cffi.FFI()
    ffi.cdef("long syscall(long number, ...);")
    libc: Any = ffi.dlopen(None)
    attributes = ffi.new("uint64_t[8]")  # struct perf_event_attr, version 0
    attributes[0] = pmu | _ATTR_SIZE << 32
    attributes[1] = config
    descriptor = libc.syscall(
        _SYS_PERF_EVENT_OPEN,
        attributes,
        ffi.cast("long", -1),
        ffi.cast("long", cpu),
        ffi.cast("long", -1),
        ffi.cast("unsigned long", _FLAG_CLOEXEC),
    )
    if descriptor < 0:
        raise OSError(ffi.errno, os.strerror(ffi.errno))
    return int(descriptor)


@dataclass(frozen=True)
class PerfCounter:
    """One event on one package's CPU; a read gives eight bytes, a 64-bit count."""

    domain: str
    kind: str
    descriptor: int
    joules_per_count: float
    count_range: int | None = None

    def read(self) -> int:
        """The count. Raises OSError; ValueError on a short read."""
        data = os.read(self.descriptor, 8)
        if len(data) != 8:
            raise ValueError(f"{self.domain}: read {len(data)} of 8 bytes")
        return int.from_bytes(data, "little")

    def close(self) -> None:
        """Closes the descriptor."""
        os.close(self.descriptor)


def parse_cpus(text: str) -> list[int]:
    """``0,28`` or ``0-1,4`` as a list of CPUs. Raises ValueError."""
    cpus: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part.strip())
        if match is None:
            raise ValueError(f"no list of CPUs: {text!r}")
        cpus += range(int(match[1]), int(match[2] or match[1]) + 1)
    return cpus


def perf_counters(sysfs_root: Path, open_event: OpenEvent = open_event) -> list[PerfCounter]:
    """Package and DRAM events of the ``power`` PMU; empty where the machine has no such PMU.

    Raises OSError (EACCES and EPERM above all) if an event cannot be opened, and
    ValueError if the PMU describes itself in a way that is not understood.
    """
    folder = sysfs_root / "bus" / "event_source" / "devices" / "power"
    pmu = read_number(folder / "type")
    if pmu is None:
        return []
    cpus = parse_cpus(read_word(folder / "cpumask") or "")
    counters: list[PerfCounter] = []
    try:
        for event, kind in EVENTS.items():
            definition = read_word(folder / "events" / event)
            if definition is None:
                continue
            match = re.fullmatch(r"event=(0x[0-9a-fA-F]{1,4}|\d{1,4})", definition)
            unit = read_word(folder / "events" / f"{event}.unit")
            scale = float(read_word(folder / "events" / f"{event}.scale") or "nan")
            if match is None or unit != "Joules" or not 0 < scale < 1:
                raise ValueError(f"{event}: {definition!r}, {scale} {unit}")
            for i, cpu in enumerate(cpus):
                domain = f"package-{i}" if kind == "package" else f"package-{i}/dram"
                descriptor = open_event(pmu, int(match[1], 0), cpu)
                counters.append(PerfCounter(domain, kind, descriptor, scale))
    except BaseException:
        for counter in counters:
            counter.close()
        raise
    return counters
