"""``weights.bin`` holds exactly the encoders' blocks, wherever threads and pieces fall."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf_files import write_gguf

from compiler.formats import FORMATS, panel_bytes
from compiler.model.reader import read_model
from compiler.quantize import encode, stream, weights
from compiler.quantize.imatrix import ImportanceMatrix
from compiler.quantize.weights import PackedTensor, weights_key, weights_size, write_weights
from runtime.errors import EngineError

RNG = np.random.default_rng(11)


def gaussian(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def place(*tensors: tuple[str, str, int, int, int, bool]) -> list[PackedTensor]:
    """(name, format, stack, rows, k, panels) one after the other, each aligned to 64 bytes."""
    placed: list[PackedTensor] = []
    offset = 0
    for tensor in tensors:
        placed.append(PackedTensor(*tensor, offset=offset))
        offset += -(-placed[-1].nbytes // 64) * 64
    return placed


def blocks_of(data: bytes, tensor: PackedTensor, matrix: int, source: np.ndarray) -> None:
    """Asserts that a matrix's panels are the panels of ``source``'s rows, padded with zero rows."""
    size = panel_bytes(tensor.format, tensor.k)
    start = tensor.offset + matrix * (tensor.nbytes // tensor.stack)
    for panel in range(-(-tensor.rows // 16)):
        rows = source[panel * 16 : panel * 16 + 16]
        rows = np.concatenate([rows, np.zeros((16 - len(rows), rows.shape[1]), np.uint8)])
        at = start + panel * size
        assert data[at : at + size] == FORMATS[tensor.format].pack_panel(rows, tensor.k).tobytes(), (
            tensor,
            panel,
        )


@pytest.fixture(params=[1 << 20, 700])
def piece_weights(request, monkeypatch) -> int:
    monkeypatch.setattr(stream, "PIECE_WEIGHTS", request.param)
    return request.param


@pytest.mark.parametrize("format", list(FORMATS))
@pytest.mark.parametrize("stored", ["f32", "f16", "bf16"])
def test_panels_hold_the_encoders_blocks(tmp_path: Path, piece_weights, format, stored):
    model = read_model(
        write_gguf(
            tmp_path / "m.gguf", {"a": (gaussian(40, 512), stored), "e": (gaussian(3, 21, 256), stored)}
        )
    )
    tensors = place(("a", format, 1, 40, 512, True), ("e", format, 3, 21, 256, True))
    write_weights(model, tensors, tmp_path / "w")
    data = (tmp_path / "w").read_bytes()
    assert len(data) == weights_size(tensors)
    with weights.open_rows(model) as rows:
        for tensor in tensors:
            x = rows.float32(model.tensors[tensor.name]).reshape(tensor.stack, tensor.rows, tensor.k)
            for matrix in range(tensor.stack):
                blocks_of(data, tensor, matrix, FORMATS[format].encode_rows(x[matrix]))


@pytest.mark.parametrize("format", ["q8_0", "q6_k", "q5_0", "q4_k", "iq4_nl"])
def test_a_tensor_of_the_wanted_type_keeps_its_bytes(tmp_path: Path, format):
    raw = RNG.integers(0, 256, (35, FORMATS[format].row_bytes(512)), dtype=np.uint8)
    model = read_model(write_gguf(tmp_path / "m.gguf", {"a": (raw, format)}))
    (tensor,) = place(("a", format, 1, 35, 512, True))
    write_weights(model, [tensor], tmp_path / "w")
    blocks_of((tmp_path / "w").read_bytes(), tensor, 0, raw)


def test_vectors_are_plain_floats_and_gaps_are_zeros(tmp_path: Path):
    norm, small = gaussian(100), gaussian(3, 7)
    model = read_model(write_gguf(tmp_path / "m.gguf", {"n": (norm, "f32"), "s": (small, "bf16")}))
    tensors = place(("n", "f32", 1, 1, 100, False), ("s", "f32", 1, 3, 7, False))
    write_weights(model, tensors, tmp_path / "w")
    data = (tmp_path / "w").read_bytes()
    assert data[:400] == norm.tobytes()
    assert data[400:448] == bytes(48)
    assert tensors[1].offset == 448
    expected = FORMATS["bf16"].decode_rows(FORMATS["bf16"].encode_rows(small))
    assert data[448 : 448 + 84] == expected.tobytes()
    assert data[448 + 84 :] == bytes(len(data) - 448 - 84)
    assert len(data) == 4096


def test_bytes_are_the_same_for_any_number_of_threads_and_pieces(tmp_path: Path, monkeypatch):
    model = read_model(
        write_gguf(tmp_path / "m.gguf", {"a": (gaussian(200, 512), "f16"), "b": (gaussian(64, 256), "f16")})
    )
    tensors = place(("a", "q4_k", 1, 200, 512, True), ("b", "q6_k", 1, 64, 256, True))
    results = set()
    for threads, piece in ((1, 1 << 20), (2, 5000), (3, 1)):
        monkeypatch.setattr(stream, "PIECE_WEIGHTS", piece)
        write_weights(model, tensors, tmp_path / "w", threads=threads)
        results.add((tmp_path / "w").read_bytes())
    assert len(results) == 1


def test_progress_ends_at_the_whole(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(stream, "PIECE_WEIGHTS", 4096)
    model = read_model(write_gguf(tmp_path / "m.gguf", {"a": (gaussian(64, 512), "f16")}))
    tensors = place(("a", "q8_0", 1, 64, 512, True))
    heard: list[tuple[int, int, str]] = []
    write_weights(model, tensors, tmp_path / "w", lambda *report: heard.append(report))
    done = [report[0] for report in heard]
    assert len(heard) == 4
    assert done == sorted(done)
    assert heard[-1] == (tensors[0].nbytes, tensors[0].nbytes, "a")


def test_a_bad_weight_names_its_tensor_and_place(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(stream, "PIECE_WEIGHTS", 512 * 16)
    experts = gaussian(2, 40, 512)
    experts[1, 33, 4] = np.nan
    model = read_model(write_gguf(tmp_path / "m.gguf", {"blk.0.x": (experts, "f32")}))
    with pytest.raises(EngineError) as caught:
        write_weights(model, place(("blk.0.x", "q4_k", 2, 40, 512, True)), tmp_path / "w")
    assert caught.value.code == "weight_not_finite"
    assert "blk.0.x holds nan in row 73, column 4" in caught.value.message


def test_a_full_disk_is_found_before_the_work(tmp_path: Path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(encode, "encode", lambda *a, **k: pytest.fail("worked before it knew"))
    model = read_model(write_gguf(tmp_path / "m.gguf", {"a": (gaussian(16, 256), "f32")}))
    with pytest.raises(EngineError) as caught:
        write_weights(model, place(("a", "q8_0", 1, 16, 256, True)), tmp_path / "w")
    assert caught.value.code == "disk_full"


def test_a_model_replaced_meanwhile_is_refused(tmp_path: Path):
    path = write_gguf(tmp_path / "m.gguf", {"a": (gaussian(16, 256), "f32")})
    model = read_model(path)
    write_gguf(path, {"a": (gaussian(16, 256), "f16")})
    with pytest.raises(EngineError) as caught:
        write_weights(model, place(("a", "q8_0", 1, 16, 256, True)), tmp_path / "w")
    assert caught.value.code == "model_changed"


def test_importance_reaches_each_expert(tmp_path: Path):
    experts = gaussian(2, 16, 256)
    columns = np.stack([np.linspace(0.01, 2, 256), np.linspace(2, 0.01, 256)]).astype(np.float32)
    model = read_model(write_gguf(tmp_path / "m.gguf", {"e": (experts, "f32")}))
    (tensor,) = place(("e", "q4_k", 2, 16, 256, True))
    importance = ImportanceMatrix(Path("imatrix.gguf"), {"e": columns})
    write_weights(model, [tensor], tmp_path / "w", importance=importance)
    data = (tmp_path / "w").read_bytes()
    for matrix in range(2):
        blocks_of(data, tensor, matrix, FORMATS["q4_k"].encode_rows(experts[matrix], columns[matrix]))


def test_the_key_follows_everything_the_bytes_follow(tmp_path: Path):
    a = read_model(write_gguf(tmp_path / "a.gguf", {"a": (gaussian(16, 256), "f32")}))
    b = read_model(write_gguf(tmp_path / "b.gguf", {"a": (gaussian(16, 256), "f32")}))
    one = place(("a", "q8_0", 1, 16, 256, True))
    other = place(("a", "q6_k", 1, 16, 256, True))
    keys = [weights_key(a, one), weights_key(b, one), weights_key(a, other), weights_key(a, one, "0" * 64)]
    assert len(set(keys)) == 4
    assert weights_key(a, one) == keys[0]
    assert len(keys[0]) == 64


def test_a_requantized_tensor_goes_through_its_decoded_weights(tmp_path: Path):
    raw = {
        name: FORMATS[name].encode_rows(gaussian(16, 512))
        for name in ("q8_0", "q6_k", "q5_0", "q4_k", "iq4_nl")
    }
    old = gguf.quants.quantize(gaussian(16, 512), gguf.GGMLQuantizationType.Q4_1)
    model = read_model(
        write_gguf(
            tmp_path / "m.gguf", {**{n: (blocks, n) for n, blocks in raw.items()}, "old": (old, "q4_1")}
        )
    )
    tensors = place(*((name, "f32", 1, 16, 512, True) for name in (*raw, "old")))
    write_weights(model, tensors, tmp_path / "w")
    data = (tmp_path / "w").read_bytes()
    with weights.open_rows(model) as rows:
        for tensor in tensors:
            blocks_of(data, tensor, 0, rows.float32(model.tensors[tensor.name]).view(np.uint8))


def test_q4_0_becomes_q5_0_of_the_same_values(tmp_path: Path):
    raw = gguf.quants.quantize(gaussian(40, 96), gguf.GGMLQuantizationType.Q4_0)
    raw[:, 2:18] = np.random.default_rng(1).integers(0, 256, (40, 16))  # any nibbles, not just an encoder's
    model = read_model(write_gguf(tmp_path / "m.gguf", {"a": (raw, "q4_0")}))
    (tensor,) = place(("a", "q5_0", 1, 40, 96, True))
    write_weights(model, [tensor], tmp_path / "w")
    with weights.open_rows(model) as rows:
        piece = next(iter(stream.pieces(model.tensors["a"])))
        blocks = piece.encode(piece.read(rows), "q5_0")
        values = rows.float32(model.tensors["a"])
    blocks_of((tmp_path / "w").read_bytes(), tensor, 0, blocks)
    assert gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q5_0).tobytes() == values.tobytes()


def test_a_quantized_tensor_with_a_broken_scale_is_refused_where_it_is_decoded(tmp_path: Path):
    raw = FORMATS["q8_0"].encode_rows(gaussian(16, 256))
    raw[7, 34:36] = np.array([np.nan], np.float16).view(np.uint8)
    model = read_model(write_gguf(tmp_path / "m.gguf", {"a": (raw, "q8_0")}))
    with pytest.raises(EngineError) as caught:
        write_weights(model, place(("a", "q4_k", 1, 16, 256, True)), tmp_path / "w")
    assert "row 7, column 32" in caught.value.message
