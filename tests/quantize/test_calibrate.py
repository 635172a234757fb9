"""Importance measured here: the interpreter's own inputs, in llama-imatrix's form, for the plan to use."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from compiler.decoder import build_decoder
from compiler.graph.interpret import OPERATIONS, Interpreter, Step
from compiler.model.description import ModelDescription
from compiler.model.reader import open_rows, read_model
from compiler.quantize.imatrix import read_importance
from compiler.workflows.calibrate import collect
from runtime.errors import EngineError
from tests.tiny_models import VOCABULARY, write_llama, write_moe

WINDOWS = [np.random.default_rng(i).integers(0, VOCABULARY - 2, 40, dtype=np.int32) for i in range(2)]
TEXT = "the rain is in the container, and the hero is near it on a train to the ocean. " * 4


def inputs_of(
    model: ModelDescription, windows: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> dict[str, dict[int, list[np.ndarray]]]:
    """Every row that each matrix of a tensor takes in, by the interpreter's plain loops."""
    found: dict[str, dict[int, list[np.ndarray]]] = {}

    def watched(op: str) -> Callable[..., Any]:
        plain = OPERATIONS[op]

        def run(interpreter: Interpreter, node: Any, step: Step, ins: list[Any]) -> Any:
            rows = found.setdefault(node.weights[0].name, {})
            experts = np.zeros(len(ins[0]), int)
            if op == "expert_matmul":
                pairs = ins[1].pairs
                experts = ins[1].ids[pairs[:, 0], pairs[:, 1]]
            for expert, row in zip(experts, ins[0], strict=True):
                rows.setdefault(int(expert), []).append(row)
            return plain(interpreter, node, step, ins)

        return run

    for op in ("matmul", "expert_matmul"):
        monkeypatch.setitem(OPERATIONS, op, watched(op))
    with open_rows(model) as rows:
        weights = {name: rows.float32(tensor) for name, tensor in model.tensors.items()}
    decoder = build_decoder(model, weights.__getitem__, len(windows[0]))
    for window in windows:
        count = len(window)
        step = Step(window, np.arange(count), np.zeros(count, int), np.ones(count, bool))
        Interpreter(decoder.graph, {**weights, **decoder.constants}).run(step)
    return found


