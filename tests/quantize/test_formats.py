"""NumPy defines the formats; C gives the same bytes; both stay near the weights they were given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.formats import FORMATS
from compiler.formats.parts.scales import half_scale
from compiler.model.description import Tensor
from compiler.quantize import encode
from runtime.errors import EngineError

QUANTIZED = [name for name, format in FORMATS.items() if format.quantized]
ENCODED = list(FORMATS)


def rmse(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(((a.astype(np.float64) - b) ** 2).mean()))


def gaussian(rows: int, k: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, k)) * 0.02).astype(np.float32)


@pytest.mark.parametrize("name", ENCODED)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_decoding_gives_the_bits_of_gguf(name):
    format = FORMATS[name]
    blocks = np.random.default_rng(1).integers(0, 256, (3000, format.block_bytes), dtype=np.uint8)
    ours = format.decode(blocks)
    theirs = quants.dequantize(blocks, GGMLQuantizationType[name.upper()])
    assert np.array_equal(ours.view(np.uint32), theirs.reshape(ours.shape).view(np.uint32))


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_c_decodes_to_the_same_bits(name):
    format = FORMATS[name]
    blocks = np.random.default_rng(2).integers(0, 256, (40, 4 * format.block_bytes), dtype=np.uint8)
    ours = encode.dequantize(blocks, name, 4 * format.block)
    expected = format.decode_rows(blocks)
    finite = np.isfinite(expected)
    assert np.array_equal(ours[finite].view(np.uint32), expected[finite].view(np.uint32))
    assert not np.isfinite(ours[~finite]).any()


@pytest.mark.parametrize("name", ENCODED)
def test_geometry_is_ggufs(name):
    format = FORMATS[name]
    assert quants.GGML_QUANT_SIZES[GGMLQuantizationType[name.upper()]] == (format.block, format.block_bytes)
    assert format.row_bytes(4 * format.block) == 4 * format.block_bytes
    if format.block > 1:
        with pytest.raises(ValueError, match="whole number"):
            format.row_bytes(format.block + 1)


_VALUES = {
    "ordinary": st.floats(-2, 2, width=32),
    "tiny": st.floats(-(2.0**-20), 2.0**-20, width=32),
    "large": st.floats(-60000, 60000, width=32),
    "few": st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, -3e-8, 6e-8]),
}


@pytest.mark.parametrize("name", ENCODED)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_c_and_numpy_encode_to_the_same_bytes(name, data):
    format = FORMATS[name]
    k = max(format.block, 32) * data.draw(st.integers(1, 3))
    kind = data.draw(st.sampled_from(sorted(_VALUES)))
    rows = data.draw(st.integers(1, 3))
    row = st.lists(_VALUES[kind], min_size=32, max_size=32)
    pattern = np.array(data.draw(row), np.float32)
    noise = np.random.default_rng(data.draw(st.integers(0, 99))).permuted(np.tile(pattern, rows * k // 32))
    x = noise.reshape(rows, k).astype(np.float32)
    importance = None
    if data.draw(st.booleans()):
        importance = np.random.default_rng(3).gamma(0.5, size=k).astype(np.float32) + np.float32(1e-3)
    assert np.array_equal(encode.encode(x, name, importance), format.encode_rows(x, importance))


@pytest.mark.parametrize("name", ENCODED)
def test_many_random_blocks_encode_to_the_same_bytes(name):
    rng = np.random.default_rng(4)
    k = max(FORMATS[name].block, 32) * 3
    for scale in (1e-9, 1e-6, 1e-3, 1.0, 500.0):
        for x in (
            rng.standard_normal((40, k)),
            rng.laplace(size=(40, k)),
            np.abs(rng.standard_normal((40, k))),
        ):
            x = (x * scale).astype(np.float32)
            assert np.array_equal(encode.encode(x, name), FORMATS[name].encode_rows(x)), scale


@pytest.mark.parametrize("name", ENCODED)
def test_zeros_stay_zeros(name):
    x = np.zeros((2, 512), np.float32)
    assert not FORMATS[name].decode_rows(encode.encode(x, name)).any()


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("size", [2.0**-23, 1e-5, 1e-3, 1.0, 1e4, "limit"])
def test_no_weight_is_further_than_its_blocks_step(name, size):
    """Half a step of the plain uniform grid over the block's range, with room for the lottery of scales."""
    format = FORMATS[name]
    size = format.limit if size == "limit" else size
    steps = {
        **{"q8_0": 127, "q6_k": 31, "q5_k": 15.5, "q5_1": 15.5, "q5_0": 15},
        **{"q4_1": 7.5, "q4_0": 7, "q4_k": 7.5, "iq4_nl": 7, "q3_k": 3.5, "q2_k": 1.5},
    }[name]
    x = (np.random.default_rng(5).uniform(-1, 1, (64, 512)) * size).astype(np.float32)
    x[0, 0] = size
    error = np.abs(format.decode_rows(encode.encode(x, name)) - x).max()
    assert error <= 1.3 * size / steps + 2.0**-24 * steps


