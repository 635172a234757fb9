"""Files that llama.cpp quantized run with their bytes untouched, and give its logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from runtime.bundle.reader import open_bundle
from tests.conformance.conftest import nmse, plan_of, run_logits, runnable_backends

RECIPES = {"Q8_0": "q8_0", "Q6_K": "q6_k", "Q4_K_M": "q4_k_m"}


@pytest.mark.parametrize("backend", runnable_backends())
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", ["llama-dense", "qwen3-dense", "gemma2-dense", "llama-moe"])
def test_logits_of_the_same_bytes(
    name: str, recipe: str, backend: str, shared_data: Path, compiled: Callable[..., Path]
) -> None:
    """Codes of activations are the same as llama.cpp's until the first tie that float noise decides
    otherwise; one flipped code is noise of the size that quantizing activations makes, and these models
    amplify it. So: exact to float noise at first, and within a tenth of what quantizing the weights did,
    except at 8 bits, where weights and activations are rounded alike.
    """
    stored = np.load(shared_data / "quantized" / f"{name}-{recipe}.logits.npz")
    floats = np.load(shared_data / "architectures" / f"{name}.logits.npz")["logits"]
    model = shared_data / "quantized" / f"{name}-{recipe}.gguf"
    bundle = compiled(plan_of(model, RECIPES[recipe], backend))
    found = run_logits(bundle, stored["tokens"])
    if not name.startswith("gemma"):  # its GELU is a table of fp16 values in llama.cpp
        assert nmse(found[:2], stored["logits"][:2]) <= 1e-10
    share = 1.0 if recipe == "Q8_0" else 0.1
    assert nmse(found, stored["logits"]) <= share * nmse(stored["logits"], floats)


@pytest.mark.parametrize("recipe", RECIPES)
def test_types_of_the_file_are_kept(recipe: str, shared_data: Path, compiled: Callable[..., Path]) -> None:
    path = shared_data / "quantized" / f"llama-dense-{recipe}.gguf"
    manifest = open_bundle(compiled(plan_of(path, RECIPES[recipe], "reference"))).manifest
    stored = {t.name: t.tensor_type.name.lower() for t in gguf.GGUFReader(path).tensors}
    assert {t.name: t.type for t in manifest.tensors} == {t.name: stored[t.name] for t in manifest.tensors}
    assert len(manifest.tensors) > 10
