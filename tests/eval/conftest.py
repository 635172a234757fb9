"""A tiny model of random weights with its plan, and a text for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import pytest
import yaml

from tests.tiny_models import write_llama

WINDOW = 24


@dataclass(frozen=True)
class Tiny:
    """A folder with ``model.gguf`` (float32), ``text`` of some windows, and plans written on demand."""

    folder: Path
    text: Path

    def plan(self, name: str, quantization: object, model: str = "model.gguf", **execution: object) -> Path:
        tree = {
            "version": 1,
            "name": name,
            "model": model,
            "backend": "reference",
            "quantization": quantization,
            "execution": {"threads": 2, "context": 64, "slots": 1, "step_tokens": 10, **execution},
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(tree))
        return path


def flatten(path: Path) -> None:
    """Smaller embeddings: the layers count for more, and logits are no longer tens apart."""
    (table,) = (t for t in gguf.GGUFReader(path, "r+").tensors if t.name == "token_embd.weight")
    table.data[:] *= 0.15


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("eval")
    write_llama(folder / "model.gguf", layers=2, seed=5)
    flatten(folder / "model.gguf")
    letters = np.random.default_rng(3).choice(list("etaoin shrdlu, ä€\n"), 3 * WINDOW + 10)
    text = folder / "text.txt"
    text.write_text("".join(letters), "utf-8")
    return Tiny(folder, text)
