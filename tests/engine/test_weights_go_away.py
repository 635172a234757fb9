"""Mapped weights whose file goes away under a step: an error of that step, never the end of the process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compiler import compile_plan
from runtime.bundle.reader import open_bundle
from runtime.engine.executable import Executable
from runtime.errors import EngineError
from tests.fakes.bundle import make_bundle

ROOT = Path(__file__).resolve().parents[2]
PLAN = """version: 1
model: {root}/plans/models/storyteller-f16.gguf
backend: reference
quantization: q8_0
execution: {{context: 64, slots: 2, step_tokens: 32, threads: 4}}
"""
STEP = ([0] * 8, range(8), range(300, 308), [False] * 7 + [True])
Opener = Callable[[str], Executable]


@pytest.fixture
def mapped(tmp_path: Path) -> Iterator[Opener]:
    """Opens copies of a real bundle by name: weights of a cache are linked, and would be hurt there too."""
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN.format(root=ROOT))
    compiled = compile_plan(plan)
    opened: list[Executable] = []

    def open_copy(name: str) -> Executable:
        copy = shutil.copytree(compiled, tmp_path / name)
        opened.append(Executable.open(open_bundle(copy), residence="mapped"))
        return opened[-1]

    yield open_copy
    for executable in opened:
        executable.close()


def during_the_next_step(
    executable: Executable, before: Callable[[], None], after: Callable[[], None]
) -> None:
    """What another process does while the threads compute: past the look at the file, before the next."""
    compute = executable._forward

    def step(*arguments: object) -> int:
        before()
        status: int = compute(*arguments)
        after()
        return status

    executable._forward = step


def failure(executable: Executable) -> str:
    with pytest.raises(EngineError) as caught:
        executable.forward(*STEP)
    return caught.value.code


def test_a_truncation_under_a_step_ends_that_step_and_nothing_else(mapped: Opener) -> None:
    hurt, other = mapped("hurt"), mapped("other")
    expected = other.forward(*STEP).copy()
    assert (hurt.forward(*STEP) == expected).all()
    weights = hurt.bundle.weights
    weights.chmod(0o600)
    during_the_next_step(hurt, lambda: os.truncate(weights, 4096), lambda: None)
    assert failure(hurt) == "weights_changed"
    assert hurt._weights is not None
    assert hurt._weights.memory[-4096:] == bytes(4096), "zeros stand where the pages were"
    assert failure(hurt) == "weights_changed"
    assert (other.forward(*STEP) == expected).all()
    hurt.close()
    assert (mapped("again").forward(*STEP) == expected).all()


def test_pages_that_cannot_be_read_from_an_unchanged_file_are_lost(mapped: Opener) -> None:
    """As of a disk that fails: the file looks as before, and its pages were not there."""
    executable = mapped("one")
    weights = executable.bundle.weights
    content, status = weights.read_bytes(), weights.stat()
    weights.chmod(0o600)

    def restore() -> None:
        weights.write_bytes(content)
        os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))

    during_the_next_step(executable, lambda: os.truncate(weights, 0), restore)
    assert failure(executable) == "weights_lost"
    assert failure(executable) == "weights_lost", "it stays lost: what is mapped is no longer the file"


def test_what_is_written_into_a_mapped_file_under_a_step_is_noticed_too(mapped: Opener) -> None:
    executable = mapped("one")
    weights = executable.bundle.weights
    weights.chmod(0o600)

    def write() -> None:
        with weights.open("r+b") as file:
            file.write(b"\xff" * 4096)

    during_the_next_step(executable, write, lambda: None)
    assert failure(executable) == "weights_changed"


FOREIGN = """
import mmap, os, sys, tempfile
from pathlib import Path
from runtime.bundle.reader import open_bundle
from runtime.engine.executable import Executable
executable = Executable.open(open_bundle(Path(sys.argv[1])), residence="mapped")
if sys.argv[2] == "at the address of weights that were never closed":
    del executable
if sys.argv[2] == "sent":
    os.kill(os.getpid(), 7)
with tempfile.TemporaryFile() as file:
    file.truncate(4096)
    memory = mmap.mmap(file.fileno(), 4096)
    file.truncate(0)
    memory[0]
"""


@pytest.mark.parametrize("how", ["touched", "at the address of weights that were never closed", "sent"])
def test_a_sigbus_of_somebody_else_is_what_it_was(how: str, tmp_path: Path) -> None:
    """It reaches the handler that was there before, and ends the process."""
    bundle = make_bundle(tmp_path / "b")
    command = [sys.executable, "-X", "faulthandler", "-c", FOREIGN, str(bundle), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGBUS, done.stderr
    assert "Fatal Python error: Bus error" in done.stderr


def test_places_are_given_back_and_without_one_weights_are_mapped_all_the_same(tmp_path: Path) -> None:
    bundle = open_bundle(make_bundle(tmp_path / "b"))
    with Executable.open(bundle, residence="mapped") as executable:
        lib = executable._lib
        places = []
        while (place := lib.engine_guard(executable._weights_pointer, 4096)) >= 0:
            places.append(place)
            lib.engine_guard(executable._weights_pointer, 4096) if not places else None
        assert len(places) >= 255
        for place in places:
            lib.engine_unguard(place)
        assert lib.engine_guard(executable._weights_pointer, 4096) == places[0]
        lib.engine_unguard(places[0])
        assert not lib.engine_guard_lost(places[0])
