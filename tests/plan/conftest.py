"""Plans, machines and models to try them on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compiler.model.description import ModelDescription
from runtime.bundle.machine import Machine


@pytest.fixture
def machine() -> Machine:
    """Four cores, no meter."""
    return Machine(
        cpu_model="made",
        cpus=(0, 1, 2, 3),
        physical_cores=4,
        quota=None,
        threads=4,
        threads_because="4 physical cores",
        features=frozenset({"avx2", "fma", "f16c"}),
        memory_total=8 << 30,
        memory_available=6 << 30,
        has_energy_meter=False,
    )


@pytest.fixture
def model(tmp_path: Path) -> ModelDescription:
    """A model trained for 8192 tokens."""
    return made_model(tmp_path / "m.gguf", "a" * 64)


@pytest.fixture
def minimal() -> dict[str, Any]:
    """The least that a plan must say."""
    return {"version": 1, "model": "m.gguf", "backend": "reference", "quantization": "q4_k_m"}


def made_model(path: Path, digest: str, context: int = 8192) -> ModelDescription:
    metadata: dict[str, Any] = {"general.architecture": "llama", "llama.context_length": context}
    return ModelDescription(path, ((path, 0),), "llama", "made", metadata, {}, digest)


@pytest.fixture
def make_model():
    return made_model
