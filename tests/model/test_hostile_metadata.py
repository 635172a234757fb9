"""A header may be well formed and its contents absurd: all of it compiles, or is refused by name."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from compiler.lower import lower
from compiler.model.description import ModelDescription
from compiler.model.reader import read_model
from compiler.plan import plan_from_mapping, resolve
from compiler.vocabulary import build_vocabulary
from runtime.bundle.machine import Machine
from runtime.engine.tokenizer import Tokenizer
from runtime.errors import EngineError
from tests.families.models import CASES, write_case

VALUES: tuple[Any, ...] = (
    *(0, 1, -1, 3, 255, 1 << 31, (1 << 32) - 1, 1 << 62, 0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf")),
    *(True, "", "x", "yarn", "longrope", (), (1, 2), ("a", "b"), ((1,),), tuple(range(50))),
)
KEYS = (
    *("rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length"),
    *("rope.scaling.yarn_beta_fast", "rope.freq_base_swa", "rope.scaling.finetuned", "rope.scale_linear"),
    *("attention.sliding_window", "attention.sliding_window_pattern", "attention.scale", "logit_scale"),
    *(
        "expert_count",
        "expert_used_count",
        "expert_gating_func",
        "expert_shared_count",
        "expert_weights_norm",
    ),
    *("attention.key_length", "attention.value_length", "attn_logit_softcapping", "embedding_scale"),
)
PIECES: tuple[Any, ...] = ("", "a b", "\x00", "x" * 2000, 5, -1, 2.5, None, "<0xZZ>", " ", "\ud800")


def metadata_changed(model: ModelDescription, rng: random.Random) -> ModelDescription:
    metadata = dict(model.metadata)
    key = f"{model.architecture}.{rng.choice(KEYS)}" if rng.random() < 0.5 else rng.choice(list(metadata))
    if rng.random() < 0.15:
        metadata.pop(key, None)
    else:
        metadata[key] = rng.choice(VALUES)
    return replace(model, metadata=MappingProxyType(metadata))


def tensors_changed(model: ModelDescription, rng: random.Random) -> ModelDescription:
    tensors = dict(model.tensors)
    name = rng.choice(list(tensors))
    tensor, chance = tensors[name], rng.random()
    if chance < 0.6:
        shape = list(tensor.shape)
        at = rng.randrange(len(shape))
        shape[at] = rng.choice((1, 2, 2 * shape[at], shape[at] + 1, 1 << 20))
        tensors[name] = replace(tensor, shape=(*shape, 1) if chance < 0.1 else tuple(shape))
    elif chance < 0.8:
        del tensors[name]
    else:
        other = rng.choice(list(tensors))
        tensors[other] = replace(tensor, name=other)
    return replace(model, tensors=MappingProxyType(tensors))


def vocabulary_changed(model: ModelDescription, rng: random.Random) -> ModelDescription:
    metadata = dict(model.metadata)
    key = f"tokenizer.ggml.{rng.choice(('tokens', 'merges', 'token_type'))}"
    entries = metadata[key]
    assert isinstance(entries, tuple)
    changed = list(entries)
    changed[rng.randrange(len(changed))] = rng.choice(PIECES)
    metadata[key] = tuple(changed)
    return replace(model, metadata=MappingProxyType(metadata))


CHANGES: tuple[Callable[[ModelDescription, random.Random], ModelDescription], ...]
CHANGES = (metadata_changed, metadata_changed, tensors_changed, vocabulary_changed)


@pytest.mark.parametrize("name", ["dots1-sigmoid-experts", "gemma3-window-base", "phi3-long-factors"])
def test_absurd_contents_compile_or_are_refused_in_a_moment(name: str, tmp_path: Path) -> None:
    model = read_model(write_case(tmp_path / "m.gguf", CASES[name]))
    rng, machine = random.Random(name), Machine.probe()
    outcomes: dict[str, int] = {}
    for _ in range(120):
        changed = model
        for _ in range(rng.choice((1, 1, 2))):
            changed = rng.choice(CHANGES)(changed, rng)
        begin = time.process_time()
        try:
            files = build_vocabulary(changed)
            Tokenizer.from_files(files["tokenizer.json"], files["vocabulary.json"]).encode(
                "the end <|end|> é"
            )
            document = {"model": str(model.path), "backend": "reference", "quantization": "q8_0"}
            lower(resolve(plan_from_mapping(document, tmp_path), changed, machine), changed)
            outcome = "compiled"
        except EngineError as error:
            outcome = error.code
        assert time.process_time() - begin < 1.5
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert {"compiled", "model_metadata", "model_tensor", "vocabulary_invalid"} <= set(outcomes)
