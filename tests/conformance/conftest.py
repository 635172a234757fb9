"""Compiling and running the shared models on every backend this CPU has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler import backends, compile_plan
from runtime.bundle.reader import open_bundle
from runtime.engine.executable import Executable

Logits = np.ndarray


def runnable_backends() -> list[Any]:
    """Every installed backend as a parameter; those the CPU cannot run are skipped, saying so."""
    cpu = backends.cpu_features()
    found = []
    for name in backends.available():
        missing = backends.get(name).missing_features(cpu)
        reason = f"this CPU lacks {', '.join(missing)}, which {name} needs"
        found.append(pytest.param(name, marks=pytest.mark.skipif(bool(missing), reason=reason)))
    return found


def plan_of(model: Path, quantization: str, backend: str, **execution: Any) -> dict[str, Any]:
    """A plan for one of the tiny shared models (trained context 256)."""
    settings = {"context": 256, "step_tokens": 64, "slots": 2, "kv_cache": "f32", **execution}
    return {
        "name": f"{model.stem}-{quantization}-{backend}".lower().replace("_", "-"),
        "model": str(model),
        "backend": backend,
        "quantization": quantization,
        "execution": settings,
    }


@pytest.fixture(scope="session")
def compiled(run_folder: Path) -> Callable[[Mapping[str, Any]], Path]:
    """Compiles a plan once a test run, whichever worker asks first; the others wait for it."""
    folder = run_folder / "bundles"
    folder.mkdir(mode=0o700, exist_ok=True)
    made: dict[str, Path] = {}

    def compile_once(plan: Mapping[str, Any]) -> Path:
        key = sha256(repr(sorted(plan.items(), key=str)).encode()).hexdigest()[:16]
        if key not in made:
            made[key] = compile_plan(plan, out=folder / f"{plan['name']}-{key}")
        return made[key]

    return compile_once


def run_logits(
    bundle: Path,
    tokens: Sequence[int],
    *,
    threads: int = 1,
    chunk: int = 64,
    companion: Sequence[int] = (),
) -> Logits:
    """Logits ``[tokens][vocabulary]`` of a sequence in slot 0, ``chunk`` tokens a step.

    ``companion``: another sequence, in slot 1, whose tokens share the steps as far as they go.
    """
    rows = []
    with Executable.open(open_bundle(bundle), threads=threads) as executable:
        for first in range(0, len(tokens), chunk):
            part = [int(t) for t in tokens[first : first + chunk]]
            room = executable.limits.step_tokens - len(part)
            other = [int(t) for t in companion[first : first + min(chunk, room)]]
            n, m = len(part), len(other)
            # The companion goes first in every other step: the order must not matter either.
            own = ([0] * n, range(first, first + n), part, [1] * n)
            its = ([1] * m, range(first, first + m), other, [1] * m)
            halves = (its, own) if (first // chunk) % 2 and m else (own, its)
            slots, positions, ids, want = ([*a, *b] for a, b in zip(*halves, strict=True))
            logits = np.array(executable.forward(slots, positions, ids, want))
            rows.append(logits[m:] if halves[0] is its else logits[:n])
    return np.concatenate(rows)


def nmse(found: Logits, expected: Logits) -> float:
    """Squared error relative to the expected logits' squares."""
    wide = expected.astype(np.float64)
    return float(np.sum((found - wide) ** 2) / np.sum(wide**2))
