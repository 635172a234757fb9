"""A recipe decides every tensor's type once, says why, and refuses what would lose quality unasked."""

from __future__ import annotations

from pathlib import Path

import pytest
from quantize_models import describe, layers, read_description

from compiler.model.reader import read_model
from compiler.quantize.recipes import assign_types, more_bits
from runtime.bundle.plan import Quantization, TypeOverride
from runtime.errors import EngineError
from tests.tiny_models import write_llama

LLAMA = {"block_count": 16, "attention.head_count": 32, "attention.head_count_kv": 8}


def types(model, recipe, **more) -> dict[str, str]:
    return {t.name: t.type for t in assign_types(model, Quantization(recipe, **more))}


@pytest.mark.parametrize("recipe", ["f32", "f16", "bf16", "q8_0", "q6_k"])
def test_a_plain_recipe_gives_every_matrix_its_type_and_keeps_vectors(recipe):
    decided = types(describe(layers(2), block_count=2), recipe)
    for name, type in decided.items():
        assert type == ("f32" if name.endswith("_norm.weight") else recipe), name


def test_q4_k_m_is_the_published_mix():
    decided = types(describe(layers(16), **LLAMA), "q4_k_m")
    larger = {0, 1, 4, 7, 10, 13, 14, 15}
    for i in range(16):
        for name in ("attn_q", "attn_k", "attn_output", "ffn_gate", "ffn_up"):
            assert decided[f"blk.{i}.{name}.weight"] == "q4_k"
        for name in ("attn_v", "ffn_down"):
            assert decided[f"blk.{i}.{name}.weight"] == ("q6_k" if i in larger else "q4_k"), i
    assert decided["output.weight"] == "q6_k"
    assert decided["token_embd.weight"] == "q4_k"
    assert {i for i in range(16) if more_bits(i, 16)} == larger


def test_a_tied_embedding_has_the_outputs_type():
    tensors = layers(2)
    del tensors["output.weight"]
    assert types(describe(tensors, block_count=2), "q4_k_m")["token_embd.weight"] == "q6_k"


def test_eight_experts_keep_keys_and_values_in_q8_0():
    tensors = layers(2) | {
        "blk.0.ffn_gate_inp.weight": ((8, 256), "f16"),
        "blk.0.ffn_down_exps.weight": ((8, 64, 256), "f16"),
    }
    for recipe, default, output in (("q4_k_m", "q4_k", "q5_k"), ("q6_k", "q6_k", "q6_k")):
        decided = types(describe(tensors, block_count=2, expert_count=8), recipe)
        assert decided["blk.0.attn_v.weight"] == decided["blk.0.attn_k.weight"] == "q8_0"
        assert decided["blk.0.attn_output.weight"] == output
        assert decided["blk.0.attn_q.weight"] == default
        assert decided["blk.0.ffn_gate_inp.weight"] == "f32"
        assert decided["blk.0.ffn_down_exps.weight"] == default


def test_what_stays_f32_says_why():
    tensors = layers(1) | {
        "blk.0.attn_q_norm.weight": ((4, 64), "f32"),
        "blk.0.ffn_down_exps.bias": ((4, 64), "f16"),
        "blk.0.ffn_gate_inp.weight": ((4, 256), "bf16"),
    }
    reasons = {t.name: (t.type, t.reason) for t in assign_types(describe(tensors), Quantization("q8_0"))}
    assert reasons["blk.0.attn_q_norm.weight"] == ("f32", "norm; bytes of the file")
    assert reasons["blk.0.ffn_down_exps.bias"] == ("f32", "bias")
    assert reasons["blk.0.ffn_gate_inp.weight"] == ("f32", "router")
    assert reasons["blk.0.attn_norm.weight"] == ("f32", "vector; bytes of the file")


@pytest.mark.parametrize(
    ("k", "q4", "q6", "q8"),
    [(256, "q4_k", "q6_k", "q8_0"), (576, "q5_1", "q8_0", "q8_0"), (40, "f16", "f16", "f16")],
)
def test_rows_that_are_not_whole_blocks_fall_back_and_say_so(k, q4, q6, q8):
    model = describe(layers(1, k=k), block_count=1)
    assert types(model, "q4_k_m")["blk.0.attn_q.weight"] == q4
    assert types(model, "q6_k")["blk.0.attn_q.weight"] == q6
    assert types(model, "q8_0")["blk.0.attn_q.weight"] == q8
    reason = {t.name: t.reason for t in assign_types(model, Quantization("q4_k_m"))}["blk.0.attn_q.weight"]
    assert (f"rows of {k}" in reason) == (q4 != "q4_k")


