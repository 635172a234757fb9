"""Where the time of a step goes, op by op, against what the machine could do in that very minute.

An op cannot end before memory has delivered its bytes, nor before the arithmetic units have done its
multiply-adds: the later of the two is its limit, and limit over time is its share. Bytes and
multiply-adds come from the manifest, times from the timers that ``observability.op_timing`` compiles
in, the two rates from probes that run before and after each round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from runtime.bundle.format import Manifest
from runtime.engine.executable import Executable
from runtime.errors import EXIT_USAGE, EngineError
from runtime.laboratory.bench import SEED, Test, run_steps
from runtime.laboratory.work import OpWork, Step, total, work_by_op

#: Tokens decoded in a round; the times of a step are their mean.
DECODED = 8
#: Before the name of an op: waiting after it, see ``compiler/emit/timers.py``.
BARRIER = "barrier "


@dataclass(frozen=True)
class Limits:
    """What the machine could do around a round, each with what reached it, in words.

    ``read``   bytes per second.
    ``peaks``  multiply-adds per second, by the bits of the weights' codes; 0: floats.
    """

    read: tuple[float, str]
    peaks: Mapping[int, tuple[float, str]]

    def better(self, other: Limits) -> Limits:
        """The higher of each rate."""
        peaks = {bits: max(peak, other.peaks[bits]) for bits, peak in self.peaks.items()}
        return Limits(max(self.read, other.read), peaks)

    def seconds(self, work: OpWork) -> tuple[float, str]:
        """The least time that ``work`` takes, and what sets it: ``memory`` or ``arithmetic``."""
        memory = work.bytes / self.read[0]
        arithmetic = sum(macs / self.peaks[bits][0] for bits, macs in work.macs_by_bits.items())
        return max(memory, arithmetic), "memory" if memory >= arithmetic else "arithmetic"

    def to_json(self) -> dict[str, Any]:
        body: dict[str, Any] = {"read": {"gb_per_s": self.read[0] / 1e9, "reached_by": self.read[1]}}
        for bits, (rate, loop) in self.peaks.items():
            body[peak_name(bits)] = {"gmac_per_s": rate / 1e9, "reached_by": loop}
        return body


def peak_name(bits: int) -> str:
    """``int4``, ``float``."""
    return f"int{bits}" if bits else "float"


@dataclass(frozen=True)
class OpRow:
    """One op: its seconds until all threads have done their part, those of them that the first thread
    only waited, and its work: None where nothing is counted (norms, rotations)."""

    op: str
    seconds: float
    waiting: float
    work: OpWork | None

    def to_json(self, limits: Limits) -> dict[str, Any]:
        body: dict[str, Any] = {"op": self.op, "ms": self.seconds * 1e3, "waiting_ms": self.waiting * 1e3}
        if self.work is None or self.seconds <= 0:
            return body | dict.fromkeys(
                ("types", "bytes", "macs", "gb_per_s", "gmac_per_s", "limited_by", "share")
            )
        least, by = limits.seconds(self.work)
        return body | {
            "types": list(self.work.types),
            "bytes": self.work.bytes,
            "macs": self.work.macs,
            "gb_per_s": self.work.bytes / self.seconds / 1e9,
            "gmac_per_s": self.work.macs / self.seconds / 1e9,
            "limited_by": by,
            "share": least / self.seconds,
        }


@dataclass(frozen=True)
class Profile:
    """The median round of one kind of step, and its limits.

    ``rows`` are the ops in the order of the graph, ``outside`` is the time of the compiled forward
    outside every op. All of them add up to ``seconds``.
    """

    name: str
    steps: tuple[Step, ...]
    rows: tuple[OpRow, ...]
    outside: float
    seconds: float
    limits: Limits

    @property
    def total(self) -> OpRow:
        """All of it. Its least time is the sum of the ops' least times."""
        works = {row.op: row.work for row in self.rows if row.work is not None}
        return OpRow("total", self.seconds, sum(row.waiting for row in self.rows), total(works))

    @property
    def share(self) -> float:
        """Least time of all ops, each at its own limit, over the time of the forward."""
        least = sum(self.limits.seconds(row.work)[0] for row in self.rows if row.work is not None)
        return least / self.seconds

    def to_json(self) -> dict[str, Any]:
        whole = self.total.to_json(self.limits) | {"share": self.share, "limited_by": None}
        return {
            "test": self.name,
            "tokens": sum(step.tokens for step in self.steps),
            "depth": self.steps[0].depth,
            "steps": len(self.steps),
            "limits": self.limits.to_json(),
            "ops": [row.to_json(self.limits) for row in self.rows],
            "outside_ops_ms": self.outside * 1e3,
            "total": whole,
        }


def measure_roofline(
    executable: Executable, tests: Sequence[Test], look: Callable[[], Limits], rounds: int
) -> list[Profile]:
    """A profile of each test: a prompt (``n_prompt``) or decoding of ``n_gen`` tokens after a depth.

    ``look`` measures the limits; it is called before, between and after all runs. Times of a
    decode test are those of one of its steps. Raises ``test_too_long`` and ``op_timing_needed``.
    """
    manifest, limits = executable.bundle.manifest, executable.limits
    if not executable.bundle.plan.observability.op_timing:
        raise EngineError(
            "op_timing_needed",
            "the bundle was compiled without timers",
            path="observability.op_timing",
            allowed="true",
            hint="name the plan: a variation with timers is compiled from it",
            exit_code=EXIT_USAGE,
        )
    need = max(test.n_depth + test.tokens for test in tests)
    if need > limits.context:
        raise EngineError(
            "test_too_long",
            f"{need} tokens of context are needed",
            path="execution.context",
            allowed=f"at most {limits.context}",
            hint="name fewer with -p and -d, or raise execution.context in the plan, "
            "if the model was trained for more",
            exit_code=EXIT_USAGE,
        )
    ids = np.random.default_rng(SEED).integers(0, limits.n_vocab, need, dtype=np.int32)
    profiles = []
    for test in tests:
        run_steps(executable, ids, Test(test.n_depth, 0).steps(limits.step_tokens))
        steps = test.steps(limits.step_tokens)
        run_steps(executable, ids, steps)  # warm
        looks, times = [look()], []
        for _ in range(rounds):
            before = _times(executable)
            run_steps(executable, ids, steps)
            times.append({op: ns - before[op] for op, ns in _times(executable).items()})
            looks.append(look())
        around = [a.better(b) for a, b in pairwise(looks)]
        middle = sorted(range(rounds), key=lambda i: times[i][""])[rounds // 2]
        profiles.append(_profile(test, steps, manifest, times[middle], around[middle]))
    return profiles


def _times(executable: Executable) -> dict[str, int]:
    """Nanoseconds by op, and of the whole forward under the empty name."""
    return {**executable.detailed_op_times(), "": executable.forward_ns}


def _profile(
    test: Test, steps: list[Step], manifest: Manifest, ns: Mapping[str, int], limits: Limits
) -> Profile:
    works = work_by_op(manifest, steps)
    parts = 1
    if not test.n_prompt:  # the mean of the decoded tokens
        parts = len(steps)
        works = {op: work.divided(parts) for op, work in works.items()}
    seconds = {op: count / parts / 1e9 for op, count in ns.items()}
    whole = seconds.pop("")
    rows = tuple(
        OpRow(op, value + seconds[BARRIER + op], seconds[BARRIER + op], works.get(op))
        for op, value in seconds.items()
        if not op.startswith(BARRIER)
    )
    shown = tuple(steps[:1] if parts > 1 else steps)
    return Profile(test.name, shown, rows, whole - sum(row.seconds for row in rows), whole, limits)
