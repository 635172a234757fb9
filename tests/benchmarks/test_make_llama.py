"""The models the benchmarks run on are valid, repeatable and numerically tame."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import make_llama
from make_llama import Shape, make, tensors, vocabulary

SMALL = Shape(dim=256, layers=2, ffn=512, heads=4, kv_heads=2, vocabulary=1024)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "shape",
    [
        SMALL,
        dataclasses.replace(SMALL, type="f32"),
        dataclasses.replace(SMALL, type="bf16"),
        dataclasses.replace(SMALL, experts=4, experts_used=2),
    ],
    ids=["f16", "f32", "bf16", "experts"],
)
def test_the_file_holds_what_its_header_says(tmp_path: Path, shape: Shape) -> None:
    path = tmp_path / "m.gguf"
    make(path, shape)
    reader = gguf.GGUFReader(path)
    found = {t.name: tuple(int(n) for n in reversed(t.shape)) for t in reader.tensors}
    assert found == {p.name: p.shape for p in tensors(shape)}
    assert reader.tensors[-1].data_offset + reader.tensors[-1].n_bytes <= path.stat().st_size
    for tensor, plan in zip(reader.tensors, tensors(shape), strict=True):
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.std(values) == pytest.approx(plan.deviation, rel=0.15)
        assert np.mean(values) == pytest.approx(plan.mean, abs=0.15 * max(plan.mean, plan.deviation))


def test_the_seed_decides_every_byte_and_the_block_size_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "a.gguf", SMALL)
    monkeypatch.setattr(make_llama, "BLOCK_VALUES", 1000)
    make(tmp_path / "b.gguf", SMALL)
    make(tmp_path / "c.gguf", dataclasses.replace(SMALL, seed=1))
    assert digest(tmp_path / "a.gguf") == digest(tmp_path / "b.gguf") != digest(tmp_path / "c.gguf")


@pytest.mark.parametrize("size", [512, 1024, 32000, 128256])
def test_every_merge_joins_two_earlier_tokens(size: int) -> None:
    tokens, merges, specials = vocabulary(size)
    assert len(tokens) == len(set(tokens)) == size
    place = {token: n for n, token in enumerate(tokens)}
    for n, merge in enumerate(merges, 256):
        left, right = merge.split(" ")
        assert max(place[left], place[right]) < n
        assert tokens[n] == left + right
    assert 256 + len(merges) + specials == size


def test_the_default_is_the_1_24_billion_llama() -> None:
    assert sum(int(np.prod(p.shape)) for p in tensors(Shape())) == 1_235_814_400


@pytest.mark.parametrize(
    "wrong",
    [
        {"kv_heads": 3},
        {"experts": 4},
        {"experts_used": 2},
        {"experts": 2, "experts_used": 4},
        {"vocabulary": 200},
    ],
)
def test_sizes_that_make_no_model_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(SystemExit, match="--"):
        make(tmp_path / "m.gguf", dataclasses.replace(SMALL, **wrong))
    assert not (tmp_path / "m.gguf").exists()
