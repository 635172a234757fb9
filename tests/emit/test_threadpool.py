"""The thread pool leaves no unit to a thread that is held up, and no CPU to threads that wait."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.emit.programs import build

KERNELS = Path(__file__).resolve().parents[2] / "kernels_c"


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc on this machine")
def test_units_are_stolen_and_waiting_threads_sleep(tmp_path: Path) -> None:
    program = build("run_pool.c", KERNELS, tmp_path / "pool", ())
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=60, check=True)
    first, second, inside, between = map(float, done.stdout.split())
    # Thread 1 stands still in its first unit; or thread 0 had taken all before it woke.
    assert (first, second) in ((63, 1), (64, 0))
    # Seven threads wait 200 ms, twice; pausing for 30 us each takes a millisecond of CPU, spinning 1400.
    assert inside < 100
    assert between < 100