def test_codes_that_stand_in_for_rows_stay_unless_they_are_narrower():
    held = {kind: describe(layers(1, k=576, type=kind), block_count=1) for kind in ("q4_1", "q5_0", "q8_0")}
    for kind, model in held.items():
        assert types(model, "q4_k_m", requantize=True)["blk.0.attn_q.weight"] == kind
    assert set(types(held["q8_0"], "q6_k").values()) == {"q8_0", "f32"}
    with pytest.raises(EngineError, match=r"in q5_0 \(q8_0 wanted\)"):
        types(held["q5_0"], "q6_k")


def test_the_first_matching_override_decides():
    overrides = (TypeOverride("blk.1.ffn_down.*", "q6_k"), TypeOverride("blk.*.ffn_down.weight", "q8_0"))
    found = assign_types(describe(layers(2)), Quantization("q4_k_m", overrides))
    decided = {t.name: t for t in found}
    assert decided["blk.0.ffn_down.weight"].type == "q8_0"
    assert decided["blk.1.ffn_down.weight"].type == "q6_k"
    assert decided["blk.1.ffn_down.weight"].reason == "override blk.1.ffn_down.*"


def test_overrides_that_cannot_hold_are_reported_together():
    overrides = (TypeOverride("blk.*.nothing.*", "q8_0"), TypeOverride("*.ffn_up.weight", "q4_k"))
    with pytest.raises(EngineError) as caught:
        assign_types(describe(layers(1, k=288), block_count=1), Quantization("q8_0", overrides))
    codes = {(cause.code, cause.path) for cause in caught.value.causes}
    assert codes == {
        ("tensor_type_does_not_fit", "quantization.overrides[1].type"),
        ("override_matches_nothing", "quantization.overrides[0].tensors"),
    }


def test_an_override_of_norms_alone_is_refused():
    with pytest.raises(EngineError) as caught:
        types(describe(layers(1)), "q8_0", overrides=(TypeOverride("*_norm.weight", "q8_0"),))
    assert caught.value.code == "override_matches_nothing"


def test_unknown_names_are_refused_with_what_is_allowed():
    with pytest.raises(EngineError) as caught:
        types(describe(layers(1)), "q3_k_xs")
    assert caught.value.code == "unknown_recipe"
    assert "q4_k_m" in (caught.value.allowed or "")
    with pytest.raises(EngineError) as caught:
        types(describe(layers(1)), "q8_0", overrides=(TypeOverride("*", "q9_k"),))
    assert caught.value.code == "unknown_tensor_type"


def test_quantizing_twice_is_refused_for_all_tensors_at_once():
    tensors = layers(2, type="q5_k")
    tensors["output.weight"] = ((64, 256), "q6_k")
    model = describe(tensors, block_count=2)
    with pytest.raises(EngineError) as caught:
        types(model, "q4_k_m")
    assert caught.value.code == "requantization_refused"
    assert caught.value.causes == ()
    assert "15 tensors" in caught.value.message
    assert "13 in q5_k (q4_k wanted), 2 in q5_k (q6_k wanted)" in caught.value.message
    for word in ("--quant source", "requantize: true", "--requantize"):
        assert word in (caught.value.hint or "")
    assert types(model, "q4_k_m", requantize=True)["blk.0.attn_q.weight"] == "q4_k"


def test_recipe_source_takes_what_kernels_exist_for():
    tensors = layers(1, type="q4_k")
    assert types(describe(tensors), "source")["blk.0.attn_q.weight"] == "q4_k"
    tensors["blk.0.attn_v.weight"] = ((64, 256), "iq2_xs")
    tensors["blk.0.attn_k.weight"] = ((64, 320), "nvfp4")
    with pytest.raises(EngineError) as caught:
        types(describe(tensors), "source")
    assert caught.value.code == "requantization_refused"
    assert "1 in iq2_xs (q4_k in its place)" in caught.value.message
    assert "1 in nvfp4 (q5_1 in its place)" in caught.value.message
    assert "--requantize" in (caught.value.hint or "")
    mended = types(describe(tensors), "source", requantize=True)
    assert mended["blk.0.attn_v.weight"] == "q4_k"
    assert mended["blk.0.attn_k.weight"] == "q5_1"


@pytest.mark.parametrize("kind", ["q4_0", "q4_1", "q5_0", "q5_1"])
def test_types_in_blocks_of_32_keep_their_bytes(kind):
    model = describe(layers(1, k=96, type=kind), block_count=1)
    decided = {t.name: t for t in assign_types(model, Quantization("source"))}["blk.0.attn_q.weight"]
    assert decided.type == kind
    assert decided.reason.endswith("bytes of the file")


