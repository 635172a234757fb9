"""An executable's memory is there before the first step, in large pages if there are any; its threads end."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compiler import compile_plan
from runtime.bundle.reader import open_bundle
from runtime.engine.executable import Executable
from runtime.engine.weights import Residence
from tests.tiny_models import write_llama

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("memory")
    plan = {
        "name": "memory",
        "model": str(write_llama(folder / "tiny.gguf", context_length=4096)),
        "backend": "reference",
        "quantization": "q8_0",
        "execution": {"context": 4096, "slots": 8, "step_tokens": 2048, "threads": 3, "kv_cache": "f32"},
    }
    return compile_plan(plan, out=folder / "bundle")


def mappings() -> list[dict[str, str]]:
    """The process's mappings as /proc/self/smaps has them; ``path`` and ``VmFlags`` among the fields."""
    found: list[dict[str, str]] = []
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.split("-")[0].isalnum() and " " in name:
            found.append({"path": line.split(maxsplit=5)[5] if len(line.split()) > 5 else ""})
        else:
            found[-1][name] = value
    return found


def kilobytes(field: str, path: str | None = None) -> int:
    """Sum of a field over the mappings of a file, or over all that may have large pages."""
    chosen = [one for one in mappings() if (one["path"] == path if path else "hg" in one["VmFlags"].split())]
    return sum(int(one[field].split()[0]) for one in chosen)


@pytest.mark.parametrize("residence", ["pages", "mapped"])
def test_weights_and_arena_are_in_memory_before_the_first_step(bundle: Path, residence: Residence) -> None:
    opened = open_bundle(bundle)
    if not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("this kernel has no transparent huge pages")
    size, resident = kilobytes("Size"), kilobytes("Rss")
    with Executable.open(opened, residence=residence) as executable:
        limits = executable.limits
        copied = 0 if residence == "mapped" else limits.weights_bytes
        assert min(limits.kv_bytes, limits.arena_bytes) > 8 << 20  # much more than a page or two
        grown = kilobytes("Size") - size
        assert grown * 1024 >= limits.kv_bytes + limits.arena_bytes + copied
        assert (kilobytes("Rss") - resident) * 1024 >= limits.arena_bytes + copied
        in_file = kilobytes("Rss", str(opened.weights.resolve())) * 1024
        assert in_file >= limits.weights_bytes if residence == "mapped" else in_file == 0
    assert kilobytes("Size") == size


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def test_an_executable_that_is_forgotten_ends_its_threads(bundle: Path) -> None:
    gc.collect()
    before = threads()
    executable = Executable.open(open_bundle(bundle), threads=5)
    executable.forward([0], [0], [1], [True])
    assert threads() == before + 4
    del executable
    gc.collect()
    deadline = time.monotonic() + 10
    while threads() > before:  # a joined thread leaves the list a moment later
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_that_closes_nothing_ends_with_its_own_status(bundle: Path) -> None:
    code = (
        "import sys, threading\n"
        "from pathlib import Path\n"
        "from runtime.bundle.reader import open_bundle\n"
        "from runtime.engine.executable import Executable\n"
        "kept = [Executable.open(open_bundle(Path(sys.argv[1])), threads=4) for _ in range(3)]\n"
        "for one in kept: one.forward([0], [0], [1], [True])\n"
        "def work():\n"
        "    for position in range(1, 4000): kept[0].forward([0], [position], [1], [True])\n"
        "threading.Thread(target=work, daemon=True).start()\n"
        "sys.exit(3)\n"
    )
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code, str(bundle)], cwd=ROOT, capture_output=True)
        assert done.returncode == 3, done.stderr
