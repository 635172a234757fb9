"""An exported GGUF is the model with its weights in the plan's types: nothing else, and never half of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, quants
from gguf_files import write_gguf

from compiler import compile_plan
from compiler.formats import FORMATS
from compiler.model.reader import open_rows, read_model
from compiler.quantize import stream
from compiler.quantize.error import tensor_errors
from compiler.quantize.export import export_gguf
from compiler.quantize.recipes import assign_types
from runtime.bundle.plan import Quantization
from runtime.bundle.reader import open_bundle
from runtime.cli import main
from runtime.engine.executable import Executable
from runtime.errors import EXIT_MODEL, EngineError
from tests.tiny_models import write_llama, write_moe

RNG = np.random.default_rng(21)


def small_model(path: Path, **changes: np.ndarray) -> Path:
    k = 256
    tensors = {
        "token_embd.weight": ((32, k), "f16"),
        "output_norm.weight": ((k,), "f32"),
        "output.weight": ((32, k), "f16"),
        "blk.0.attn_q.weight": ((48, k), "f16"),
        "blk.0.attn_v.weight": ((40, k), "bf16"),
        "blk.0.ffn_gate_inp.weight": ((2, k), "f16"),
        "blk.0.ffn_down_exps.weight": ((2, 24, 96), "f32"),
    }
    arrays = {
        name: (RNG.standard_normal(shape).astype(np.float32), type) for name, (shape, type) in tensors.items()
    }
    arrays |= {name: (value, "f32") for name, value in changes.items()}
    return write_gguf(path, arrays, block_count=1, expert_count=2)


def content(field: object) -> object:
    return field.contents(), [int(kind) for kind in field.types]  # type: ignore[attr-defined]


@pytest.mark.parametrize("recipe", ["f32", "f16", "bf16", "q8_0", "q6_k", "q4_k_m"])
def test_tensors_are_the_encoders_blocks_in_the_files_order(tmp_path: Path, recipe, monkeypatch):
    monkeypatch.setattr(stream, "PIECE_WEIGHTS", 4096)
    model = read_model(small_model(tmp_path / "m.gguf"))
    types = assign_types(model, Quantization(recipe))
    out = tmp_path / "out.gguf"
    size = export_gguf(model, types, recipe, out)
    assert size == out.stat().st_size
    written = GGUFReader(out).tensors
    assert [t.name for t in written] == list(model.tensors)
    with open_rows(model) as rows:
        for tensor, decided in zip(written, types, strict=True):
            source = model.tensors[tensor.name]
            assert tuple(reversed(tensor.shape)) == source.shape
            assert tensor.tensor_type.name.lower() == decided.type
            x = rows.float32(source).reshape(-1, source.shape[-1])
            expected = FORMATS[decided.type].encode_rows(x)
            assert (
                np.asarray(tensor.data).view(np.uint8).reshape(expected.shape).tolist() == expected.tolist()
            )


def test_the_exported_file_is_a_model_again_with_nothing_left_to_quantize(tmp_path: Path):
    model = read_model(small_model(tmp_path / "m.gguf"))
    first = tmp_path / "first.gguf"
    export_gguf(model, assign_types(model, Quantization("q4_k_m")), "q4_k_m", first)
    again = read_model(first)
    types = assign_types(again, Quantization("q4_k_m"))
    assert all(t.type == t.source_type for t in types)
    export_gguf(again, types, "q4_k_m", tmp_path / "second.gguf")
    assert (tmp_path / "second.gguf").read_bytes() == first.read_bytes()


@pytest.mark.parametrize("recipe", ["q8_0", "q6_k", "q4_k_m"])
@pytest.mark.parametrize("write", [write_llama, write_moe])
def test_the_exported_file_runs_with_the_plans_bits(tmp_path: Path, write, recipe):
    """Plan and exported file lead to one logits digest, since they lead to the same packed weights."""
    plan = write_plan(tmp_path, write(tmp_path / "m.gguf").name, recipe)
    with pytest.raises(SystemExit) as ended:
        main(["quantize", str(plan), "-o", str(tmp_path / "out.gguf")])
    assert ended.value.code == 0
    logits = []
    for model in ("m.gguf", "out.gguf"):
        document = {"name": "same", "model": str(tmp_path / model), "backend": "reference"}
        settings = {"quantization": recipe, "execution": {"context": 64, "step_tokens": 16, "slots": 1}}
        bundle = open_bundle(compile_plan({**document, **settings}, out=tmp_path / f"{model}-bundle"))
        with Executable.open(bundle, threads=1) as executable:
            ids = [7, 99, 200, 31]
            logits.append(np.array(executable.forward([0] * 4, range(4), ids, [1] * 4)))
    assert np.isfinite(logits[0]).all()
    assert logits[0].tobytes() == logits[1].tobytes()


@pytest.mark.parametrize("family", ["llama-dense", "qwen3moe-moe", "gemma2-dense"])
def test_metadata_is_copied_key_by_key_with_its_types(shared_data: Path, tmp_path: Path, family):
    source = shared_data / "architectures" / f"{family}.gguf"
    model = read_model(source)
    export_gguf(model, assign_types(model, Quantization("q6_k")), "q6_k", tmp_path / "out.gguf")
    old, new = GGUFReader(source).fields, GGUFReader(tmp_path / "out.gguf").fields
    changed = {"general.file_type", "general.quantization_version"}
    names = {name for name in old if not name.startswith("GGUF.")} | changed
    assert {name for name in new if not name.startswith("GGUF.")} == names
    for name in names - changed:
        assert content(new[name]) == content(old[name]), name
    assert new["general.file_type"].contents() == 18
    assert new["general.quantization_version"].contents() == 2


@pytest.mark.parametrize("family", ["llama-dense", "llama-moe", "qwen3-dense", "gemma2-dense"])
@pytest.mark.parametrize("recipe", ["q8_0", "q6_k", "q4_k_m"])
def test_our_types_and_errors_against_llama_quantize(shared_data: Path, family, recipe):
    """Same types, tensor by tensor, but for the fallback of rows that are not whole superblocks, which we
    choose by measured error; and a smaller root mean square error in every quantized tensor."""
    source = shared_data / "architectures" / f"{family}.gguf"
    model = read_model(source)
    types = assign_types(model, Quantization(recipe))
    ours = {error.name: error for error in tensor_errors(model, types)}
    for tensor in GGUFReader(shared_data / "quantized" / f"{family}-{recipe.upper()}.gguf").tensors:
        kind = tensor.tensor_type.name.lower()
        whole = tensor.shape[0] % 256 == 0  # gguf's reader gives the length of a row first
        assert ours[tensor.name].type == (kind if whole or kind != "q5_0" else "q5_1")
        with open_rows(model) as rows:
            x = rows.float32(model.tensors[tensor.name])
        theirs = quants.dequantize(np.asarray(tensor.data), tensor.tensor_type).reshape(x.shape)
        rmse = float(np.sqrt(((theirs.astype(np.float64) - x) ** 2).mean()))
        if FORMATS[ours[tensor.name].type].quantized:
            assert ours[tensor.name].rmse < 0.985 * rmse, tensor.name
        else:
            assert ours[tensor.name].rmse == 0


def test_errors_are_those_of_the_decoded_weights(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(stream, "PIECE_WEIGHTS", 2048)
    model = read_model(small_model(tmp_path / "m.gguf"))
    types = assign_types(model, Quantization("q4_k_m"))
    with open_rows(model) as rows:
        for error in tensor_errors(model, types):
            source = model.tensors[error.name]
            x = rows.float32(source).reshape(-1, source.shape[-1])
            format = FORMATS[error.type]
            gap = format.decode_rows(format.encode_rows(x)).astype(np.float64) - x
            assert error.rmse == pytest.approx(np.sqrt((gap**2).mean()), rel=1e-6)
            assert error.largest == pytest.approx(np.abs(gap).max(), rel=1e-6)
            assert error.weights == x.size
            assert error.bits_per_weight == format.bits_per_weight()


def test_the_model_itself_is_never_overwritten(tmp_path: Path):
    path = small_model(tmp_path / "m.gguf")
    before = path.read_bytes()
    (tmp_path / "link.gguf").symlink_to(path)
    model = read_model(path)
    for out in (path, tmp_path / "link.gguf"):
        with pytest.raises(EngineError) as caught:
            export_gguf(model, assign_types(model, Quantization("q8_0")), "q8_0", out)
        assert caught.value.code == "output_is_the_model"
    assert path.read_bytes() == before


def test_a_failed_export_leaves_the_earlier_file_and_nothing_else(tmp_path: Path):
    bad = RNG.standard_normal((48, 256)).astype(np.float32)
    bad[47, 255] = np.inf
    model = read_model(small_model(tmp_path / "m.gguf", **{"blk.0.attn_q.weight": bad}))
    out = tmp_path / "out.gguf"
    out.write_bytes(b"earlier")
    with pytest.raises(EngineError) as caught:
        export_gguf(model, assign_types(model, Quantization("q8_0")), "q8_0", out)
    assert caught.value.code == "weight_not_finite"
    assert out.read_bytes() == b"earlier"
    assert {path.name for path in tmp_path.iterdir()} == {"m.gguf", "out.gguf"}


def test_a_folder_that_is_missing_is_a_typed_error(tmp_path: Path):
    model = read_model(small_model(tmp_path / "m.gguf"))
    with pytest.raises(EngineError):
        export_gguf(model, assign_types(model, Quantization("q8_0")), "q8_0", tmp_path / "none" / "out.gguf")


def write_plan(folder: Path, model: str, recipe: str = "q4_k_m") -> Path:
    plan = folder / "plan.yaml"
    plan.write_text(f"version: 1\nname: small\nmodel: {model}\nbackend: reference\nquantization: {recipe}\n")
    return plan


def test_the_command_writes_the_plans_weights(tmp_path: Path, capsys):
    small_model(tmp_path / "m.gguf")
    out = tmp_path / "out.gguf"
    with pytest.raises(SystemExit) as ended:
        main(["quantize", str(write_plan(tmp_path, "m.gguf")), "-o", str(out), "--errors", "--json"])
    assert ended.value.code == 0
    body = json.loads(capsys.readouterr().out)
    assert body["bytes"] == out.stat().st_size
    by_name = {row["name"]: row for row in body["tensors"]}
    assert by_name["blk.0.attn_q.weight"]["type"] == "q4_k"
    assert 0.05 < by_name["blk.0.attn_q.weight"]["relative_rmse"] < 0.08
    assert by_name["output_norm.weight"]["rmse"] == 0


def test_the_command_reports_a_bad_weight_with_the_models_exit_code(tmp_path: Path, capsys):
    bad = np.full((48, 256), np.nan, np.float32)
    small_model(tmp_path / "m.gguf", **{"blk.0.attn_q.weight": bad})
    with pytest.raises(SystemExit) as ended:
        main(["quantize", str(write_plan(tmp_path, "m.gguf")), "-o", str(tmp_path / "out.gguf")])
    assert ended.value.code == EXIT_MODEL
    assert "blk.0.attn_q.weight" in capsys.readouterr().err
    assert not (tmp_path / "out.gguf").exists()
