"""ThreadSanitizer finds no race in the thread pool nor in a forward pass on it, and finds those put there."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.emit.programs import MODELS, build, write_emitted

KERNELS = Path(__file__).resolve().parents[2] / "kernels_c"
SANITIZE = ("-fsanitize=thread",)
RACE = 66  # the status with which a program ends in which ThreadSanitizer found a race


def run(*command: object) -> tuple[int, str, str]:
    # Address layouts with more random bits than the sanitizer's runtime knows of stop it at once.
    fixed = ["setarch", "-R"] if shutil.which("setarch") else []
    done = subprocess.run([*fixed, *map(str, command)], capture_output=True, text=True, timeout=120)
    if "unexpected memory mapping" in done.stderr or "failed to set personality" in done.stderr:
        pytest.skip(f"ThreadSanitizer cannot run here: {done.stderr.strip()[-300:]}")
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module", autouse=True)
def sanitizer(tmp_path_factory: pytest.TempPathFactory) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("the sanitizers are gcc's")


def test_the_pool_has_no_race(tmp_path: Path) -> None:
    program = build("run_threads.c", KERNELS, tmp_path / "threads", SANITIZE)
    status, output, errors = run(program)
    assert status == 0, errors[-4000:]
    assert output == "done\n"


@pytest.mark.parametrize(
    ("function", "honest", "spoiled"),
    [
        ("threadpool_complete", "!pool_phase_over(p, thread)", "0"),
        ("pool_phase_over", "if (done < p->thread[thread].n_units)", "if (0)"),
    ],
    ids=["workers that do not wait", "a phase that is taken for over"],
)
def test_a_race_in_the_pool_is_found(function: str, honest: str, spoiled: str, tmp_path: Path) -> None:
    text = (KERNELS / "threadpool.c").read_text()
    begin = text.index(f" {function}(threadpool *p, int32_t thread)\n{{")
    end = text.index("\n}\n", begin)
    assert honest in text[begin:end]
    (tmp_path / "threadpool.c").write_text(
        text[:begin] + text[begin:end].replace(honest, spoiled) + text[end:]
    )
    program = build("run_threads.c", tmp_path, tmp_path / "threads", SANITIZE)
    status, _, errors = run("env", "TSAN_OPTIONS=halt_on_error=1", program)
    assert status == RACE
    assert "data race" in errors


@pytest.mark.parametrize(("kind", "quantization"), MODELS)
def test_a_forward_pass_has_no_race(kind: str, quantization: str, tmp_path: Path) -> None:
    """One to four threads over the reference kernels: what threads share is the same on every backend."""
    weights, isa = write_emitted(tmp_path, kind, quantization, "reference")
    program = build("run_steps.c", tmp_path, tmp_path / "steps", [*isa, *SANITIZE])
    outputs = set()
    for threads in (1, 2, 3, 4):
        status, output, errors = run(program, weights, threads)
        assert status == 0, errors[-4000:]
        outputs.add(output)
    assert len(outputs) == 1
