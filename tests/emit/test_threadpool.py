"""The thread pool waits for no thread that holds no unit, and threads that wait leave the CPU to others."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.emit.programs import build

KERNELS = Path(__file__).resolve().parents[2] / "kernels_c"


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    if shutil.which("gcc") is None:
        pytest.skip("no gcc on this machine")
    program = build("run_pool.c", KERNELS, tmp_path_factory.mktemp("pool") / "pool", ())
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=120, check=True)
    return [float(word) for word in done.stdout.split()]


@pytest.mark.parametrize("place", ["about to take a unit", "with a unit", "after a phase"])
def test_a_step_ends_without_a_thread_that_is_held_up(printed: list[float], place: str) -> None:
    """Every unit of every later step is done once, too: the thread that comes late takes none of them."""
    assert printed[["about to take a unit", "with a unit", "after a phase"].index(place)] == 1


def test_waiting_threads_sleep(printed: list[float]) -> None:
    """Seven threads wait 200 ms, twice: pausing for 50 us each takes a millisecond of CPU, spinning 1400."""
    assert printed[3] < 100
    assert printed[4] < 100
