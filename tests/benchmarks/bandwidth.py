"""The read bandwidth of memory with a number of threads: what decode is measured against.

    python tests/benchmarks/bandwidth.py [--threads 2] [--megabytes 1024]

The probe is the engine's own (``compiler/workbench/bandwidth.py``), the one that ``engine bench`` uses:
every thread of a pool reads its part of a buffer far larger than any cache, with whichever
of several loops is the fastest here.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from compiler.workbench.bandwidth import BandwidthProbe


class Probe:
    """The engine's probe; :meth:`measure` may be called between rounds of something else."""

    def __init__(self, threads: int = 2, megabytes: int = 1024) -> None:
        self.probe = BandwidthProbe(threads, megabytes << 20)

    def measure(self, repeats: int = 3) -> float:
        """Bytes a second, the fastest pass of so many rounds of the fastest loops."""
        return self.probe.measure(repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--megabytes", type=int, default=1024)
    arguments = parser.parse_args()
    probe = Probe(arguments.threads, arguments.megabytes)
    rate = probe.measure(5)
    what = f"{arguments.threads} threads, {probe.probe.bytes >> 20} MiB, {probe.probe.loop}"
    print(f"{rate / 1e9:.2f} GB/s  {what}")


if __name__ == "__main__":
    main()
