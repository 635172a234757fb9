"""Benchmarks of a bundle in llama-bench's terms: prompt processing, generation, both, at a depth.

What is timed: steps of the compiled forward pass driven from Python, prompt tokens in
chunks of ``step_tokens``, generated tokens one a step; token ids are random, fixed by a
seed. What is not: tokenization, loading, the depth that is filled first, and sampling unless asked for.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from statistics import mean, median, stdev
from typing import Any

import numpy as np

from runtime.bundle.format import Manifest
from runtime.bundle.reader import Bundle
from runtime.engine.executable import Executable
from runtime.engine.types import Sampling
from runtime.errors import EXIT_USAGE, EngineError
from runtime.laboratory.work import OpWork, Step, total, work_by_op
from runtime.metrics.energy import EnergyMeter
from runtime.metrics.reading import EnergyReading

SEED = 1
#: Most values that one list or range may give.
MAX_VALUES = 100


@dataclass(frozen=True)
class Test:
    """One row: ``n_prompt`` tokens are processed, then ``n_gen`` generated, after ``n_depth``."""

    n_prompt: int
    n_gen: int
    n_depth: int = 0

    @property
    def name(self) -> str:
        """``pp512``, ``tg128``, ``pp512+tg128``, with `` @ d512``."""
        parts = [f"pp{self.n_prompt}"] * bool(self.n_prompt) + [f"tg{self.n_gen}"] * bool(self.n_gen)
        return "+".join(parts) + (f" @ d{self.n_depth}" if self.n_depth else "")

    @property
    def tokens(self) -> int:
        return self.n_prompt + self.n_gen

    def steps(self, step_tokens: int) -> list[Step]:
        """As they are run: of a prompt only the last token's logits are wanted."""
        counts = chunks(self.n_prompt, step_tokens)
        steps, at = [], self.n_depth
        for number, count in enumerate(counts + [1] * self.n_gen, start=1):
            steps.append(Step(count, at, int(number >= len(counts))))
            at += count
        return steps


@dataclass(frozen=True)
class Sample:
    """One repetition."""

    ns: int
    forward_ns: int
    energy: EnergyReading
    wait_ns: int = 0


@dataclass(frozen=True)
class Result:
    """All repetitions of a test.

    ``bandwidths``: bytes a second that could be read around each, the better of before and after.
    ``work``: what one repetition reads and multiplies, None where the bundle does not say.
    """

    test: Test
    threads: int
    samples: tuple[Sample, ...]
    bandwidths: tuple[float, ...]
    work: OpWork | None
    step_tokens: int
    started: str

    @property
    def rates(self) -> list[float]:
        """Tokens per second of each repetition."""
        return [self.test.tokens * 1e9 / sample.ns for sample in self.samples]

    def to_json(self, bundle: Bundle, cpu: str) -> dict[str, Any]:
        """llama-bench's keys, then ours. Unknown is null."""
        ns, rates, manifest = [s.ns for s in self.samples], self.rates, bundle.manifest
        seconds = median(ns) / 1e9
        rate = self.work.bytes / seconds if self.work else None
        bandwidth = median(self.bandwidths) if self.bandwidths else None
        watts = [s.energy.watts for s in self.samples if s.energy.watts is not None]
        joules = [s.energy.complete_joules for s in self.samples if s.energy.complete_joules is not None]
        decode = not self.test.n_prompt
        plan = bundle.plan
        return {
            "build_commit": build_name(manifest),
            "cpu_info": cpu,
            "backends": manifest.backend,
            "model_filename": plan.model,
            "model_type": model_type(manifest),
            "model_size": manifest.files["weights.bin"].size,
            "model_n_params": int(manifest.details.get("parameters", 0)),
            "n_batch": self.step_tokens,
            "n_ubatch": self.step_tokens,
            "n_threads": self.threads,
            "type_k": plan.execution.kv_cache,
            "type_v": plan.execution.kv_cache,
            "n_prompt": self.test.n_prompt,
            "n_gen": self.test.n_gen,
            "n_depth": self.test.n_depth,
            "test_time": self.started,
            "avg_ns": round(mean(ns)),
            "stddev_ns": round(stdev(ns)) if len(ns) > 1 else 0,
            "avg_ts": mean(rates),
            "stddev_ts": stdev(rates) if len(rates) > 1 else 0.0,
            "samples_ns": ns,
            "samples_ts": rates,
            "avg_watts": mean(watts) if len(watts) == len(ns) else None,
            "joules_per_token": mean(joules) / self.test.tokens if len(joules) == len(ns) else None,
            "gb_per_s": rate / 1e9 if rate is not None else None,
            "bandwidth_share": rate / bandwidth if decode and rate and bandwidth else None,
            "read_bandwidth_gb_per_s": bandwidth / 1e9 if bandwidth else None,
            "gmac_per_s": self.work.macs / seconds / 1e9 if self.work else None,
            "overhead": max(0.0, 1 - sum(s.forward_ns for s in self.samples) / sum(ns)),
            "barrier_wait_share": sum(s.wait_ns for s in self.samples)
            / max(1, sum(s.forward_ns for s in self.samples)),
            "energy_source": self.samples[0].energy.source,
            "energy_reason": self.samples[0].energy.reason,
        }


def chunks(tokens: int, most: int) -> list[int]:
    """``tokens`` in steps of at most ``most``."""
    return [min(most, tokens - begin) for begin in range(0, tokens, most)]


