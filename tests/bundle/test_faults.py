"""Killed, raced, out of space: a bundle is never half there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime.bundle import store
from runtime.bundle.reader import open_bundle

ROOT = Path(__file__).resolve().parents[2]
PRELUDE = f"""
import sys, time, os
sys.path[:0] = [{str(ROOT)!r}]
from pathlib import Path
from tests.fakes.bundle import WEIGHTS, make_bundle
from runtime.bundle import store, writer
final = store.bundles_dir() / "raced"
"""


def start(script: str, **extra: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PRELUDE + script]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **extra)  # type: ignore[call-overload,no-any-return]


def test_a_killed_writer_leaves_nothing_that_is_seen_and_its_leftovers_are_swept() -> None:
    stuck = """
def slow(source, target, original=writer._place):
    if target.name == "vocabulary.json":
        print("writing", flush=True)
        time.sleep(60)
    return original(source, target)
writer._place = slow
make_bundle(final)
"""
    final = store.bundles_dir() / "raced"
    process = start(stuck)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    assert not final.exists()
    assert store.sweep(final.parent) == []  # somebody is at work on it
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(final.parent.glob(f"{store.TEMPORARY}*"))) == 1
    done = start("make_bundle(final)")
    assert done.wait(60) == 0, done.stderr
    open_bundle(final)
    assert not list(final.parent.glob(f"{store.TEMPORARY}*"))


def test_kill_at_any_moment(tmp_path: Path) -> None:
    loop = """
print("ready", flush=True)
while True:
    stored = store.stored_weights("ef" * 20, lambda path: path.write_bytes(WEIGHTS))
    make_bundle(final, files={"weights.bin": stored})
    store.remove_tree(final) if os.getpid() % 2 else None
"""
    final = store.bundles_dir() / "raced"
    for round_ in range(6):
        process = start(loop)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05 + 0.037 * round_)
        process.kill()
        process.wait()
        if final.exists():
            open_bundle(final)
    assert start("make_bundle(final)").wait(60) == 0
    open_bundle(final)
    assert not list(final.parent.glob(f"{store.TEMPORARY}*"))


def test_of_two_at_once_one_works_and_the_other_waits() -> None:
    script = """
made = []
def make(path):
    made.append(path)
    time.sleep(0.5)
    path.write_bytes(WEIGHTS)
store.stored_weights("0a" * 20, make, on_wait=lambda: print("waits"))
print(len(made))
"""
    outputs = [process.communicate(timeout=60)[0].split() for process in [start(script), start(script)]]
    assert sorted(output[-1] for output in outputs) == ["0", "1"]
    assert all(output == ["waits", "0"] or output[-1] == "1" for output in outputs)


def test_a_file_size_limit_ends_in_a_typed_error_and_keeps_the_earlier_bundle() -> None:
    final = store.bundles_dir() / "raced"
    assert start("make_bundle(final)").wait(60) == 0
    digest = open_bundle(final).digest
    script = """
import resource, signal
from runtime.errors import EngineError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from tests.fakes.bundle import shared_object
shared_object()
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    make_bundle(final, files={"weights.bin": bytes(50000)})
except EngineError as error:
    print(error.code, error.exit_code)
"""
    output, errors = start(script).communicate(timeout=60)
    assert output.split() == ["disk_full", "7"], errors
    assert open_bundle(final).digest == digest
    assert not list(final.parent.glob(f"{store.TEMPORARY}*"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A filesystem of 64 KiB; skipped where none may be mounted."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", place], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a small filesystem is not permitted here")
    return place


def test_a_full_disk_ends_in_a_typed_error(small_disk: Path) -> None:
    script = f"""
from runtime.errors import EngineError
try:
    make_bundle(Path({str(small_disk)!r}) / "b", files={{"weights.bin": bytes(200000)}})
except EngineError as error:
    print(error.code, error.exit_code)
"""
    try:
        output, errors = start(script).communicate(timeout=60)
        assert output.split() == ["disk_full", "7"], errors
        assert os.listdir(small_disk) == []
    finally:
        subprocess.run(["umount", small_disk], check=True)


def test_weights_are_copied_where_they_cannot_be_linked(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == store.weights_dir().stat().st_dev:
        pytest.skip("no second filesystem here")
    script = f"""
import tempfile
place = Path(tempfile.mkdtemp(dir={str(other)!r}))
try:
    stored = store.stored_weights("0b" * 20, lambda path: path.write_bytes(WEIGHTS))
    from runtime.bundle.reader import open_bundle
    make_bundle(place / "b", files={{"weights.bin": stored}})
    open_bundle(place / "b")
    print((place / "b" / "weights.bin").stat().st_nlink)
finally:
    import shutil
    shutil.rmtree(place)
"""
    output, errors = start(script).communicate(timeout=60)
    assert output.split() == ["1"], errors
