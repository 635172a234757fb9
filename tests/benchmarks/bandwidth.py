"""The read bandwidth of memory with a number of threads: what decode is measured against.

    python tests/benchmarks/bandwidth.py [--threads 2] [--megabytes 1024]

Each thread reads a part of its own of a buffer far larger than any cache, front to back,
with the widest loads the compiler has for this machine. The loop is C, built on the spot
with the C compiler, called without the GIL.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

SOURCE = r"""
#include <stddef.h>
#include <stdint.h>
/* Eight independent sums keep enough loads in flight; the result must be used. */
uint64_t read_all(const uint64_t *p, size_t n) {
    uint64_t s[8] = {0};
    for (size_t i = 0; i + 64 <= n; i += 64) {
        __builtin_prefetch(p + i + 512);
        for (size_t j = 0; j < 64; j++) s[j & 7] += p[i + j];
    }
    return s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7];
}
"""


class Probe:
    """Buffers and code, made once; :meth:`measure` may be called between rounds of something else."""

    def __init__(self, threads: int = 2, megabytes: int = 1024) -> None:
        compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
        if compiler is None:
            raise SystemExit("the bandwidth probe needs a C compiler ($CC, cc, gcc or clang)")
        with tempfile.TemporaryDirectory() as folder:
            source, library = Path(folder, "read.c"), Path(folder, "read.so")
            source.write_text(SOURCE)
            subprocess.run([compiler, "-O3", "-march=native", "-funroll-loops", "-shared", "-fPIC",
                            source, "-o", library], check=True)
            self._read = ctypes.CDLL(str(library)).read_all
        self._read.restype = ctypes.c_uint64
        self._read.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        words = megabytes * (1 << 20) // 8 // threads
        self.buffers = [np.full(words, n + 1, np.uint64) for n in range(threads)]

    def measure(self, repeats: int = 3) -> float:
        """Bytes a second, the best of so many passes over the buffers."""
        return max(self._once() for _ in range(repeats))

    def _once(self) -> float:
        start = threading.Barrier(len(self.buffers) + 1)
        sums = [0] * len(self.buffers)

        def work(n: int) -> None:
            start.wait()
            sums[n] = self._read(self.buffers[n].ctypes.data, self.buffers[n].size)

        workers = [threading.Thread(target=work, args=(n,)) for n in range(len(self.buffers))]
        for worker in workers:
            worker.start()
        start.wait()
        begin = time.perf_counter()
        for worker in workers:
            worker.join()
        seconds = time.perf_counter() - begin
        expected = [(n + 1) * (b.size // 64 * 64) for n, b in enumerate(self.buffers)]
        if sums != expected:
            raise RuntimeError(f"the probe read {sums}, not {expected}")
        return sum(b.nbytes for b in self.buffers) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--megabytes", type=int, default=1024)
    arguments = parser.parse_args()
    print(f"{Probe(arguments.threads, arguments.megabytes).measure(5) / 1e9:.2f} GB/s")


if __name__ == "__main__":
    main()
