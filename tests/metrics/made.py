"""A made machine: a sysfs tree with energy counters, a clock, and faults on demand."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.metrics.energy import EnergyMeter
from runtime.metrics.energy_probe import EnergyFinding, describe_energy, probe_meters

RANGE = 262_143_328_850  # microjoules, as of many Intel packages
SCALE = 2.0**-32  # joules a count of the perf PMU


class Counter:
    """A counter of the tree: its truth in joules, and how it is shown."""

    def __init__(self, show: Callable[[float], None], watts: float) -> None:
        self.show, self.watts = show, watts
        self.joules = 0.0
        self.forgotten = 0.0  # joules before the last reset
        self.frozen = False

    def advance(self, seconds: float) -> None:
        self.joules += self.watts * seconds
        if not self.frozen:
            self.show(self.joules - self.forgotten)

    def reset(self) -> None:
        """As after a suspend: the counter begins again, below where it ever stood."""
        self.forgotten = self.joules + 5.0


class Made:
    """The machine. Time passes only in :meth:`run`, and energy with it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.now_ns = 1_000_000_000
        self.counters: dict[str, Counter] = {}
        self.faults: dict[Path, int] = {}
        self.pmu_error: int | None = None
        self._descriptors: dict[tuple[int, int], Path] = {}
        read_text = Path.read_text

        def faulty(path: Path, *args: object, **kwargs: object) -> str:
            if path in self.faults:
                raise OSError(self.faults[path], os.strerror(self.faults[path]), str(path))
            return read_text(path, *args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(Path, "read_text", faulty)

    # ---- building the tree ------------------------------------------------------

    def write(self, path: str, text: object) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
        return file

    def zone(
        self, zone: str, name: str, watts: float = 20.0, *, begin: int = 5_000_000, range: int | None = RANGE
    ) -> Counter:
        """A powercap zone whose counter stands at ``begin`` microjoules."""
        folder = f"class/powercap/{zone}"
        self.write(f"{folder}/name", name)
        if range is not None:
            self.write(f"{folder}/max_energy_range_uj", range)

        def show(joules: float) -> None:
            count = begin + round(joules * 1e6)
            self.write(f"{folder}/energy_uj", count if not range else count % (range + 1))

        show(0.0)
        return self._add(zone, Counter(show, watts))

    def hwmon(self, device: str, driver: str, labels: dict[str, float]) -> None:
        self.write(f"class/hwmon/{device}/name", driver)
        for i, (label, watts) in enumerate(labels.items(), 1):
            self.write(f"class/hwmon/{device}/energy{i}_label", label)

            def show(joules: float, i: int = i) -> None:
                self.write(f"class/hwmon/{device}/energy{i}_input", 1000 + round(joules * 1e6))

            show(0.0)
            self._add(f"{device}/{label}", Counter(show, watts))

    def pmu(self, cpus: str, events: dict[str, tuple[int, list[float]]], unit: str = "Joules") -> None:
        """The power PMU: event name → (event code, watts on each CPU of the mask)."""
        folder = "bus/event_source/devices/power"
        self.write(f"{folder}/type", 22)
        self.write(f"{folder}/cpumask", cpus)
        for event, (code, watts) in events.items():
            self.write(f"{folder}/events/{event}", f"event=0x{code:02x}")
            self.write(f"{folder}/events/{event}.unit", unit)
            self.write(f"{folder}/events/{event}.scale", SCALE)
            for cpu, power in zip([int(c) for c in cpus.split(",")], watts, strict=True):
                file = self.root / f"fd-{code}-{cpu}"

                def show(joules: float, file: Path = file) -> None:
                    # A perf event gives its present count at every read; a file moves on. So it
                    # holds the count many times over.
                    count = round(joules / SCALE).to_bytes(8, "little") * 1000
                    with file.open("r+b" if file.exists() else "wb") as out:
                        out.write(count)

                show(0.0)
                self._descriptors[code, cpu] = file
                self._add(f"{event}/{cpu}", Counter(show, power))

    def open_event(self, pmu: int, config: int, cpu: int) -> int:
        if self.pmu_error is not None:
            raise OSError(self.pmu_error, os.strerror(self.pmu_error))
        assert pmu == 22
        return os.open(self._descriptors[config, cpu], os.O_RDONLY)

    def _add(self, name: str, counter: Counter) -> Counter:
        self.counters[name] = counter
        return counter

    # ---- what happens to it -----------------------------------------------------

    def run(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)
        for counter in self.counters.values():
            counter.advance(seconds)

    def counter_file(self, zone: str) -> Path:
        return self.root / f"class/powercap/{zone}/energy_uj"

    def fail(self, zone: str, number: int = errno.EIO) -> None:
        self.faults[self.counter_file(zone)] = number

    def heal(self, zone: str) -> None:
        del self.faults[self.counter_file(zone)]

    def unplug(self, zone: str) -> None:
        del self.counters[zone]
        shutil.rmtree(self.root / f"class/powercap/{zone}")

    # ---- looking at it ----------------------------------------------------------

    def clock(self) -> int:
        return self.now_ns

    def meter(self) -> EnergyMeter:
        return probe_meters(
            self.root,
            load=lambda: self.run(0.05),
            open_event=self.open_event,
            clock=self.clock,
            sampling=False,
        )

    def findings(self) -> dict[str, EnergyFinding]:
        found = describe_energy(
            self.root, load=lambda: self.run(0.05), open_event=self.open_event, clock=self.clock
        )
        return {finding.source: finding for finding in found}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """An empty made machine."""
    return Made(tmp_path / "sys", monkeypatch)
