"""Energy counters that are files: powercap (RAPL, Intel and AMD) and hwmon.

Zones are told apart by the ``name`` the kernel gives them, never by their
number: ``psys`` may be a top-level zone beside the packages and contains them,
``core`` and ``uncore`` lie inside a package, ``dram`` of a server lies outside
it though its folder is inside. A package may appear twice, through the MSR and
through a memory-mapped interface (``intel-rapl-mmio``): it is counted once.

Formats: Documentation/power/powercap/powercap.rst, Documentation/hwmon/sysfs-interface.rst
and drivers/hwmon/amd_energy.c of the Linux kernel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PACKAGE = re.compile(r"package-\d+(-die-\d+)?")

#: Drivers of hwmon energy counters that measure CPU packages, and their labels.
#: Others (graphics cards, boards, fans) count other things and are left alone.
HWMON_LABELS = {
    "amd_energy": re.compile(r"Esocket(\d+)"),
    "zenergy": re.compile(r"Esocket(\d+)"),
}

#: Interfaces to the same registers, the preferred first.
POWERCAP_TYPES = ("intel-rapl", "amd-rapl", "intel-rapl-tpmi", "intel-rapl-mmio")

MICRO = 1e-6
_UINT64 = 1 << 64


@dataclass(frozen=True)
class FileCounter:
    """A counter in microjoules in a file of its own."""

    domain: str
    kind: str
    path: Path
    count_range: int | None
    joules_per_count: float = MICRO

    def read(self) -> int:
        """Microjoules. Raises OSError, or ValueError if the file holds no such number."""
        count = int(self.path.read_text())
        if not 0 <= count < _UINT64:
            raise ValueError(f"{self.path.name} holds {count}")
        return count

    def close(self) -> None:
        """Nothing is held open."""


@dataclass(frozen=True)
class PowerLimit:
    """A limit that the kernel enforces on a zone; read and recorded, never written."""

    zone: str
    name: str  # long_term, short_term, peak_power
    watts: float
    window_seconds: float | None
    enabled: bool | None


@dataclass(frozen=True)
class _Zone:
    path: Path
    name: str
    domain: str | None  # None: not a part of the sum
    kind: str


def read_word(path: Path) -> str | None:
    """The stripped text of a small sysfs file; None where it cannot be had."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def read_number(path: Path) -> int | None:
    """The integer in a sysfs file; None where it cannot be had."""
    word = read_word(path)
    return int(word) if word and re.fullmatch(r"-?\d{1,20}", word) else None


def _zones(sysfs_root: Path) -> list[_Zone]:
    """All powercap zones, in the order of POWERCAP_TYPES and of their paths."""
    folder = sysfs_root / "class" / "powercap"
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return []
    zones = []
    for entry in entries:
        control = entry.name.split(":")[0]
        name = read_word(entry / "name")
        if ":" not in entry.name or control not in POWERCAP_TYPES or name is None:
            continue
        domain, kind = None, "other"
        if PACKAGE.fullmatch(name):
            domain, kind = name, "package"
        elif name == "dram":
            parent = folder / entry.name.rpartition(":")[0]
            outer = read_word(parent / "name") if ":" in parent.name else None
            domain, kind = (f"{outer}/dram" if outer else "dram"), "dram"
        zones.append(_Zone(entry, name, domain, kind))
    return sorted(zones, key=lambda z: (POWERCAP_TYPES.index(z.path.name.split(":")[0]), z.path.name))


def powercap_counters(sysfs_root: Path) -> list[FileCounter]:
    """Packages and DRAM, each once; empty where there are none."""
    found: dict[str, FileCounter] = {}
    for zone in _zones(sysfs_root):
        if zone.domain is None or zone.domain in found:
            continue
        # The counter restarts after max_energy_range_uj, a value it can still take.
        most = read_number(zone.path / "max_energy_range_uj")
        count_range = most + 1 if most and most > 0 else None
        found[zone.domain] = FileCounter(zone.domain, zone.kind, zone.path / "energy_uj", count_range)
    return list(found.values())


def uncounted_zones(sysfs_root: Path) -> list[str]:
    """Names of the powercap zones that are no part of the sum (psys, core, uncore …)."""
    return sorted({zone.name for zone in _zones(sysfs_root) if zone.domain is None})


def hwmon_counters(sysfs_root: Path) -> list[FileCounter]:
    """One counter a socket, from the drivers in HWMON_LABELS."""
    folder = sysfs_root / "class" / "hwmon"
    found: dict[str, FileCounter] = {}
    try:
        devices = sorted(folder.iterdir())
    except OSError:
        return []
    for device in devices:
        pattern = HWMON_LABELS.get(read_word(device / "name") or "")
        if pattern is None:
            continue
        for label in sorted(device.glob("energy*_label")):
            match = pattern.fullmatch(read_word(label) or "")
            if match and (domain := f"package-{match[1]}") not in found:
                path = label.with_name(label.name.replace("_label", "_input"))
                found[domain] = FileCounter(domain, "package", path, None)
    return list(found.values())


def read_power_limits(sysfs_root: str | Path = "/sys") -> list[PowerLimit]:
    """The power limits set in the packages' powercap zones; empty where none can be read."""
    limits = []
    for zone in _zones(Path(sysfs_root)):
        if zone.kind != "package":
            continue
        enabled = read_number(zone.path / "enabled")
        for file in sorted(zone.path.glob("constraint_*_power_limit_uw")):
            microwatts = read_number(file)
            if microwatts is None or microwatts <= 0:
                continue
            prefix = file.name.removesuffix("power_limit_uw")
            window = read_number(zone.path / f"{prefix}time_window_us")
            limits.append(
                PowerLimit(
                    zone.path.name,
                    read_word(zone.path / f"{prefix}name") or prefix.rstrip("_"),
                    microwatts * MICRO,
                    window * MICRO if window else None,
                    None if enabled is None else enabled != 0,
                )
            )
    return limits
