"""``engine eval``: plans and recipes in one table, references of every kind, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGUFWriter

from runtime.bundle.machine import Machine
from tests.command import Engine
from tests.eval.conftest import WINDOW, Tiny, flatten
from tests.tiny_models import write_llama

ROOT = Path(__file__).resolve().parents[2]
STORYTELLER = ROOT / "plans" / "models" / "storyteller"


def test_recipes_of_one_plan_stand_in_one_table(engine: Engine, tiny: Tiny) -> None:
    plan = tiny.plan("q8_0", "q8_0")
    done = engine("eval", plan, "-f", tiny.text, "-c", WINDOW, "--quants", "q8_0,q4_k_m,q8_0", "--tensors")
    assert done.code == 0, done.err
    summary = done.out.split("\n\n")[1].splitlines()
    assert [line.split()[0] for line in summary] == ["quantization", "source", "q8_0", "q4_k_m"]
    assert "bytes/weight" in summary[0]
    assert "blk.1.ffn_down.weight" in done.out
    rows = engine("eval", plan, "-f", tiny.text, "-c", WINDOW, "--quants", "q8_0,q4_k_m", "--json").json
    sizes = [row["bytes_per_weight"] for row in rows["evaluations"]]
    assert rows["reference"]["bytes_per_weight"] == pytest.approx(4, rel=0.01)
    assert sizes == [pytest.approx(1.07, rel=0.02), pytest.approx(0.7, abs=0.1)]


@pytest.mark.skipif(
    not {"avx2", "fma", "f16c"} <= Machine.probe().features,
    reason="the plans need AVX2, which this CPU lacks",
)
def test_more_bytes_diverge_less(engine: Engine) -> None:
    """f16 ≤ q8_0 ≤ q6_k ≤ q4_k_m on the project's own model, in divergence and in the weights' error."""
    names = ("f16", "q8_0", "q6_k", "q4_k_m")
    text = ("eval", "storyteller-f16", "-f", STORYTELLER / "heldout.txt", "-c", 256, "--chunks", 10, "--json")
    rows = engine(*text, "--quants", ",".join(names)).json["evaluations"]
    assert [row["quantization"] for row in rows] == list(names)
    means = [row["kl_divergence"]["mean"] for row in rows]
    assert means == sorted(means)
    assert means[0] == 0 < means[1] < means[2] / 2 < means[3] / 4
    assert means[3] < 0.02
    errors = [row["weights_error"]["relative_rmse"] for row in rows]
    assert errors == sorted(errors)
    sizes = [row["bytes_per_weight"] for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    assert rows[3]["top_token_agreement"] > 0.95
    assert rows[0]["perplexity"] < 2  # it has learnt its stories


def test_an_exported_file_is_judged_by_the_plan_it_came_from(engine: Engine, tiny: Tiny) -> None:
    """Its own weights decoded are no measure of what it lost; the original plan is."""
    q4 = tiny.plan("q4", "q4_k_m")
    assert engine("quantize", q4, "-o", tiny.folder / "exported.gguf").code == 0
    exported = tiny.plan("exported", "source", "exported.gguf")
    original = tiny.plan("original", "f32")
    options = ("-f", tiny.text, "-c", WINDOW, "--json")
    rows = engine("eval", q4, exported, *options, "--reference", original).json["evaluations"]
    assert [row["plan"] for row in rows] == ["q4", "exported"]
    for key in ("kl_divergence", "perplexity", "weights_error"):
        assert rows[0][key] == rows[1][key]

    alone = engine("eval", exported, *options)
    assert "holds quantized weights" in alone.err
    body = alone.json
    assert "decoded" in body["notes"][0]
    assert body["reference"]["quantization"] == "f32"
    (row,) = body["evaluations"]
    # What is left is the rounding of activations; of its weights nothing is lost any more.
    assert 0 < row["kl_divergence"]["mean"] < rows[0]["kl_divergence"]["mean"] / 5
    assert row["weights_error"]["relative_rmse"] == 0


def test_a_recipe_may_be_the_reference(engine: Engine, tiny: Tiny) -> None:
    options = ("eval", tiny.plan("q8_0", "q8_0"), "-f", tiny.text, "-c", WINDOW, "--json")
    body = engine(*options, "--reference", "q8_0").json
    assert body["reference"]["quantization"] == "q8_0"
    assert body["evaluations"][0]["kl_divergence"]["largest"] == 0


def test_an_importance_matrix_of_the_plan_is_used(engine: Engine, tiny: Tiny, tmp_path: Path) -> None:
    """Columns that matter come out better, at the cost of those that do not."""
    name, k = "blk.0.ffn_down.weight", 512
    importance = np.full(k, 1.0, np.float32)
    importance[::2] = 100.0
    writer = GGUFWriter(tiny.folder / "imatrix.gguf", "imatrix")
    writer.add_tensor(f"{name}.in_sum2", importance.reshape(1, k))
    writer.add_tensor(f"{name}.counts", np.ones((1, 1), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    plain = tiny.plan("plain", "q4_k_m")
    weighted = tiny.plan("weighted", {"recipe": "q4_k_m", "imatrix": "imatrix.gguf"})
    rows = engine("eval", plain, weighted, "-f", tiny.text, "-c", WINDOW, "--json").json["evaluations"]
    assert [row["quantization"] for row in rows] == ["q4_k_m", "q4_k_m + imatrix"]
    assert rows[0]["kl_divergence"] != rows[1]["kl_divergence"]
    original = {t.name: t.data for t in gguf.GGUFReader(tiny.folder / "model.gguf").tensors}
    squares = []
    for plan in (plain, weighted):
        assert engine("quantize", plan, "-o", tmp_path / "q.gguf").code == 0
        found = {t.name: t for t in gguf.GGUFReader(tmp_path / "q.gguf").tensors}
        gap = gguf.dequantize(found[name].data, found[name].tensor_type) - original[name]
        squares.append(((gap[:, ::2] ** 2).mean(), (gap[:, 1::2] ** 2).mean()))
    assert squares[1][0] < 0.9 * squares[0][0]
    assert squares[1][1] > squares[0][1]
    by_name = [{t["name"]: t["rmse"] for t in row["weights_error"]["tensors"]} for row in rows]
    assert {n for n in by_name[0] if by_name[0][n] != by_name[1][n]} == {name}


def test_what_eval_refuses(engine: Engine, tiny: Tiny, tmp_path: Path) -> None:
    plan = tiny.plan("q8_0", "q8_0")
    (tmp_path / "short.txt").write_text("abc")
    (tmp_path / "latin.txt").write_bytes("olá mundo ".encode("latin-1") * 20)
    (tmp_path / "empty.txt").write_text("")
    cases = [
        (["-f", tmp_path / "missing.txt"], "text_unreadable", "No such file"),
        (["-f", tmp_path], "text_unreadable", "directory"),
        (["-f", tmp_path / "latin.txt"], "text_unreadable", "byte 2 is not UTF-8 (0xe1)"),
        (["-f", tmp_path / "short.txt"], "text_too_short", "3 tokens"),
        (["-f", tmp_path / "empty.txt"], "text_too_short", "0 tokens"),
        (["-f", tiny.text, "-c", 65], "invalid_option", "window of 65"),
        (["-f", tiny.text, "-c", 3], "invalid_option", "window of 3"),
        (["-f", tiny.text, "--quants", "q8_0,q3_k"], "unknown_recipe", "'q3_k'"),
        (["-f", tiny.text, "--reference", "q3_k"], "unknown_plan", "q3_k"),
    ]
    for arguments, code, says in cases:
        done = engine("eval", plan, *arguments, "--json")
        assert done.out == ""
        assert done.code == (3 if code == "unknown_plan" else 2)
        assert done.error["code"] == code
        assert says in done.error["message"], done.error


def test_models_of_other_vocabularies_are_not_compared(engine: Engine, tiny: Tiny) -> None:
    other = tiny.folder / "other.gguf"
    write_llama(other, layers=1)
    data = other.read_bytes()
    # The same vocabulary with two letters exchanged: every id is valid, and means something else.
    swapped = data.replace(
        b"\x01\0\0\0\0\0\0\0a\x01\0\0\0\0\0\0\0b", b"\x01\0\0\0\0\0\0\0b\x01\0\0\0\0\0\0\0a", 1
    )
    assert swapped != data
    other.write_bytes(swapped)
    plans = tiny.plan("q8_0", "q8_0"), tiny.plan("other", "q8_0", "other.gguf")
    done = engine("eval", *plans, "-f", tiny.text, "-c", WINDOW, "--json")
    assert done.code == 2
    assert done.error["code"] == "vocabularies_differ"


def test_models_of_other_tensors_are_compared_by_their_predictions_only(engine: Engine, tiny: Tiny) -> None:
    write_llama(tiny.folder / "wide.gguf", layers=1, ffn=768)
    flatten(tiny.folder / "wide.gguf")
    plans = tiny.plan("wide", "q8_0", "wide.gguf"), tiny.plan("original", "f32")
    done = engine("eval", plans[0], "--reference", plans[1], "-f", tiny.text, "-c", WINDOW, "--json")
    assert done.code == 0, done.err
    (row,) = done.json["evaluations"]
    assert "weights_error" not in row
    assert row["kl_divergence"]["mean"] > 0.01
    assert "no error of the weights" in done.err


def test_a_model_that_overflows_is_named(engine: Engine, tiny: Tiny) -> None:
    path = tiny.folder / "broken.gguf"
    write_llama(path, layers=1)
    (norm,) = (t for t in gguf.GGUFReader(path, "r+").tensors if t.name == "output_norm.weight")
    norm.data[:] = 3e38
    plan = tiny.plan("broken", "f16", "broken.gguf")
    done = engine("eval", plan, "-f", tiny.text, "-c", WINDOW, "--reference", "none", "--json")
    assert (done.code, done.out) == (8, "")
    assert (done.error["code"], done.error["path"]) == ("numeric_error", "broken (f16)")


def test_a_bundle_is_not_a_plan(engine: Engine, tiny: Tiny) -> None:
    folder = engine("compile", tiny.plan("q8_0", "q8_0"), "--json").json["folder"]
    done = engine("eval", folder, "-f", tiny.text, "--json")
    assert done.code == 2
    assert done.error["code"] == "plan_needed"


def test_the_text_may_come_from_a_pipe(tiny: Tiny) -> None:
    plan = tiny.plan("q8_0", "q8_0")
    command = [sys.executable, "-m", "runtime.cli", "eval", str(plan), "-f", "-", "-c", str(WINDOW), "--json"]
    with tiny.text.open("rb") as text:
        done = subprocess.run(command, stdin=text, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text"]["file"] == "-"
