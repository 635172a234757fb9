"""A tiny model of random weights, compiled once for the tests of this room."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.tiny_models import write_llama


@pytest.fixture(scope="session")
def tiny_plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan's file: two layers of width 256, q8_0, the reference backend, two slots."""
    folder = tmp_path_factory.mktemp("tiny")
    write_llama(folder / "tiny.gguf", layers=2)
    plan = {
        "version": 1,
        "name": "tiny",
        "model": "tiny.gguf",
        "backend": "reference",
        "quantization": "q8_0",
        "execution": {"threads": 2, "context": 256, "slots": 2, "step_tokens": 32},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(plan))
    return path
