"""Importance matrices are read as llama-imatrix writes them, and only for the model they belong to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf_files import write_gguf
from quantize_models import describe

from compiler.quantize.imatrix import FLOOR, read_importance
from runtime.errors import EngineError

NAME = "blk.0.ffn_down_exps.weight"


def write(path: Path, sums: np.ndarray, counts: np.ndarray, name: str = NAME) -> Path:
    tensors = {f"{name}.in_sum2": (sums, "f32"), f"{name}.counts": (counts, "f32")}
    return write_gguf(path, {key: (v.astype(np.float32), t) for key, (v, t) in tensors.items()})


def test_columns_are_mean_squares_relative_to_their_matrix(tmp_path: Path):
    sums = np.array([[2.0, 6.0, 4.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    found = read_importance(write(tmp_path / "i.gguf", sums, np.array([[4.0], [0.0]])))
    columns = found.columns[NAME]
    assert columns.dtype == np.float32
    assert columns[0] == pytest.approx([2 / 3, 2.0, 4 / 3, FLOOR])
    assert columns[1] == pytest.approx([1, 1, 1, 1])  # an expert that was never chosen
    model = describe({NAME: ((2, 8, 4), "f16"), "blk.0.attn_q.weight": ((8, 4), "f16")})
    found.check(model)
    assert found.for_tensor(model.tensors[NAME]).shape == (2, 4)
    assert found.for_tensor(model.tensors["blk.0.attn_q.weight"]) is None


def test_one_matrix_serves_all_experts(tmp_path: Path):
    found = read_importance(write(tmp_path / "i.gguf", np.ones((1, 4)), np.ones((1, 1))))
    tensor = describe({NAME: ((3, 8, 4), "f16")}).tensors[NAME]
    assert np.array_equal(found.for_tensor(tensor), np.ones((3, 4)))


@pytest.mark.parametrize("shape", [(2, 8, 5), (3, 8, 4)])
def test_a_matrix_of_another_shape_is_refused(tmp_path: Path, shape):
    found = read_importance(write(tmp_path / "i.gguf", np.ones((2, 4)), np.ones((2, 1))))
    with pytest.raises(EngineError) as caught:
        found.check(describe({NAME: (shape, "f16")}))
    assert caught.value.code == "importance_matrix_mismatch"


def test_a_matrix_of_another_model_is_refused(tmp_path: Path):
    found = read_importance(write(tmp_path / "i.gguf", np.ones((1, 4)), np.ones((1, 1))))
    with pytest.raises(EngineError) as caught:
        found.check(describe({"output.weight": ((8, 4), "f16")}))
    assert caught.value.code == "importance_matrix_mismatch"


@pytest.mark.parametrize(
    ("sums", "counts"),
    [
        (np.array([[1.0, -1.0]]), np.ones((1, 1))),
        (np.array([[1.0, np.nan]]), np.ones((1, 1))),
        (np.ones((1, 2)), np.array([[np.inf]])),
        (np.ones((2, 2)), np.ones((1, 1))),
    ],
)
def test_values_no_calibration_gives_are_refused(tmp_path: Path, sums, counts):
    with pytest.raises(EngineError) as caught:
        read_importance(write(tmp_path / "i.gguf", sums, counts))
    assert caught.value.code == "bad_importance_matrix"


def test_other_files_are_refused(tmp_path: Path):
    cases = {
        "missing": tmp_path / "none.gguf",
        "model": write_gguf(tmp_path / "m.gguf", {"output.weight": (np.ones((2, 2), np.float32), "f32")}),
        "no counts": write_gguf(tmp_path / "c.gguf", {"a.in_sum2": (np.ones((1, 2), np.float32), "f32")}),
    }
    for path in cases.values():
        with pytest.raises(EngineError) as caught:
            read_importance(path)
        assert caught.value.code == "bad_importance_matrix"
    text = tmp_path / "imatrix.dat"
    text.write_bytes(b"\x01\x00\x00\x00" * 20)
    with pytest.raises(EngineError) as caught:
        read_importance(text)
    assert caught.value.code == "bad_gguf"
