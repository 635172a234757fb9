"""The probe sees what this process may use, on machines described as directories."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runtime.bundle.machine import Machine
from runtime.errors import EXIT_MACHINE, EngineError

ROOT = Path(__file__).resolve().parents[2]


class Host:
    """A machine made of files."""

    def __init__(self, root: Path) -> None:
        self.proc, self.sys = root / "proc", root / "sys"
        self.write("proc/meminfo", "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 600 kB\n")
        self.write("proc/cpuinfo", "model name : Made CPU\nflags : fpu avx2 fma\n\nflags : other\n")
        self.root = root

    def write(self, path: str, text: str) -> None:
        target = self.proc.parent / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def core(self, cpu: int, core: int, package: int = 0) -> None:
        self.write(f"sys/devices/system/cpu/cpu{cpu}/topology/core_id", f"{core}\n")
        self.write(f"sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id", f"{package}\n")

    def probe(self, affinity: set[int]) -> Machine:
        return Machine.probe(self.proc, self.sys, affinity)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_cpu_and_memory_are_read(host: Host) -> None:
    machine = host.probe({0})
    assert machine.cpu_model == "Made CPU"
    assert machine.features == {"fpu", "avx2", "fma"}
    assert (machine.memory_total, machine.memory_available) == (1_024_000, 614_400)
    assert machine.quota is None


def test_physical_cores_come_before_their_siblings(host: Host) -> None:
    for cpu, core, package in [
        (0, 0, 0),
        (1, 1, 0),
        (2, 0, 1),
        (3, 1, 1),
        (4, 0, 0),
        (5, 1, 0),
        (6, 0, 1),
        (7, 1, 1),
    ]:
        host.core(cpu, core, package)
    machine = host.probe(set(range(8)))
    assert machine.cpus == (0, 1, 2, 3, 4, 5, 6, 7)
    assert machine.threads == machine.physical_cores == 4
    assert host.probe({1, 4, 5, 0}).cpus == (0, 1, 4, 5)
    assert host.probe({0, 4}).threads == 1
    assert host.probe({4, 7}).cpus == (4, 7)


def test_what_decided_the_threads_is_said(host: Host) -> None:
    for cpu in range(4):
        host.core(cpu, cpu % 2)
    assert host.probe({0, 1}).threads_because == "2 physical cores, as far as the CPUs' topology shows"
    assert host.probe({0, 1, 2, 3}).threads_because.startswith("2 physical cores; of 4 CPUs the others share")
    assert host.probe({1, 3}).threads_because == "affinity allows 1 of 2 physical cores"
    host.write("proc/self/cgroup", "0::/a\n")
    host.write("sys/fs/cgroup/a/cpu.max", "150000 100000")
    assert host.probe({0, 1}).threads_because == "the cgroup grants 1.5 CPUs of time, for 2 physical cores"
    assert host.probe({1}).threads_because == "affinity allows 1 of 2 physical cores"


def test_the_affinity_of_the_process_counts() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from runtime.bundle.machine import Machine\n"
        "machine = Machine.probe(); print(machine.threads, len(machine.cpus))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]


def test_without_a_topology_each_cpu_is_a_core(host: Host) -> None:
    assert host.probe({0, 3}).threads == 2


@pytest.mark.parametrize(
    ("quota", "threads"),
    [
        ("max 100000", 4),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("1000000 100000", 4),
        ("junk", 4),
        ("1 0", 4),
    ],
)
def test_a_quota_of_cgroup_v2_bounds_the_threads(host: Host, quota: str, threads: int) -> None:
    host.write("proc/self/cgroup", "0::/a/b\n")
    host.write("sys/fs/cgroup/a/b/cpu.max", quota + "\n")
    assert host.probe({0, 1, 2, 3}).threads == threads


def test_the_tightest_group_of_the_way_up_counts(host: Host) -> None:
    host.write("proc/self/cgroup", "0::/a/b\n")
    host.write("sys/fs/cgroup/a/b/cpu.max", "400000 100000")
    host.write("sys/fs/cgroup/a/cpu.max", "150000 100000")
    machine = host.probe({0, 1, 2, 3})
    assert machine.quota == 1.5
    assert machine.threads == 1


def test_in_a_container_the_mounts_root_is_the_own_group(host: Host) -> None:
    host.write("proc/self/cgroup", "0::/docker/not-visible-here\n")
    host.write("sys/fs/cgroup/cpu.max", "200000 100000")
    assert host.probe({0, 1, 2, 3}).threads == 2


def test_a_quota_of_cgroup_v1_bounds_the_threads(host: Host) -> None:
    host.write("proc/self/cgroup", "4:memory:/x\n3:cpu,cpuacct:/x\n0::/\n")
    host.write("sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us", "300000")
    host.write("sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us", "100000")
    assert host.probe({0, 1, 2, 3}).threads == 3
    host.write("sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us", "-1")
    assert host.probe({0, 1, 2, 3}).quota is None


def test_a_path_that_climbs_out_of_the_mount_ends_at_its_root(host: Host) -> None:
    host.write("proc/self/cgroup", "0::/../../..\n")
    host.write("sys/fs/cgroup/cpu.max", "100000 100000")
    assert host.probe({0, 1}).threads == 1


def test_memory_is_what_the_cgroup_leaves(host: Host) -> None:
    host.write("proc/self/cgroup", "0::/x\n")
    host.write("sys/fs/cgroup/x/memory.max", str(400 * 1024))
    host.write("sys/fs/cgroup/x/memory.current", str(300 * 1024))
    host.write("sys/fs/cgroup/x/memory.stat", "anon 5\ninactive_file 51200\n")
    machine = host.probe({0})
    assert machine.memory_total == 400 * 1024
    assert machine.memory_available == 150 * 1024


def test_an_unlimited_v1_group_limits_nothing(host: Host) -> None:
    host.write("proc/self/cgroup", "4:memory:/x\n")
    host.write("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "9223372036854771712")
    host.write("sys/fs/cgroup/memory/x/memory.usage_in_bytes", "1024")
    assert host.probe({0}).memory_available == 614_400


@pytest.mark.parametrize(
    ("path", "text", "meter"),
    [
        ("sys/class/powercap/intel-rapl:0/energy_uj", "123456\n", True),
        ("sys/class/powercap/intel-rapl:0/energy_uj", "0\n", False),
        ("sys/class/powercap/intel-rapl:0/energy_uj", "junk\n", False),
        ("sys/class/hwmon/hwmon3/energy1_input", "5\n", True),
        ("sys/bus/event_source/devices/power/events/energy-pkg", "event=0x02\n", True),
        ("sys/bus/event_source/devices/power/type", "9\n", False),
    ],
)
def test_a_meter_is_one_that_counts(host: Host, path: str, text: str, meter: bool) -> None:
    host.write(path, text)
    assert host.probe({0}).has_energy_meter is meter


def test_a_machine_without_any_of_these_files_is_still_described(tmp_path: Path) -> None:
    machine = Machine.probe(tmp_path / "none", tmp_path / "none", {0, 1})
    assert (machine.threads, machine.features, machine.memory_total) == (2, frozenset(), 0)


def test_a_feature_that_lacks_is_named(host: Host) -> None:
    machine = host.probe({0})
    machine.require_features("cpu_avx2", ["avx2", "fma"])
    with pytest.raises(EngineError, match="avx512_vnni, avx512f") as caught:
        machine.require_features("cpu_avx512vnni", ["avx512f", "avx512_vnni", "avx2"])
    assert (caught.value.code, caught.value.exit_code) == ("unsupported_cpu", EXIT_MACHINE)