def run_test(
    executable: Executable,
    test: Test,
    *,
    repetitions: int,
    meter: EnergyMeter,
    bandwidth: Callable[[], float] | None = None,
    warm_up: bool = True,
    sampling: Sampling | None = None,
) -> Result:
    """Runs a test: the depth, one untimed round, then the repetitions, with a look at the bandwidth
    before, between and after them. ``sampling``: tokens are chosen within the time, as declared.

    Raises ``test_too_long`` if it does not fit the bundle's context.
    """
    limits = executable.limits
    need = test.n_depth + test.tokens
    if need > limits.context:
        raise EngineError(
            "test_too_long",
            f"{test.name} needs {need} tokens of context",
            path="execution.context",
            allowed=f"at most {limits.context}",
            hint="name shorter tests with -p, -n and -d, or raise execution.context in the plan, "
            "if the model was trained for more",
            exit_code=EXIT_USAGE,
        )
    ids = np.random.default_rng(SEED).integers(0, limits.n_vocab, need, dtype=np.int32)
    fill = Test(test.n_depth, 0).steps(limits.step_tokens)
    steps = test.steps(limits.step_tokens)
    run_steps(executable, ids, [replace(step, wanted=0) for step in fill])
    if warm_up:
        once = Test(test.n_prompt, min(test.n_gen, 1), test.n_depth)
        run_steps(executable, ids, once.steps(limits.step_tokens))
    started = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    samples = []
    looks = [bandwidth()] if bandwidth else []
    for _ in range(repetitions):
        mark, before, waited = meter.start(), executable.forward_ns, executable.wait_ns
        begin = time.monotonic_ns()
        run_steps(executable, ids, steps, sampling)
        ns = time.monotonic_ns() - begin
        inside, wait_ns = executable.forward_ns - before, executable.wait_ns - waited
        samples.append(Sample(ns, inside, meter.read(mark), wait_ns))
        looks += [bandwidth()] if bandwidth else []
    work = total(work_by_op(executable.bundle.manifest, steps))
    around = tuple(max(pair) for pair in pairwise(looks))
    return Result(test, executable.threads, tuple(samples), around, work, limits.step_tokens, started)


def run_steps(
    executable: Executable,
    ids: np.ndarray[Any, Any],
    steps: Sequence[Step],
    sampling: Sampling | None = None,
) -> None:
    """Slot 0 through ``steps``, token ``ids[p]`` at position p; logits of the last of each as wanted.

    With ``sampling`` a token is chosen from them, and not used: the ids stay the same.
    """
    for step in steps:
        want = np.zeros(step.tokens, np.uint8)
        want[-1] = step.wanted
        positions = np.arange(step.depth, step.depth + step.tokens, dtype=np.int32)
        logits = executable.forward(np.zeros(step.tokens, np.int32), positions, ids[positions], want)
        if sampling is not None and step.wanted:
            after = step.depth + step.tokens
            executable.sample(logits[-1], sampling, after, ids[:after])


def parse_values(text: str, option: str) -> list[int]:
    """llama-bench's lists and ranges: ``512``, ``1,2,4``, ``1-4``, ``16-64+16``, ``1-8*2``.

    Raises ``invalid_option``.
    """
    values: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,7})(?:-(\d{1,7})(?:([+*])(\d{1,7}))?)?", part.strip())
        if match is None:
            raise _bad_values(text, option)
        first, last = int(match[1]), int(match[2] or match[1])
        step, factor = int(match[4] or 1), match[3] == "*"
        if first > last or step < 1 or (factor and (step < 2 or first < 1)):
            raise _bad_values(text, option)
        while first <= last:
            values.append(first)
            first = first * step if factor else first + step
            if len(values) > MAX_VALUES:
                raise _bad_values(text, option)
    return values


def _bad_values(text: str, option: str) -> EngineError:
    return EngineError(
        "invalid_option",
        f"{text!r} is no list of numbers",
        path=option,
        allowed=f"N, N,N…, FIRST-LAST, FIRST-LAST+STEP, FIRST-LAST*FACTOR; at most {MAX_VALUES}",
        exit_code=EXIT_USAGE,
    )


def plan_tests(
    prompts: Sequence[int], gens: Sequence[int], pairs: Sequence[tuple[int, int]], depths: Sequence[int]
) -> list[Test]:
    """The tests in llama-bench's order: for each depth all prompts, all generations, all pairs."""
    tests = []
    for depth in depths:
        tests += [Test(n, 0, depth) for n in prompts if n]
        tests += [Test(0, n, depth) for n in gens if n]
        tests += [Test(p, n, depth) for p, n in pairs if p or n]
    return tests


def build_name(manifest: Manifest) -> str:
    """What built the bundle: the engine's version and the digest of its compiler."""
    return f"{manifest.engine_version}+{manifest.builder[:8]}"


def model_type(manifest: Manifest) -> str:
    """``llama 1.24 B Q4_K_M``."""
    return f"{manifest.architecture} {params_text(manifest.details)} {manifest.quantization.upper()}"


def params_text(details: Mapping[str, Any]) -> str:
    """Parameters as llama-bench writes them, ``1.24 B`` or ``3.93 M``."""
    count = int(details.get("parameters", 0))
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.2f} M"


def size_text(count: int) -> str:
    """Bytes in GiB or MiB, two digits."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.2f} MiB"
