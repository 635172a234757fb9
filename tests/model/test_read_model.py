"""A well-formed model is described as it is, and its rows are the file's bytes."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from pathlib import Path

import gguf
import numpy as np
import pytest

from compiler.model.reader import decodable, open_rows, read_model
from runtime.bundle.digests import QUIET_NS
from runtime.errors import EXIT_MODEL, EngineError


@pytest.fixture
def path(write_model, tmp_path: Path) -> Path:
    return write_model(tmp_path / "tiny.gguf")


def test_metadata_and_tensors_are_those_of_the_gguf_reader(path: Path) -> None:
    model = read_model(path)
    theirs = gguf.GGUFReader(path)
    assert model.architecture == "llama"
    assert model.name == "tiny"
    assert {name for name in theirs.fields if not name.startswith("GGUF.")} == set(model.metadata)
    for name, value in model.metadata.items():
        expected = theirs.fields[name].contents()
        assert (list(value) if isinstance(value, tuple) else value) == expected
    assert [tensor.name for tensor in theirs.tensors] == list(model.tensors)
    for tensor in theirs.tensors:
        mine = model.tensors[tensor.name]
        assert mine.shape == tuple(reversed(tensor.shape.tolist()))
        assert (mine.offset, mine.nbytes) == (tensor.data_offset, tensor.n_bytes)
        assert mine.type == tensor.tensor_type.name.lower()


def test_rows_are_the_bytes_of_the_file(path: Path) -> None:
    model = read_model(path)
    data = path.read_bytes()
    with open_rows(model) as rows:
        for tensor in model.tensors.values():
            count = int(np.prod(tensor.shape[:-1]))
            whole = rows(tensor, 0, count)
            assert whole.dtype == np.uint8
            assert whole.shape == (count, tensor.nbytes // count)
            assert whole.tobytes() == data[tensor.offset : tensor.offset + tensor.nbytes]
            assert rows(tensor, count - 1, count).tobytes() == whole[-1].tobytes()
            assert rows(tensor, 0, 0).shape == (0, whole.shape[1])
            with pytest.raises(ValueError, match="rows"):
                rows(tensor, 0, count + 1)


def test_float32_decodes_every_type_alike(path: Path) -> None:
    model = read_model(path)
    with open_rows(model) as rows:
        exact = rows.float32(model.tensors["blk.0.ffn_up_exps.weight"])
        near = rows.float32(model.tensors["blk.0.ffn_down_exps.weight"])
        second = rows.float32(model.tensors["blk.0.ffn_up_exps.weight"], 1, 3)
    assert exact.shape == near.shape == (2, 3, 64)
    assert exact.dtype == np.float32
    assert second.tobytes() == exact.reshape(6, 64)[1:3].tobytes()
    assert 0 < np.abs(exact - near).max() < 0.05


@pytest.mark.parametrize("kind", gguf.GGMLQuantizationType)
def test_every_type_that_gguf_decodes_is_decoded(kind, tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(1).integers(0, 120, (3, size * (256 // min(block, 256))), np.uint8)
    writer.add_tensor("t.weight", raw, raw_shape=raw.shape, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = read_model(tmp_path / "m.gguf")
    tensor = model.tensors["t.weight"]
    with open_rows(model) as rows:
        if decodable(tensor.type):
            assert rows.float32(tensor).shape == tensor.shape == (3, 256)
        else:
            with pytest.raises(EngineError, match="cannot be decoded") as caught:
                rows.float32(tensor)
            assert caught.value.code == "unsupported_tensor_type"
    numbers = {"f32", "f16", "bf16", "f64", "i8", "i16", "i32", "i64"}
    known = {"q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_xs"}
    if tensor.type in numbers | known:
        assert decodable(tensor.type)


def test_the_digest_is_that_of_the_content_wherever_the_file_lies(path: Path, tmp_path: Path) -> None:
    first = read_model(path).digest
    assert first == hashlib.sha256(path.read_bytes()).hexdigest()
    moved = path.rename(tmp_path / "elsewhere.gguf")
    assert read_model(moved).digest == first


def test_a_remembered_digest_is_dropped_when_the_file_changes(path: Path) -> None:
    time.sleep(2 * QUIET_NS / 1e9)
    calls: list[int] = []
    first = read_model(path, lambda done, total: calls.append(done)).digest
    assert calls
    calls.clear()
    assert read_model(path, lambda done, total: calls.append(done)).digest == first
    assert not calls
    before = path.stat()
    with path.open("r+b") as file:  # in place, same size, and the old time of change put back
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert read_model(path).digest == hashlib.sha256(path.read_bytes()).hexdigest() != first


def test_a_planted_digest_is_not_believed(path: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    time.sleep(2 * QUIET_NS / 1e9)
    right = read_model(path).digest
    (entry,) = (tmp_path / "cache/engine/digests").iterdir()
    assert entry.stat().st_mode & 0o077 == 0
    for text, mode in (("0" * 64, 0o622), ("not a digest", 0o600), ("", 0o600)):
        entry.write_text(text)
        entry.chmod(mode)
        assert read_model(path).digest == right


def test_a_file_replaced_after_its_description_is_noticed(write_model, path: Path) -> None:
    model = read_model(path)
    path.unlink()
    write_model(path, seed=2)
    with pytest.raises(EngineError) as caught:
        open_rows(model)
    assert caught.value.code == "model_changed"


def test_a_file_truncated_while_open_is_an_error_not_a_crash(path: Path) -> None:
    model = read_model(path)
    with open_rows(model) as rows:
        os.truncate(path, 200)
        with pytest.raises(EngineError) as caught:
            rows.float32(model.tensors["blk.0.attn_q.weight"])
        assert caught.value.code == "model_changed"
        with pytest.raises(EngineError):
            rows.check_unchanged()


@pytest.mark.parametrize("call", ["pread", "preadv"])
def test_a_disk_that_fails_is_an_error_not_a_traceback(call: str, path: Path, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(EngineError, match="Input/output error") as caught:
        read_model(path)
    assert caught.value.code == "model_unreadable"


def test_any_part_of_a_split_model_names_it_all(write_model, tmp_path: Path) -> None:
    write_model(tmp_path / "tiny.gguf", split=2)
    parts = sorted(tmp_path.glob("tiny-*-of-00003.gguf"))
    assert len(parts) == 3
    whole = read_model(write_model(tmp_path / "whole.gguf"))
    for part in parts:
        model = read_model(part)
        assert model.path == parts[0]
        assert [file for file, _ in model.files] == parts
        assert list(model.tensors) == list(whole.tensors)
        assert model.digest == hashlib.sha256(b"".join(p.read_bytes() for p in parts)).hexdigest()
    with open_rows(model) as rows, open_rows(whole) as all_rows:
        for name, tensor in model.tensors.items():
            assert rows.float32(tensor).tobytes() == all_rows.float32(whole.tensors[name]).tobytes()


def test_a_split_model_that_lacks_a_part_names_it(write_model, tmp_path: Path) -> None:
    write_model(tmp_path / "tiny.gguf", split=2)
    (tmp_path / "tiny-00002-of-00003.gguf").unlink()
    with pytest.raises(EngineError, match=r"tiny-00002-of-00003\.gguf") as caught:
        read_model(tmp_path / "tiny-00001-of-00003.gguf")
    assert caught.value.code == "model_part_missing"


def test_parts_in_the_wrong_places_are_refused(write_model, tmp_path: Path) -> None:
    write_model(tmp_path / "tiny.gguf", split=2)
    one, two = (tmp_path / f"tiny-0000{n}-of-00003.gguf" for n in (1, 2))
    first, second = one.read_bytes(), two.read_bytes()
    two.write_bytes(first)
    with pytest.raises(EngineError, match=r"split\.no"):
        read_model(one)
    two.write_bytes(second)
    alone = tmp_path / "alone.gguf"
    alone.write_bytes(first)
    with pytest.raises(EngineError, match=r"split\.count"):
        read_model(alone)


@pytest.mark.parametrize("name", ["x-00000-of-00002.gguf", "x-00003-of-00002.gguf", "x-00001-of-99999.gguf"])
def test_impossible_part_numbers_are_refused(name: str, tmp_path: Path, model_bytes: bytes) -> None:
    (tmp_path / name).write_bytes(model_bytes)
    with pytest.raises(EngineError):
        read_model(tmp_path / name)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.gguf")
    for path in (
        tmp_path,
        tmp_path / "fifo.gguf",
        tmp_path / "missing.gguf",
        Path("/dev/zero"),
        Path("a\0b"),
    ):
        with pytest.raises(EngineError) as caught:
            read_model(path)
        assert caught.value.code == "model_unreadable"
        assert caught.value.exit_code == EXIT_MODEL


def test_the_shared_vocabularies_and_models_are_read(shared_data: Path) -> None:
    files = sorted(shared_data.glob("*/*.gguf"))
    assert files
    for path in files:
        model = read_model(path)
        assert model.metadata["general.architecture"] == model.architecture
        assert bool(model.tensors) == (path.parent.name != "vocab")
