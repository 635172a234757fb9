"""On forty made machines: the right source, the right domains, and never an invented watt.

Every case says what the machine looks like, what happens to it during a span, and
what the reading must be. Whatever the case, a watt is None or the truth.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite

import pytest

from runtime.metrics.energy import EnergyMeter
from runtime.metrics.reading import EnergyReading
from tests.metrics.made import Made, made

__all__ = ["made"]


@dataclass(frozen=True)
class Case:
    """``watts`` None: the reading must have none, and its reason must contain ``reason``."""

    build: Callable[[Made], None]
    source: str
    domains: tuple[str, ...]
    watts: float | None
    reason: str | None = None
    during: Callable[[Made, EnergyMeter], None] = lambda made, meter: sampled(made, meter, 4, 1.0)
    gaps: int = 0


def sampled(made: Made, meter: EnergyMeter, times: int, seconds: float) -> None:
    """The span, with the samples that the sampling thread would take."""
    for _ in range(times):
        made.run(seconds)
        meter.mark()


def one(made: Made) -> None:
    made.zone("intel-rapl:0", "package-0", 20.0)


def two_with_dram(made: Made) -> None:
    for i in (0, 1):
        made.zone(f"intel-rapl:{i}", f"package-{i}", 20.0 + i)
        made.zone(f"intel-rapl:{i}:0", "dram", 3.0)
        made.zone(f"intel-rapl:{i}:1", "core", 11.0)


def psys_first(made: Made) -> None:
    made.zone("intel-rapl:0", "psys", 60.0)
    made.zone("intel-rapl:1", "package-0", 20.0)
    made.zone("intel-rapl:1:0", "core", 12.0)
    made.zone("intel-rapl:1:1", "uncore", 2.0)


def duplicated(made: Made) -> None:
    made.zone("intel-rapl-mmio:0", "package-0", 20.0)
    made.zone("intel-rapl:0", "package-0", 20.0)
    made.zone("intel-rapl:0:0", "dram", 4.0)


def amd(made: Made) -> None:
    made.zone("intel-rapl:0", "package-0", 65.0, range=65_532_610_987)
    made.zone("intel-rapl:0:0", "core", 3.0, range=65_532_610_987)


def dies(made: Made) -> None:
    for i in (0, 1):
        made.zone(f"intel-rapl:{i}", f"package-0-die-{i}", 15.0)


def almost_full(made: Made) -> None:
    made.zone("intel-rapl:0", "package-0", 20.0, begin=262_143_328_850 - 30_000_000)


def small_range(made: Made) -> None:
    made.zone("intel-rapl:0", "package-0", 20.0, range=400_000_000)


def frozen(made: Made) -> None:
    one(made)
    made.counters["intel-rapl:0"].frozen = True


def zero(made: Made) -> None:
    made.zone("intel-rapl:0", "package-0", 0.0, begin=0)


def denied(made: Made) -> None:
    one(made)
    made.fail("intel-rapl:0", errno.EACCES)


def broken(made: Made) -> None:
    one(made)
    made.fail("intel-rapl:0", errno.EIO)


def one_of_two_frozen(made: Made) -> None:
    two_with_dram(made)
    made.counters["intel-rapl:1"].frozen = True


def frozen_dram(made: Made) -> None:
    one(made)
    made.zone("intel-rapl:0:0", "dram", 3.0).frozen = True


def denied_dram(made: Made) -> None:
    one(made)
    made.zone("intel-rapl:0:0", "dram", 3.0)
    made.fail("intel-rapl:0:0", errno.EACCES)


def psys_only(made: Made) -> None:
    made.zone("intel-rapl:0", "psys", 60.0)


def virtual_sockets(made: Made) -> None:
    made.hwmon("hwmon3", "amd_energy", {"Ecore000": 2.0, "Ecore001": 2.0, "Esocket0": 40.0, "Esocket1": 41.0})


def graphics(made: Made) -> None:
    made.hwmon("hwmon0", "i915", {"pkg": 90.0})
    made.hwmon("hwmon1", "xe", {"pkg": 90.0, "Esocket0": 80.0})


def denied_then_hwmon(made: Made) -> None:
    denied(made)
    virtual_sockets(made)


def pmu(made: Made) -> None:
    made.pmu("0", {"energy-pkg": (2, [20.0]), "energy-cores": (1, [9.0]), "energy-psys": (5, [70.0])})


def pmu_and_zones(made: Made) -> None:
    made.pmu("0,28", {"energy-pkg": (2, [20.0, 21.0]), "energy-ram": (3, [3.0, 4.0])})
    two_with_dram(made)


def pmu_denied(made: Made) -> None:
    pmu(made)
    one(made)
    made.pmu_error = errno.EACCES


def pmu_frozen(made: Made) -> None:
    pmu(made)
    made.counters["energy-pkg/0"].frozen = True
    made.counters["energy-pkg/0"].joules = 7.0
    made.counters["energy-pkg/0"].show(7.0)
    one(made)


def pmu_odd(made: Made) -> None:
    made.pmu("0", {"energy-pkg": (2, [20.0])}, unit="Furlongs")


def nameless(made: Made) -> None:
    one(made)
    (made.root / "class/powercap/intel-rapl:0/name").unlink()


def garbage(made: Made) -> None:
    made.zone("intel-rapl:0", "package-0").show = lambda joules: None
    made.write("class/powercap/intel-rapl:0/energy_uj", "banana")


def negative(made: Made) -> None:
    zone = made.zone("intel-rapl:0", "package-0", -20.0, begin=0, range=None)
    zone.show(0.0)


def rangeless(made: Made) -> None:
    made.zone("intel-rapl:0", "package-0", 20.0, range=None)


def wild(made: Made) -> None:
    made.zone("intel-rapl:0", "package-0", 50_000.0)


def beyond_its_range(made: Made) -> None:
    zone = made.zone("intel-rapl:0", "package-0", 20.0, begin=2_000_000_000)
    made.write("class/powercap/intel-rapl:0/max_energy_range_uj", 1000)
    zone.show(0.0)


def other_control_types(made: Made) -> None:
    one(made)
    made.zone("dtpm:0", "package-0", 20.0)
    (made.root / "class/powercap/intel-rapl").mkdir()
    (made.root / "class/powercap/intel-rapl/enabled").write_text("1\n")


def nothing(made: Made) -> None:
    (made.root / "class/powercap").mkdir(parents=True)


def short_fault(made: Made, meter: EnergyMeter) -> None:
    sampled(made, meter, 10, 1.0)
    made.fail("intel-rapl:0")
    sampled(made, meter, 1, 0.3)
    made.heal("intel-rapl:0")
    sampled(made, meter, 1, 0.2)
    sampled(made, meter, 10, 1.0)


def long_fault(made: Made, meter: EnergyMeter) -> None:
    sampled(made, meter, 3, 1.0)
    made.fail("intel-rapl:0")
    sampled(made, meter, 3, 1.0)
    made.heal("intel-rapl:0")
    sampled(made, meter, 3, 1.0)


def unplugged(made: Made, meter: EnergyMeter) -> None:
    sampled(made, meter, 3, 1.0)
    made.unplug("intel-rapl:0")
    sampled(made, meter, 3, 1.0)


def reset(made: Made, meter: EnergyMeter) -> None:
    sampled(made, meter, 2, 1.0)
    made.counters["intel-rapl:0"].reset()
    sampled(made, meter, 3, 1.0)


def stops(made: Made, meter: EnergyMeter) -> None:
    made.counters["intel-rapl:0"].frozen = True
    sampled(made, meter, 4, 1.0)


def unwatched(made: Made, meter: EnergyMeter) -> None:
    made.run(100.0)  # 2,000 J at a range of 400 J, and nobody looked


def spike(made: Made, meter: EnergyMeter) -> None:
    sampled(made, meter, 20, 1.0)
    made.counters["intel-rapl:0"].joules += 90_000.0
    sampled(made, meter, 20, 1.0)


def too_short(made: Made, meter: EnergyMeter) -> None:
    made.now_ns += 200_000  # less than a refresh of the counter


ONE = ("package-0",)
TWO = ("package-0", "package-0/dram", "package-1", "package-1/dram")
TREES = {
    "one package": Case(one, "powercap", ONE, 20.0),
    "two packages with DRAM": Case(two_with_dram, "powercap", TWO, 47.0),
    "psys first, core and uncore inside": Case(psys_first, "powercap", ONE, 20.0),
    "the same package twice": Case(duplicated, "powercap", ("package-0", "package-0/dram"), 24.0),
    "only memory-mapped": Case(
        lambda m: m.zone("intel-rapl-mmio:0", "package-0", 9.0) and None, "powercap", ONE, 9.0
    ),
    "AMD": Case(amd, "powercap", ONE, 65.0),
    "two dies": Case(dies, "powercap", ("package-0-die-0", "package-0-die-1"), 30.0),
    "one wrap": Case(almost_full, "powercap", ONE, 20.0),
    "many wraps, sampled": Case(
        small_range, "powercap", ONE, 20.0, during=lambda m, r: sampled(m, r, 1000, 0.1)
    ),
    "many wraps, not sampled": Case(
        small_range, "powercap", ONE, None, "wrapped more than once", unwatched, gaps=1
    ),
    "frozen": Case(frozen, "none", (), None, "stands still"),
    "zero": Case(zero, "none", (), None, "reads 0"),
    "EACCES": Case(denied, "none", (), None, "not permitted"),
    "EIO": Case(broken, "none", (), None, "cannot be read"),
    "EIO in mid-run, short": Case(one, "powercap", ONE, 20.0, "could not be read", short_fault, gaps=1),
    "EIO in mid-run, long": Case(one, "powercap", ONE, None, "could not be read", long_fault, gaps=1),
    "unplugged in mid-run": Case(one, "powercap", ONE, None, "could not be read", unplugged, gaps=1),
    "reset in mid-run": Case(one, "powercap", ONE, None, "jumped", reset, gaps=1),
    "reset in mid-run, no range": Case(rangeless, "powercap", ONE, None, "jumped", reset, gaps=1),
    "frozen in mid-run": Case(one, "powercap", ONE, None, "did not move", stops),
    "an impossible spike": Case(one, "powercap", ONE, 20.0, "jumped", spike, gaps=1),
    "a span shorter than a refresh": Case(one, "powercap", ONE, None, "did not move", too_short),
    "one of two packages frozen": Case(one_of_two_frozen, "none", (), None, "package-1 stands still"),
    "DRAM frozen": Case(frozen_dram, "powercap", ONE, 20.0),
    "DRAM not permitted": Case(denied_dram, "powercap", ONE, 20.0),
    "psys alone": Case(psys_only, "none", (), None, "no energy counter"),
    "no zones": Case(nothing, "none", (), None, "no energy counter"),
    "no tree": Case(lambda m: None, "none", (), None, "no energy counter"),
    "nameless zone": Case(nameless, "none", (), None, "no energy counter"),
    "other control types": Case(other_control_types, "powercap", ONE, 20.0),
    "no range": Case(rangeless, "powercap", ONE, 20.0),
    "text for a number": Case(garbage, "none", (), None, "cannot be read"),
    "running backwards": Case(negative, "none", (), None, "powercap"),
    "more than any CPU draws": Case(wild, "none", (), None, "which no CPU can"),
    "beyond its own range": Case(beyond_its_range, "none", (), None, "which no CPU can"),
    "hwmon sockets": Case(virtual_sockets, "hwmon", ("package-0", "package-1"), 81.0),
    "hwmon of graphics cards": Case(graphics, "none", (), None, "no energy counter"),
    "powercap not permitted, hwmon is": Case(denied_then_hwmon, "hwmon", ("package-0", "package-1"), 81.0),
    "perf": Case(pmu, "perf", ONE, 20.0),
    "perf before powercap": Case(
        pmu_and_zones, "perf", ("package-0", "package-1", "package-0/dram", "package-1/dram"), 48.0
    ),
    "perf not permitted": Case(pmu_denied, "powercap", ONE, 20.0),
    "perf frozen": Case(pmu_frozen, "powercap", ONE, 20.0),
    "perf in odd units": Case(pmu_odd, "none", (), None, "Furlongs"),
}


@pytest.mark.parametrize("name", TREES)
def test_a_made_machine(made: Made, name: str) -> None:
    case = TREES[name]
    case.build(made)
    meter = made.meter()
    assert (meter.source, meter.domains) == (case.source, case.domains)
    if not case.domains:
        assert meter.reason
        assert case.reason in meter.reason
        assert meter.fix
    mark = meter.start()
    case.during(made, meter)
    reading = meter.read(mark)

    check_sanity(reading)
    assert len(reading.gaps) == case.gaps
    if case.watts is None:
        assert reading.watts is None
    else:
        assert reading.watts == pytest.approx(case.watts, rel=1e-4)
    if case.reason is not None:
        assert case.reason in (reading.reason or "")
    if case.gaps:
        assert reading.complete_joules is None
    meter.close()


def check_sanity(reading: EnergyReading) -> None:
    """What holds whatever the machine does."""
    if reading.joules is None:
        assert reading.reason
        assert reading.watts is None
    else:
        assert isfinite(reading.joules)
        assert reading.joules > 0
        assert sum(reading.domains.values()) == pytest.approx(reading.joules)
    assert all(0 <= begin < end for begin, end in reading.gaps)
    assert 0 <= reading.coverage <= 1


def test_there_are_as_many_trees_as_promised() -> None:
    assert len(TREES) >= 40
