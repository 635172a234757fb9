"""Runs a backend's kernels against the scalar reference, bit for bit, and times them.

The program is built by :mod:`compiler.workbench.program` and runs apart: a kernel that
leaves its buffers, whose neighbours are guard bytes, ends that process and not ours.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from compiler import backends
from compiler.build.toolchain import temporary_folder
from compiler.formats import FORMATS
from compiler.kernels import KV_TYPES
from compiler.workbench.peak import PeakProbe
from compiler.workbench.program import build_program
from compiler.workbench.selftest import offered
from runtime.errors import EXIT_FAILURE, EngineError

#: What a check covers: a panel kernel a format, attention a KV type, the row kernels, the thread pool.
CHECKS = (*FORMATS, *(f"attention_{kind}" for kind in KV_TYPES), "rows", "threadpool")


def check_kernels(backend: str, cases: int, seed: int, ops: Sequence[str] = ()) -> list[dict[str, Any]]:
    """``{"op", "cases", "failures"[, "first_failing_seed"]}`` for each of ``ops`` (default: all).

    Attention and the thread pool run a fiftieth of ``cases``: one of theirs is hundreds
    of times the work. Raises ``backend_unknown``, ``unsupported_cpu``, ``compiler_failed``,
    ``kernel_crashed``.
    """
    return _run(backend, ["check", "reference", backend, str(cases), str(seed), *ops], failures=True)


def bench_kernels(backend: str, threads: int, rounds: int, dram_bytes: int) -> list[dict[str, Any]]:
    """Speeds of each panel kernel, warm and with weights from DRAM.

    The first entry, ``op`` ``read``, is the read bandwidth of the same rounds; the others have

    ``format``, ``k``, ``tokens``, ``threads``; ``weights``: ``cache`` or ``dram``;
    ``gb_per_s`` of packed weights, ``share_of_read`` (null for ``cache``);
    ``gmac_per_s``, ``best_gmac_per_s`` (the median and the best round), ``share_of_peak``: of the
    multiply-adds that the backend's instructions allow for such codes (``peak``, in words);
    ``times_reference``: over the scalar reference on as many threads.

    Raises as :func:`check_kernels` does.
    """
    numbers = [str(threads), str(rounds), str(dram_bytes)]
    with PeakProbe(backend, threads) as probe:
        before = probe.measure()
        results = _run(backend, ["bench", "reference", backend, *numbers], failures=False)
        after = probe.measure()
    for row in results:
        if row["op"] == "panel":
            bits = FORMATS[row["format"]].code_bits
            peak = max(before[bits], after[bits], key=lambda p: p.rate)
            row |= {"share_of_peak": row["gmac_per_s"] * 1e9 / peak.rate, "peak": peak.loop}
    return results


def _run(backend: str, arguments: list[str], *, failures: bool) -> list[dict[str, Any]]:
    chosen = offered(backend)
    sets = [backends.get("reference")] if backend == "reference" else [backends.get("reference"), chosen]
    with temporary_folder("engine-kernels-") as folder:
        program = build_program(sets, folder)
        done = subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False)
    if done.returncode not in ((0, 1) if failures else (0,)):
        raise EngineError(
            "kernel_crashed",
            f"the check ended with {done.returncode}: {done.stderr.strip()[-1000:]}",
            path=backend,
            hint="the last line of its output names the op; the same seed repeats it",
            exit_code=EXIT_FAILURE,
        )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
