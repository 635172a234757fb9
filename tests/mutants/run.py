"""Made mutants of C: each is one change that some test must notice. Run apart from CI:

    python -m tests.mutants.run [WORD ...]

No maintained mutation tool knows C with templates, so the mutants are listed here. Each is applied to a
copy of the checkout, in which its tests run; they must pass without it, and fail with it. Words choose
mutants by a part of their name. Exit code 1 if one survives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.sampling import SAMPLING

ROOT = Path(__file__).resolve().parents[2]
ATTENTION = "kernels_c/reference/attention.c"
POOL = "kernels_c/threadpool.c"
DEFINITION = "tests/kernels/test_attention_definition.py"
SAMPLER = "kernels_c/sampling.c"
SAMPLED = "tests/sampling"
THREADS = "tests/emit/test_threads_sanitized.py"
#: Seconds that the tests of one mutant may take: a pool that hangs has been noticed.
TIMEOUT = 120


@dataclass(frozen=True)
class Mutant:
    """``before`` stands once in ``file``; ``after`` takes its place; ``tests`` must fail then."""

    name: str
    file: str
    before: str
    after: str
    tests: str


MUTANTS = (
    Mutant(
        "join: the sum is not rescaled", ATTENTION, "state[tail + 1] * a);", "state[tail + 1]);", DEFINITION
    ),
    Mutant(
        "join: the values are not rescaled",
        ATTENTION,
        "block[d], c, state[d] * a",
        "block[d], c, state[d]",
        DEFINITION,
    ),
    Mutant(
        "join: the block is not rescaled",
        ATTENTION,
        "fma_f32(block[d], c,",
        "fma_f32(block[d], 1.0f,",
        DEFINITION,
    ),
    Mutant(
        "join: the block's sum is not rescaled",
        ATTENTION,
        "fma_f32(block[tail + 1], c,",
        "fma_f32(block[tail + 1], 1.0f,",
        DEFINITION,
    ),
    Mutant("join: the maximum is not kept", ATTENTION, "    state[tail] = max;\n", "", DEFINITION),
    Mutant("finish: not divided by the sum", ATTENTION, "state[d] * inverse", "state[d]", DEFINITION),
    Mutant(
        "block: the last position is left out",
        ATTENTION,
        "        last = block * ATTENTION_BLOCK + ATTENTION_BLOCK - 1;",
        "        last = block * ATTENTION_BLOCK + ATTENTION_BLOCK - 2;",
        DEFINITION,
    ),
    Mutant(
        "block: weights without the maximum",
        ATTENTION,
        "exp_f32(e[i - first] - max)",
        "exp_f32(e[i - first])",
        DEFINITION,
    ),
    Mutant(
        "pool: a unit is done when it is taken",
        POOL,
        "done < p->thread[thread].n_units",
        "done + 1 < p->thread[thread].n_units",
        THREADS,
    ),
    Mutant(
        "pool: nobody steals",
        POOL,
        "for (int32_t i = 0; i < threads; ++i) {\n        const int32_t owner",
        "for (int32_t i = 0; i < 1; ++i) {\n        const int32_t owner",
        THREADS,
    ),
    Mutant("pool: a share ends one early", POOL, "taken >= count", "taken >= count - 1", THREADS),
    Mutant("pool: the epoch does not advance", POOL, "    t->epoch++;\n", "", THREADS),
    *(Mutant(f"sampling, {name}", SAMPLER, *change, SAMPLED) for name, *change in SAMPLING),
)


def _passes(folder: Path, tests: str) -> bool:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", tests]
    environment = {**os.environ, "PYTHONPATH": str(folder), "XDG_CACHE_HOME": str(folder / ".cache")}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return False
    if done.returncode not in (0, 1):  # not a verdict of the tests
        sys.exit(f"{tests} could not be run:\n{done.stdout.decode()[-2000:]}")
    return done.returncode == 0


def main(words: list[str]) -> int:
    """Runs the chosen mutants and prints one line each; the number of survivors decides the exit code."""
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.name for word in words)]
    with tempfile.TemporaryDirectory(prefix="engine-mutants-") as work:
        folder = Path(work) / "checkout"
        ignored = shutil.ignore_patterns(".git", ".venv", "__pycache__")
        shutil.copytree(ROOT, folder, ignore=ignored)
        for tests in dict.fromkeys(mutant.tests for mutant in chosen):
            if not _passes(folder, tests):
                sys.exit(f"{tests} fails without any mutant")
        survivors = 0
        for mutant in chosen:
            file = folder / mutant.file
            text = file.read_text()
            if text.count(mutant.before) != 1:
                sys.exit(f"{mutant.name}: its text stands {text.count(mutant.before)} times in {mutant.file}")
            file.write_text(text.replace(mutant.before, mutant.after))
            survived = _passes(folder, mutant.tests)
            file.write_text(text)
            survivors += survived
            print(f"{'SURVIVES' if survived else 'killed  '}  {mutant.name}", flush=True)
    print(f"{len(chosen)} mutants, {survivors} survive")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