def test_recipe_q4_0_gives_every_matrix_that_type():
    assert set(types(describe(layers(1, k=96), block_count=1), "q4_0").values()) == {"q4_0", "f32"}


def test_what_a_file_holds_as_iq4_nl_keeps_its_bytes():
    model = describe(layers(1, k=96, type="iq4_nl"), block_count=1)
    decided = {t.name: t for t in assign_types(model, Quantization("source"))}["blk.0.attn_q.weight"]
    assert decided.type == "iq4_nl"
    assert decided.reason.endswith("bytes of the file")


def test_recipe_iq4_nl_spares_the_output():
    tensors = layers(1)
    del tensors["output.weight"]
    tied = types(describe(tensors, block_count=1), "iq4_nl")
    assert (tied["blk.0.attn_q.weight"], tied["token_embd.weight"]) == ("iq4_nl", "q6_k")
    tensors["output.weight"] = ((64, 256), "f32")
    own = types(describe(tensors, block_count=1), "iq4_nl")
    assert (own["token_embd.weight"], own["output.weight"]) == ("iq4_nl", "q6_k")


def test_q4_0_needs_no_leave_to_become_what_holds_its_values():
    model = describe(layers(1, k=96, type="q4_0"), block_count=1)
    quantization = Quantization("source", (TypeOverride("*", "q5_0"),))
    decided = {t.name: t for t in assign_types(model, quantization)}["blk.0.attn_q.weight"]
    assert decided.type == "q5_0"
    assert decided.reason.endswith("the file's values exactly")
    with pytest.raises(EngineError):
        types(model, "q8_0")


def test_a_type_that_cannot_be_decoded_is_refused():
    with pytest.raises(EngineError) as caught:
        types(describe(layers(1, type="q8_k")), "q8_0", requantize=True)
    assert caught.value.code == "unsupported_source_type"
    assert "9 as q8_k" in caught.value.message  # one error, with a count
    assert caught.value.causes == ()


@pytest.mark.parametrize("family", ["llama-dense", "llama-moe", "qwen3-dense", "gemma2-dense"])
@pytest.mark.parametrize("recipe", ["q8_0", "q6_k", "q4_k_m"])
def test_files_of_llama_quantize_keep_every_byte_under_the_same_recipe(shared_data: Path, family, recipe):
    model = read_description(shared_data / "quantized" / f"{family}-{recipe.upper()}.gguf")
    for tensor in assign_types(model, Quantization(recipe)):
        assert tensor.type == tensor.source_type, tensor
        assert tensor.reason.endswith("bytes of the file")


#: What llama.cpp's quantizer gave (llama-cpp-python 0.3.36) the matrices that depart from a mix's own type,
#: in a llama of 18 layers with 4 heads over 2: attn_v, ffn_down, attn_output, by layer.
MIXES = {
    "q2_k": ("3" * 18, "3" * 18, "3" * 18),
    "q3_k_s": ("3" * 18, "3" * 18, "3" * 18),
    "q3_k_m": ("55" + "4" * 16, "5" + "4" * 17, "4" * 18),
    "q3_k_l": ("5" * 18, "5" * 18, "5" * 18),
    "q4_k_s": ("5555" + "4" * 14, "55" + "4" * 16, "4" * 18),
    "q4_k_m": ("66" + "446" * 4 + "4666", "66" + "446" * 4 + "4666", "4" * 18),
    "q5_k_s": ("5" * 18, "5" * 18, "5" * 18),
    "q5_k_m": ("66" + "556" * 4 + "5666", "66" + "556" * 4 + "5666", "5" * 18),
}


@pytest.mark.parametrize("recipe", MIXES)
def test_mixes_of_k_quants_are_the_published_ones(tmp_path: Path, recipe: str) -> None:
    model = read_model(write_llama(tmp_path / "m.gguf", layers=18))
    found = {t.name: t.type for t in assign_types(model, Quantization(recipe, (), False))}
    for role, types in zip(("attn_v", "ffn_down", "attn_output"), MIXES[recipe], strict=True):
        assert [found[f"blk.{i}.{role}.weight"] for i in range(18)] == [f"q{n}_k" for n in types], role
    base = f"q{recipe[1]}_k"
    assert {found[f"blk.{i}.{role}.weight"] for i in range(18) for role in ("attn_q", "ffn_up")} == {base}
    assert found["token_embd.weight"] == "q6_k"  # tied to the output