def compare(path: Path, windows: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    model = read_model(path)
    sums = collect(model, windows, output=True)
    expected = inputs_of(model, windows, monkeypatch)
    assert sums.keys() == expected.keys()
    for name, matrices in expected.items():
        for matrix in range(len(sums[name].counts)):
            rows = np.array(matrices.get(matrix, np.zeros((0, sums[name].squares.shape[1]))))
            assert sums[name].counts[matrix] == len(rows), name
            assert sums[name].squares[matrix] == pytest.approx((rows**2).sum(axis=0), rel=1e-3, abs=1e-6), (
                name
            )
    return sums


def test_the_sums_are_those_of_the_interpreters_inputs(tmp_path: Path, monkeypatch) -> None:
    sums = compare(write_llama(tmp_path / "m.gguf", layers=2), WINDOWS, monkeypatch)
    assert "token_embd.weight" in sums  # tied: it makes the logits
    assert set(sums["blk.1.ffn_down.weight"].counts.flat) == {80.0}


def test_each_expert_has_the_sums_of_its_own_tokens(tmp_path: Path, monkeypatch) -> None:
    sums = compare(write_moe(tmp_path / "m.gguf"), WINDOWS, monkeypatch)
    counts = sums["blk.0.ffn_down_exps.weight"].counts
    assert counts.shape == (4, 1)
    assert counts.sum() == 2 * 80
    assert np.array_equal(counts, sums["blk.0.ffn_gate_exps.weight"].counts)


@pytest.mark.parametrize(
    "name", ["gemma3-dense", "gemma2-dense", "phi3-dense", "stablelm-dense", "qwen2moe-moe"]
)
def test_windows_caps_and_fused_tensors_of_real_families(name: str, shared_data: Path, monkeypatch) -> None:
    path = shared_data / "architectures" / f"{name}.gguf"
    tokens = np.load(path.with_suffix(".logits.npz"))["tokens"].astype(np.int32)
    compare(path, [tokens], monkeypatch)


def test_an_activation_that_is_not_finite_is_an_error_that_names_the_matrix(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "m.gguf", layers=1)
    (norm,) = (t for t in gguf.GGUFReader(path, "r+").tensors if t.name == "blk.0.ffn_norm.weight")
    norm.data[7] = np.inf
    with pytest.raises(EngineError, match="ffn_gate") as caught:
        collect(read_model(path), WINDOWS)
    assert caught.value.code == "numeric_error"


def test_the_file_is_llama_imatrixs_and_a_plan_may_name_it(tmp_path: Path, engine) -> None:
    """Weighted by what it says, the error of every quantized matrix is smaller than without it."""
    model = write_llama(tmp_path / "m.gguf", layers=2, seed=9)
    (tmp_path / "text").write_text(TEXT)
    out = tmp_path / "im.gguf"
    code, text, _ = engine("imatrix", model, "-f", tmp_path / "text", "-o", out, "-c", 32, "--json")
    assert code == 0
    body = json.loads(text)
    assert body["tokens"] == 32 * body["windows"] > 100
    assert "token_embd.weight" not in body["tensors"]

    reader = gguf.GGUFReader(out)
    keys = {key: field.contents() for key, field in reader.fields.items()}
    assert keys["general.type"] == "imatrix"
    assert keys["imatrix.datasets"] == ["text"]
    assert (keys["imatrix.chunk_count"], keys["imatrix.chunk_size"]) == (body["windows"], 32)
    tensors = {t.name: t for t in reader.tensors}
    assert tensors.keys() == {f"{n}.{part}" for n in body["tensors"] for part in ("in_sum2", "counts")}
    assert [int(n) for n in tensors["blk.0.ffn_down.weight.in_sum2"].shape] == [512, 1]
    assert [int(n) for n in tensors["blk.0.ffn_down.weight.counts"].shape] == [1, 1]

    importance = read_importance(out).columns
    files = {}
    for name, quantization in (("plain", "q4_k_m"), ("weighted", "{recipe: q4_k_m, imatrix: im.gguf}")):
        plan = tmp_path / f"{name}.yaml"
        plan.write_text(
            f"version: 1\nmodel: m.gguf\nbackend: reference\nquantization: {quantization}\n"
            "execution: {context: 64}\n"
        )
        files[name] = tmp_path / f"{name}.gguf"
        assert engine("quantize", plan, "-o", files[name])[0] == 0
    original = {t.name: t.data for t in gguf.GGUFReader(model).tensors}
    plain, weighted = ({t.name: t for t in gguf.GGUFReader(path).tensors} for path in files.values())
    for name, columns in importance.items():
        errors = []
        for file in (plain, weighted):
            gap = gguf.dequantize(file[name].data, file[name].tensor_type) - original[name]
            errors.append(float((gap.astype(np.float64) ** 2 * columns).sum()))
        assert errors[1] < errors[0], name


def test_the_output_projection_is_measured_if_asked(tmp_path: Path, engine) -> None:
    model = write_llama(tmp_path / "m.gguf", layers=1)
    (tmp_path / "text").write_text(TEXT)
    options = ("-f", tmp_path / "text", "-o", tmp_path / "im.gguf", "-c", 32, "--chunks", 1, "--json")
    code, text, _ = engine("imatrix", model, *options, "--process-output")
    assert code == 0
    assert json.loads(text)["tensors"][-1] == "token_embd.weight"
    assert json.loads(text)["tokens"] == 32


@pytest.mark.parametrize(
    ("text", "options", "code", "says"),
    [
        (None, [], 2, "No such file"),
        (b"\xff\xfe", [], 2, "byte 0 is not UTF-8"),
        (b"too short", [], 2, "do not fill one window"),
        (TEXT.encode() * 9, ["-c", 600], 2, "more than the model was trained for"),
        (TEXT.encode(), ["-c", 32, "-o", "/nowhere/im.gguf"], 7, "/nowhere"),
    ],
)
def test_what_imatrix_refuses(tmp_path: Path, engine, text, options, code: int, says: str) -> None:
    model = write_llama(tmp_path / "m.gguf", layers=1)
    if text is not None:
        (tmp_path / "text").write_bytes(text)
    done = engine("imatrix", model, "-f", tmp_path / "text", "-o", tmp_path / "im.gguf", *options)
    assert done[0] == code, done
    assert says in done[2]
    assert not (tmp_path / "im.gguf").exists()
