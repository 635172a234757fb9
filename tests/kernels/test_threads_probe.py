"""What more threads bring is measured, and fewer are advised where more bring next to nothing."""

from __future__ import annotations

import os

import pytest

from compiler.workbench.threads import ThreadTimes, counts_of_threads, measure_threads
from runtime.bundle.machine import Machine


@pytest.mark.parametrize(
    ("times", "advised"),
    [
        ({1: 100.0, 2: 52.0, 4: 30.0}, 4),
        ({1: 100.0, 2: 52.0, 4: 50.0}, 2),
        ({1: 100.0, 2: 98.0}, 1),
        ({1: 100.0, 2: 400.0}, 1),
    ],
)
def test_the_fewest_threads_near_the_shortest_step_are_advised(times: dict[int, float], advised: int) -> None:
    assert ThreadTimes({}, {"small": times}).advised("small") == advised


def test_the_counts_tried_hold_the_cores_and_all_cpus() -> None:
    assert counts_of_threads(1, 1) == (1,)
    assert counts_of_threads(6, 12) == (1, 2, 4, 6, 8, 12)


def test_this_machine_is_timed_without_moving_the_caller() -> None:
    machine, before = Machine.probe(), os.sched_getaffinity(0)
    found = measure_threads(machine)
    assert os.sched_getaffinity(0) == before
    counts = counts_of_threads(machine.physical_cores, len(machine.cpus))
    assert {shape: tuple(times) for shape, times in found.steps_us.items()} == {
        "small": counts,
        "large": counts,
    }
    assert all(us > 0 for times in found.steps_us.values() for us in times.values())
    assert all(pair[0] == machine.cpus[0] for pair in found.round_trips_ns)
    assert len(found.round_trips_ns) <= 7
