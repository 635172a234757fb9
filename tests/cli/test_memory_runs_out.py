"""Memory that runs out is an error of the machine with a hint, not a library's traceback."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from runtime.cli.memory import LEAST_ADDRESS_SPACE, out_of_memory
from runtime.errors import EXIT_MACHINE


@pytest.mark.parametrize("mebibytes", [120, 290])
def test_a_small_address_space_is_refused_with_the_figure(mebibytes: int) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (mebibytes << 20, mebibytes << 20))

    command = [sys.executable, "-m", "runtime.cli", "run", "storyteller-q4", "-p", "x"]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, timeout=60)
    assert done.returncode == EXIT_MACHINE
    assert f"limited to {mebibytes} MiB" in done.stderr
    assert f"at least {LEAST_ADDRESS_SPACE >> 20} MiB" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        (MemoryError("Unable to allocate 2.00 GiB for an array"), True),
        (RuntimeError("can't start new thread"), True),
        (ImportError("libopenblas.so: failed to map segment from shared object"), True),
        (RuntimeError("dictionary changed size during iteration"), False),
        (ImportError("No module named 'nothing'"), False),
    ],
)
def test_what_libraries_say_of_it_is_known(cause: Exception, told: bool) -> None:
    wrapped = ImportError("numpy could not be imported")
    wrapped.__cause__ = cause
    for seen in (cause, wrapped):
        error = out_of_memory(seen)
        assert (error is not None) == told
        assert error is None or (error.code, error.exit_code) == ("out_of_memory", EXIT_MACHINE)
