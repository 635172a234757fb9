"""Models that do not hold together are refused by the name of the key or tensor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from compiler.decoder import build_decoder
from compiler.decoder.families import families
from compiler.model.description import ModelDescription
from compiler.model.reader import open_rows, read_model
from runtime.errors import EXIT_MODEL, EngineError
from tests.tiny_models import write_llama, write_moe


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelDescription:
    return read_model(write_llama(tmp_path_factory.mktemp("models") / "llama.gguf"))


def decode(model: ModelDescription, context: int = 64) -> Any:
    with open_rows(model) as rows:
        return build_decoder(model, lambda name: rows.float32(model.tensors[name]), context)


def with_metadata(model: ModelDescription, **changes: Any) -> ModelDescription:
    metadata = dict(model.metadata)
    for key, value in changes.items():
        full = key.replace("__", ".")
        full = full if full.startswith("general.") else f"{model.architecture}.{full}"
        if value is None:
            metadata.pop(full, None)
        else:
            metadata[full] = value
    return replace(model, metadata=MappingProxyType(metadata))


def with_tensors(model: ModelDescription, **shapes: tuple[int, ...] | None) -> ModelDescription:
    tensors = dict(model.tensors)
    for key, shape in shapes.items():
        name = key.replace("__", ".")
        if shape is None:
            del tensors[name]
        else:
            template = tensors.get(name) or tensors["output_norm.weight"]
            tensors[name] = replace(template, name=name, shape=shape)
    return replace(model, tensors=MappingProxyType(tensors))


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"block_count": None}, "llama.block_count"),
        ({"block_count": 0}, "llama.block_count"),
        ({"block_count": 1 << 30}, "llama.block_count"),
        ({"block_count": "two"}, "llama.block_count"),
        ({"block_count": True}, "llama.block_count"),
        ({"attention__head_count": 0}, "llama.attention.head_count"),
        ({"attention__head_count_kv": 3}, "llama.attention.head_count_kv"),
        ({"attention__head_count": (4, 2)}, "llama.attention.head_count"),
        ({"rope__dimension_count": 63}, "llama.rope.dimension_count"),
        ({"rope__dimension_count": 128}, "llama.rope.dimension_count"),
        ({"rope__freq_base": float("nan")}, "llama.rope.freq_base"),
        ({"rope__scaling__type": "spiral"}, "llama.rope.scaling.type"),
        ({"attention__layer_norm_rms_epsilon": -1.0}, "llama.attention.layer_norm_rms_epsilon"),
        ({"expert_count": 4, "expert_used_count": 5}, "llama.expert_used_count"),
        ({"context_length": None}, "llama.context_length"),
    ],
)
def test_metadata_out_of_bounds_is_refused(
    llama: ModelDescription, changes: dict[str, Any], where: str
) -> None:
    with pytest.raises(EngineError) as caught:
        decode(with_metadata(llama, **changes))
    assert (caught.value.code, caught.value.path) == ("model_metadata", where)
    assert caught.value.exit_code == EXIT_MODEL


def test_equal_numbers_for_all_layers_are_one_number(llama: ModelDescription) -> None:
    assert decode(with_metadata(llama, attention__head_count_kv=(2, 2))).hyper.kv_heads == 2


@pytest.mark.parametrize(
    ("shapes", "where"),
    [
        ({"blk__1__attn_q__weight": None}, "blk.1.attn_q.weight"),
        ({"blk__0__attn_k__weight": (256, 256)}, "blk.0.attn_k.weight"),
        ({"blk__0__ffn_norm__weight": (255,)}, "blk.0.ffn_norm.weight"),
        ({"token_embd__weight": (272,)}, "token_embd.weight"),
        ({"token_embd__weight": None}, "token_embd.weight"),
        ({"output__weight": (271, 256)}, "output.weight"),
        ({"blk__0__attn_q__bias": (128,)}, "blk.0.attn_q.bias"),
        ({"rope_freqs__weight": (31,)}, "rope_freqs.weight"),
        ({"position_embd__weight": (512, 256)}, "position_embd.weight"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    llama: ModelDescription, shapes: dict[str, tuple[int, ...] | None], where: str
) -> None:
    with pytest.raises(EngineError) as caught:
        decode(with_tensors(llama, **shapes))
    assert (caught.value.code, caught.value.path) == ("model_tensor", where)


def test_a_family_that_is_not_described_is_refused_with_the_list(llama: ModelDescription) -> None:
    with pytest.raises(EngineError) as caught:
        decode(replace(llama, architecture="mamba"))
    assert caught.value.code == "unknown_architecture"
    assert "qwen3moe" in (caught.value.allowed or "")
    assert "HACKING" in (caught.value.hint or "")


def test_rotation_factors_must_be_usable(llama: ModelDescription) -> None:
    broken = with_tensors(llama, rope_freqs__weight=(32,))
    for factors in (np.zeros(32), np.full(32, np.nan), np.full(32, -1.0)):
        with pytest.raises(EngineError, match="finite and positive"):
            build_decoder(broken, lambda name, f=factors: f.astype(np.float32), 64)


def test_what_the_graph_does_not_read_is_listed(llama: ModelDescription) -> None:
    assert decode(llama).unused == ()
    assert decode(with_tensors(llama, rank__head__weight=(256,))).unused == ("rank.head.weight",)


@pytest.mark.parametrize(
    "name", ["blk.1.attn_q.scale", "blk.0.attn_norm.bias", "blk.0.attn_sinks.weight", "output_norm.bias"]
)
def test_a_tensor_of_the_decoder_that_nothing_reads_is_refused(llama: ModelDescription, name: str) -> None:
    with pytest.raises(EngineError, match="says nothing of this tensor") as caught:
        decode(with_tensors(llama, **{name.replace(".", "__"): (256,)}))
    assert (caught.value.code, caught.value.path) == ("model_tensor", name)
    assert "HACKING" in (caught.value.hint or "")


def test_what_follows_from_the_metadata_may_stand_in_the_file(llama: ModelDescription) -> None:
    decoded = decode(with_tensors(llama, blk__0__attn_rot_embd__weight=(32,), blk__7__nextn__weight=(256,)))
    assert decoded.unused == ("blk.0.attn_rot_embd.weight", "blk.7.nextn.weight")


def test_experts_need_a_family_that_describes_them(tmp_path: Path) -> None:
    model = read_model(write_moe(tmp_path / "moe.gguf"))
    assert any(node.op == "route" for node in decode(model).graph.nodes)
    metadata = {key.replace("llama.", "granite.", 1): value for key, value in model.metadata.items()}
    other = replace(model, architecture="granite", metadata=MappingProxyType(metadata))
    with pytest.raises(EngineError, match="does not describe"):
        decode(other)


def test_every_family_file_follows_the_schema() -> None:
    described = families()
    assert {"llama", "gemma3", "qwen3moe", "command-r"} <= set(described)
    assert all(family.rope_pairing in ("norm", "neox") for family in described.values())