@pytest.mark.parametrize("name", ENCODED)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_refused_by_name(name, bad):
    x = gaussian(5, 512)
    x[3, 77] = bad
    with pytest.raises(EngineError) as caught:
        encode.encode(x, name, name="blk.0.attn_q.weight", begin=16)
    assert caught.value.code == "weight_not_finite"
    assert "blk.0.attn_q.weight" in caught.value.message
    assert "row 19, column 77" in caught.value.message
    with pytest.raises(ValueError, match="NaN or infinite"):
        FORMATS[name].encode_rows(x)


@pytest.mark.parametrize("name", [name for name in ENCODED if name != "f32"])
def test_a_weight_beyond_the_format_is_refused_by_name(name):
    limit = np.float32(FORMATS[name].limit)
    x = gaussian(2, 512)
    x[1, 5] = -limit
    encode.encode(x, name)
    x[1, 5] = np.nextafter(-limit, np.float32(-np.inf))
    with pytest.raises(EngineError) as caught:
        encode.encode(x, name, name="output.weight")
    assert caught.value.code == "weight_out_of_range"
    assert "row 1, column 5" in caught.value.message
    with pytest.raises(ValueError, match="beyond"):
        FORMATS[name].encode_rows(x)


@pytest.mark.parametrize("name", ["q8_0", "q5_1", "q5_0", "q4_1", "q4_0"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("draw", ["standard_normal", "laplace"])
def test_the_error_is_below_the_reference_encoders(name, weighted, draw):
    """Per tensor, and weighted by column where importance is given."""
    rng = np.random.default_rng(len(draw))
    x = (getattr(rng, draw)(size=(64, 512)) * 0.02).astype(np.float32)
    importance = (rng.gamma(0.5, size=512) + 1e-3).astype(np.float32) if weighted else None
    root = np.ones(512) if importance is None else np.sqrt(importance)
    kind = GGMLQuantizationType[name.upper()]
    theirs = rmse(quants.dequantize(quants.quantize(x, kind), kind) * root, x * root)
    ours = rmse(FORMATS[name].decode_rows(encode.encode(x, name, importance)) * root, x * root)
    assert ours < (0.9 if weighted else 0.98) * theirs


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("q8_0", 0.0051),
        ("q6_k", 0.0166),
        ("q5_k", 0.0352),
        ("q5_1", 0.0337),
        ("q5_0", 0.041),
        ("q4_1", 0.0694),
        ("q4_0", 0.0817),
        ("q4_k", 0.0703),
        ("q3_k", 0.146),
        ("q2_k", 0.263),
        ("iq4_nl", 0.0736),
    ],
)
def test_the_error_on_gaussian_weights_stays_where_it_was_measured(name, bound):
    """Relative root mean square error. llama.cpp's encoders: 0.0054, 0.0178, 0.0379, 0.0428,
    0.0783, 0.0861, 0.0713; of iq4_nl 0.0762."""
    x = gaussian(128, 1024)
    assert rmse(FORMATS[name].decode_rows(encode.encode(x, name)), x) / rmse(x, np.zeros_like(x)) < bound


@pytest.mark.parametrize("name", QUANTIZED)
def test_importance_moves_the_error_where_it_matters_less(name):
    x = gaussian(64, 512)
    importance = np.where(np.arange(512) % 2 == 0, 1.0, 0.01).astype(np.float32)
    plain = FORMATS[name].decode_rows(encode.encode(x, name)) - x
    weighted = FORMATS[name].decode_rows(encode.encode(x, name, importance)) - x
    assert (weighted[:, ::2] ** 2).sum() < (plain[:, ::2] ** 2).sum()


@pytest.mark.parametrize("name", QUANTIZED)
def test_what_a_format_holds_exactly_stays_exact(name):
    """Encoding decoded weights again changes little: the same grid is found or a better one."""
    format = FORMATS[name]
    once = format.decode_rows(encode.encode(gaussian(16, 512), name))
    twice = format.decode_rows(encode.encode(once, name))
    assert rmse(twice, once) < rmse(once, gaussian(16, 512))


@given(st.floats(-70000, 70000, width=32))
def test_a_half_scale_is_a_half_and_never_clips_a_tiny_block(value):
    v = np.array([value], np.float32)
    scale = half_scale(v)
    assert scale.astype(np.float16).astype(np.float32) == scale
    assert np.isfinite(scale).all()
    if abs(value) < 2.0**-14:
        assert np.abs(scale) >= np.abs(v)


def test_floats_widen_exactly():
    bits = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    raw = bits.view(np.uint8)
    for type, expected in (
        ("f16", bits.view(np.float16).astype(np.float32)),
        ("bf16", (bits.astype(np.uint32) << 16).view(np.float32)),
    ):
        wide = encode.widen(raw, Tensor("t", (256, 256), type, Path("t"), 0, raw.size))
        number = ~np.isnan(expected)
        assert np.array_equal(wide[number].view(np.uint32), expected[number].view(np.uint32))
        assert np.isnan(wide[~number]).all()
